"""What a payee accepts, what it refuses and with which code, and what it keeps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    digest_of,
    entitlement,
    key_of,
    receipt,
    signed_terms,
)

from engine_plugin import payee
from engine_plugin.payee import SLACK_BYTES, PayeeDesk
from engine_plugin.spool import Spool
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.receipt import RECEIPT, Receipt

NOW_MS = (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000
SENT_BYTES = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite")
    yield spool
    spool.close()


def make_desk(spool: Spool, now_ms: int | None = NOW_MS) -> PayeeDesk:
    return PayeeDesk(
        terms=signed_terms(),
        spool=spool,
        session_key=key_of("seeder"),
        content_ids=frozenset({digest_of("content")}),
        ledger_ms=lambda: now_ms,
        sent_bytes=lambda key: SENT_BYTES if key == key_of("viewer") else 0,
    )


@pytest.fixture
def desk(spool: Spool) -> PayeeDesk:
    desk = make_desk(spool)
    assert desk.take_entitlement(entitlement().raw, key_of("viewer")) == ReceiptVerdict.ACCEPTED
    return desk


def give(desk: PayeeDesk, signed: Signed[Receipt], viewer: str = "viewer") -> ReceiptVerdict:
    taken, verdict = desk.take_receipt(signed.raw, key_of(viewer))
    assert taken == signed
    return verdict


def test_good_receipt_is_durable_before_it_is_acknowledged(desk: PayeeDesk, spool: Spool) -> None:
    signed = receipt()
    assert give(desk, signed) == ReceiptVerdict.ACCEPTED
    reopened = Spool(spool.path)
    found = reopened.find_receipt(signed.value.lane_digest)
    reopened.close()
    assert found is not None
    assert found.receipt.raw == signed.raw


def test_repeated_receipt_is_acknowledged_again(desk: PayeeDesk) -> None:
    assert [give(desk, receipt()), give(desk, receipt())] == [ReceiptVerdict.ACCEPTED] * 2


FORGED = RECEIPT.parse(receipt().raw[:64] + receipt(bytes_total=999_999).raw[64:])


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda: FORGED, ReceiptVerdict.BAD_SIGNATURE),
        (lambda: receipt(network_id=bytes(32)), ReceiptVerdict.WRONG_NETWORK),
        (lambda: receipt(payee_key=key_of("other seeder")), ReceiptVerdict.FOREIGN_PAYEE),
        (lambda: receipt(flags=1), ReceiptVerdict.FOREIGN_PAYEE),
        (lambda: receipt(entitlement_digest=bytes(32)), ReceiptVerdict.UNKNOWN_ENTITLEMENT),
        (lambda: receipt(epoch=EPOCH + 2), ReceiptVerdict.WRONG_EPOCH),
        (lambda: receipt(epoch=EPOCH + 1000), ReceiptVerdict.ENTITLEMENT_NOT_VALID_NOW),
        (
            lambda: receipt(bytes_total=SENT_BYTES + SLACK_BYTES + 1),
            ReceiptVerdict.MORE_THAN_SENT,
        ),
    ],
    ids=["forged", "network", "payee", "cdn flag", "entitlement", "epoch", "expired", "sent"],
)
def test_bad_receipt_is_refused_with_its_code(
    desk: PayeeDesk,
    spool: Spool,
    make: Callable[[], Signed[Receipt]],
    verdict: ReceiptVerdict,
) -> None:
    signed = make()
    assert give(desk, signed) == verdict
    assert spool.find_receipt(signed.value.lane_digest) is None


def test_total_over_all_lanes_may_not_exceed_what_was_sent(desk: PayeeDesk) -> None:
    most = SENT_BYTES + SLACK_BYTES
    assert give(desk, receipt(epoch=EPOCH - 1, bytes_total=most)) == ReceiptVerdict.ACCEPTED
    assert give(desk, receipt(bytes_total=1)) == ReceiptVerdict.MORE_THAN_SENT


@pytest.mark.parametrize(
    ("changes", "viewer", "verdict"),
    [
        ({"issuing_key": key_of("mallory")}, "viewer", ReceiptVerdict.FOREIGN_ISSUER),
        ({"terms_digest": bytes(32)}, "viewer", ReceiptVerdict.FOREIGN_ISSUER),
        ({"network_id": bytes(32)}, "viewer", ReceiptVerdict.WRONG_NETWORK),
        ({"content_id": bytes(32)}, "viewer", ReceiptVerdict.FOREIGN_CONTENT),
        ({}, "mallory", ReceiptVerdict.FOREIGN_SESSION),
        (
            {"not_before_s": GENESIS_S - 9000, "not_after_s": GENESIS_S - 8000},
            "viewer",
            ReceiptVerdict.ENTITLEMENT_NOT_VALID_NOW,
        ),
    ],
    ids=["issuer", "terms", "network", "content", "session", "expired"],
)
def test_bad_entitlement_is_refused_and_pays_nothing(
    spool: Spool, changes: dict[str, Any], viewer: str, verdict: ReceiptVerdict
) -> None:
    desk = make_desk(spool)
    bad = entitlement(**changes)
    assert desk.take_entitlement(bad.raw, key_of(viewer)) == verdict
    signed = receipt(viewer=viewer, under=bad)
    assert give(desk, signed, viewer) == ReceiptVerdict.UNKNOWN_ENTITLEMENT


def test_forged_entitlement_is_refused(spool: Spool) -> None:
    desk = make_desk(spool)
    good = entitlement()
    forged = bytes(64) + good.body
    assert desk.take_entitlement(forged, key_of("viewer")) == ReceiptVerdict.BAD_SIGNATURE


def test_older_sequence_is_stale_and_changes_nothing(desk: PayeeDesk, spool: Spool) -> None:
    newer, older = receipt(sequence=5, bytes_total=500), receipt(sequence=4, bytes_total=400)
    assert give(desk, newer) == ReceiptVerdict.ACCEPTED
    assert give(desk, older) == ReceiptVerdict.STALE
    found = spool.find_receipt(newer.value.lane_digest)
    assert found is not None
    assert found.receipt.digest == newer.digest


@pytest.mark.parametrize(
    "second",
    [
        {"sequence": 5, "bytes_total": 501},
        {"sequence": 5, "bytes_total": 500, "credit_root": bytes(32)},
        {"sequence": 6, "bytes_total": 499},
        {"sequence": 6, "bytes_total": 900, "media_ms_total": 9},
        {"sequence": 4, "bytes_total": 501},
    ],
    ids=["same sequence", "other root", "lower bytes", "lower media", "older with more"],
)
def test_contradicting_receipts_are_kept_as_evidence_and_spoil_the_lane(
    desk: PayeeDesk, spool: Spool, second: dict[str, Any]
) -> None:
    first = receipt(sequence=5, bytes_total=500, media_ms_total=10)
    other = receipt(**({"media_ms_total": 10} | second))
    assert give(desk, first) == ReceiptVerdict.ACCEPTED
    assert give(desk, other) == ReceiptVerdict.EQUIVOCATION
    assert spool.list_equivocations() == [(first, other)]
    later = receipt(sequence=9, bytes_total=9000, media_ms_total=90)
    assert give(desk, later) == ReceiptVerdict.EQUIVOCATION
    # A payee that starts again still knows.
    assert give(make_desk(spool), later) == ReceiptVerdict.EQUIVOCATION


def test_without_a_clock_the_entitlements_time_and_epoch_are_left_to_the_ledger(
    spool: Spool,
) -> None:
    desk = make_desk(spool, now_ms=None)
    assert desk.take_entitlement(entitlement().raw, key_of("viewer")) == ReceiptVerdict.ACCEPTED
    assert give(desk, receipt()) == ReceiptVerdict.ACCEPTED


def test_what_is_kept_in_memory_of_keys_is_bounded_and_asked_of_the_spool_again(
    desk: PayeeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payee, "KEYS_KEPT", 2)
    assert give(desk, receipt(bytes_total=1000)) == ReceiptVerdict.ACCEPTED
    for number in range(5):
        assert desk.receipted_bytes(key_of(f"viewer {number}")) == 0
    assert len(desk._accounts) == 2
    assert desk.receipted_bytes(key_of("viewer")) == 1000
    assert give(desk, receipt(bytes_total=900, sequence=1)) == ReceiptVerdict.EQUIVOCATION
