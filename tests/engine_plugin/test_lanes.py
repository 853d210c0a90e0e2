"""Receipts over journalled credits: cumulative, in credit order, and safe at any crash."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import EPOCH, digest_of, entitlement, key_of, seed_of

from engine_plugin import lanes as lanes_module
from engine_plugin.disk_sync import DiskSync
from engine_plugin.errors import JournalError
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import (
    CreditedBlock,
    MeterBatch,
    PeerKey,
    PeerUpdate,
    Source,
)
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.merkle import root_hash
from ledger.evidence.receipt import RECEIPT, Receipt, format_credit

CONTENT = digest_of("content")
PEER = PeerKey(b"P" * 20, "127.0.0.2:6881")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[MeterJournal]:
    journal = open_journal(tmp_path)
    yield journal
    journal.close()


def open_journal(folder: Path, run: int = 1) -> MeterJournal:
    journal = MeterJournal(folder / "meter.sqlite")
    session_id = run.to_bytes(16, "big")
    journal.start_run(session_id=session_id, session_key=key_of("viewer"), started_at_ms=1)
    journal.prove_peer(PEER, key_of("seeder"), epoch=EPOCH)
    return journal


def credit(journal: MeterJournal, *blocks: tuple[int, int, int], epoch: int = EPOCH) -> None:
    torrent = journal.add_torrent(content_id=CONTENT, name="film", content_bytes=1 << 30)
    update = PeerUpdate(
        torrent=torrent,
        peer=PEER,
        source=Source.P2P,
        blocks=tuple(CreditedBlock(*block) for block in blocks),
    )
    journal.commit_batch(MeterBatch(peers=(update,)), epoch=epoch)


def root_of(*blocks: tuple[int, int, int]) -> bytes:
    return root_hash(
        [format_credit(CONTENT, piece, at * 16384, size) for piece, at, size in blocks]
    )


def test_receipts_are_cumulative_with_the_root_over_all_credits(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 16384), (0, 1, 16384))
    credit(journal, (7, 3, 100))
    first = lanes.sign_claim(journal.list_claims()[0], entitlement())
    credit(journal, (1, 0, 16384))
    second = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert first is not None
    assert second is not None
    assert [first.value.sequence, second.value.sequence] == [1, 2]
    assert [first.value.bytes_total, second.value.bytes_total] == [32868, 49252]
    blocks = [(0, 0, 16384), (0, 1, 16384), (7, 3, 100)]
    assert first.value.credit_root == root_of(*blocks)
    assert second.value.credit_root == root_of(*blocks, (1, 0, 16384))
    for signed in (first, second):
        assert RECEIPT.is_signed_by(signed, key_of("viewer"))
        assert signed.value.payee_key == key_of("seeder")
        assert signed.value.entitlement_digest == entitlement().digest
    assert journal.list_claims() == []


def test_receipts_say_the_media_time_under_their_entitlement_and_it_never_falls(
    journal: MeterJournal,
) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    told = iter([1500, 900, 2500])
    lanes.media_ms = lambda signed: next(told) if signed == entitlement() else 10**6
    stated = []
    for piece in range(3):
        credit(journal, (piece, 0, 16384))
        signed = lanes.sign_claim(journal.list_claims()[0], entitlement())
        assert signed is not None
        stated.append(signed.value.media_ms_total)
    assert stated == [1500, 1500, 2500]


def test_a_cap_is_signed_up_to_the_block_and_the_rest_under_the_next(
    journal: MeterJournal,
) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    blocks = [(0, 0, 16384), (0, 1, 16384), (0, 2, 16384), (1, 0, 100)]
    credit(journal, *blocks[:3])
    credit(journal, blocks[3])
    (claim,) = journal.list_claims()
    assert lanes.sign_claim(claim, entitlement(), byte_limit=16383) is None
    first = lanes.sign_claim(claim, entitlement(), byte_limit=2 * 16384 + 16383)
    assert first is not None
    assert first.value.bytes_total == 2 * 16384
    assert first.value.credit_root == root_of(*blocks[:2])
    assert lanes.use_of(entitlement().digest).bytes_total == 2 * 16384
    (left,) = journal.list_claims()
    assert left.byte_count == 16384 + 100
    following = entitlement(serial=bytes(16))
    second = lanes.sign_claim(left, following, byte_limit=10**6)
    assert second is not None
    assert second.value.bytes_total == 16384 + 100
    assert second.value.credit_root == root_of(*blocks[2:])
    assert journal.list_claims() == []


def test_media_time_is_stated_up_to_its_cap(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    lanes.media_ms = lambda _signed: 61_000
    credit(journal, (0, 0, 16384))
    capped = entitlement(max_media_ms=60_000)
    signed = lanes.sign_claim(journal.list_claims()[0], capped)
    assert signed is not None
    assert signed.value.media_ms_total == 60_000
    assert lanes.use_of(capped.digest).media_ms == 60_000


def test_every_epoch_has_its_own_lane_from_zero(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 100))
    credit(journal, (0, 1, 30), epoch=EPOCH + 1)
    signed = [lanes.sign_claim(claim, entitlement()) for claim in journal.list_claims()]
    assert [
        (one.value.epoch, one.value.sequence, one.value.bytes_total) for one in signed if one
    ] == [
        (EPOCH, 1, 100),
        (EPOCH + 1, 1, 30),
    ]


def test_failure_between_credits_and_receipt_undoes_both(
    journal: MeterJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 100))
    claim = journal.list_claims()[0]
    with monkeypatch.context() as patch:
        patch.setattr(lanes_module, "_store", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            lanes.sign_claim(claim, entitlement())
    assert journal.list_claims() == [claim]
    signed = lanes.sign_claim(claim, entitlement())
    assert signed is not None
    assert (signed.value.sequence, signed.value.bytes_total) == (1, 100)


def test_lane_goes_on_from_its_last_receipt_after_one_that_failed(
    journal: MeterJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 16384))
    assert lanes.sign_claim(journal.list_claims()[0], entitlement()) is not None
    credit(journal, (0, 1, 16384))

    def fail(*_: object) -> None:
        raise JournalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(lanes_module, "_store", fail)
        with pytest.raises(JournalError, match="disk full"):
            lanes.sign_claim(journal.list_claims()[0], entitlement())
    second = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert second is not None
    assert (second.value.sequence, second.value.bytes_total) == (2, 2 * 16384)
    assert second.value.credit_root == root_of((0, 0, 16384), (0, 1, 16384))


def test_restart_goes_on_with_the_lane(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    credit(journal, (0, 0, 100))
    ReceiptLanes(journal, seed_of("viewer")).sign_claim(journal.list_claims()[0], entitlement())
    journal.close()
    journal = open_journal(tmp_path, run=2)
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 1, 23))
    signed = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert signed is not None
    assert (signed.value.sequence, signed.value.bytes_total) == (2, 123)
    assert signed.value.credit_root == root_of((0, 0, 100), (0, 1, 23))
    journal.close()


def answer(lanes: ReceiptLanes, signed: Signed[Receipt], verdict: int, by: str = "seeder") -> bool:
    receipt = signed.value
    stored = lanes.take_answer(key_of(by), receipt.lane_digest, receipt.sequence, verdict)
    return stored is not None


def test_only_the_payees_own_acceptance_counts(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 100))
    signed = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert signed is not None
    assert not answer(lanes, signed, ReceiptVerdict.ACCEPTED, by="mallory")
    refused = ReceiptVerdict.MORE_THAN_SENT
    assert answer(lanes, signed, refused)
    assert not lanes.is_known(key_of("seeder"))
    (waiting,) = lanes.list_unacknowledged()
    assert (waiting.raw, waiting.verdict) == (signed.raw, refused)
    assert answer(lanes, signed, ReceiptVerdict.ACCEPTED)
    assert lanes.list_unacknowledged(key_of("seeder")) == []
    assert lanes.is_known(key_of("seeder"))
    assert ReceiptLanes(journal, seed_of("viewer")).is_known(key_of("seeder"))


def test_answer_to_a_replaced_receipt_does_not_settle_the_newer(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 100))
    old = lanes.sign_claim(journal.list_claims()[0], entitlement())
    credit(journal, (0, 1, 100))
    new = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert old is not None
    assert new is not None
    assert answer(lanes, old, ReceiptVerdict.ACCEPTED)
    assert [receipt.digest for receipt in lanes.list_unacknowledged()] == [new.digest]
    # Yet the payee is known from then on.
    assert lanes.is_known(key_of("seeder"))
    # A late refusal of the older does not change what is thought of the newer.
    answer(lanes, old, ReceiptVerdict.STALE)
    assert lanes.list_unacknowledged()[0].verdict == ReceiptVerdict.ACCEPTED


def test_answer_to_a_receipt_that_was_never_signed_changes_nothing(journal: MeterJournal) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))
    credit(journal, (0, 0, 100))
    signed = lanes.sign_claim(journal.list_claims()[0], entitlement())
    assert signed is not None
    lane = signed.value.lane_digest
    assert lanes.take_answer(key_of("seeder"), lane, 9, ReceiptVerdict.ACCEPTED) is None
    assert len(lanes.list_unacknowledged()) == 1


def test_an_answer_is_durable_with_the_next_receipt_and_outlives_its_failure(
    journal: MeterJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = ReceiptLanes(journal, seed_of("viewer"))

    def sign(piece: int) -> Signed[Receipt] | None:
        credit(journal, (piece, 0, 16384))
        return lanes.sign_claim(journal.list_claims()[0], entitlement())

    def stored() -> tuple[int, int, int]:
        (row,) = journal.read("SELECT sequence, acknowledged_sequence, verdict FROM lane_receipt")
        return row[0], row[1], row[2]

    def refuse(_: object) -> None:
        raise JournalError("disk full")

    first = sign(0)
    assert first is not None
    lane = first.value.lane_digest
    assert lanes.take_answer(key_of("seeder"), lane, 1, ReceiptVerdict.STALE) is not None
    assert lanes.take_answer(key_of("seeder"), lane, 1, ReceiptVerdict.ACCEPTED) is not None
    assert stored() == (1, 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "save_lane", refuse)
        with pytest.raises(JournalError):
            sign(1)
    assert stored() == (1, 0, 0)
    assert sign(2) is not None
    assert stored() == (2, 1, 0)
    # An answer to the older one leaves the newer one open.
    assert lanes.take_answer(key_of("seeder"), lane, 1, ReceiptVerdict.ACCEPTED) is not None
    (open_receipt,) = lanes.list_unacknowledged()
    assert open_receipt.sequence == 2
    assert lanes.take_answer(key_of("seeder"), lane, 2, ReceiptVerdict.ACCEPTED) is not None
    assert lanes.list_unacknowledged() == []
    assert stored() == (2, 2, ReceiptVerdict.ACCEPTED)
    again = ReceiptLanes(journal, seed_of("viewer"))
    assert again.is_known(key_of("seeder"))
    assert again.list_unacknowledged() == []


def test_a_receipt_that_is_not_on_the_disk_is_not_to_be_sent(journal: MeterJournal) -> None:
    lets_through = threading.Event()

    def wait(_log: int) -> None:
        assert lets_through.wait(20)

    async def scene() -> None:
        syncing = DiskSync(lambda *_: None, sync=wait)
        journal.sync_by(syncing)
        lanes = ReceiptLanes(journal, seed_of("viewer"))
        lanes.disk = syncing
        syncing.on_durable.append(lanes.note_durable)
        credit(journal, (0, 0, 16384))
        first = lanes.sign_claim(journal.list_claims()[0], entitlement())
        assert first is not None
        lane = first.value.lane_digest
        assert (lanes.is_durable(lane), lanes.list_unacknowledged()) == (False, [])
        lets_through.set()
        await syncing.reach()
        assert lanes.is_durable(lane)
        assert [stored.raw for stored in lanes.list_unacknowledged()] == [first.raw]
        assert syncing.finish()

    asyncio.run(scene())
