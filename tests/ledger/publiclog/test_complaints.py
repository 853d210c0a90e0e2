"""A broken promise is proven, an honest seal never, and a complaint cannot be made up."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from public_logs import LogMaker, make_trust
from simulated_operator import (
    NETWORK,
    Operator,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from engine_plugin.spool import BundleState, Spool, SpooledBundle
from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.evidence.bundle import BundleKind, parse_bundle
from ledger.evidence.promise import PROMISE, Promise
from ledger.publiclog import complaint, missing
from ledger.publiclog.complaint import check_complaint
from ledger.publiclog.missing import Fate, find_missing
from ledger.publiclog.source import FolderSource
from ledger.publiclog.spool_file import read_spool_file

TRUST = make_trust()
ENTITLEMENT = make_entitlement(Operator(), "viewer")


def bundle_of(epoch: int, number: int = 0) -> bytes:
    receipt = make_receipt(ENTITLEMENT, "viewer", "seeder", epoch, 1000 + number)
    return make_payee_bundle("seeder", epoch, [ENTITLEMENT], [receipt], number)


def digest_of(raw: bytes) -> bytes:
    return sha256(raw[64:]).digest()


def promise_of(raw: bytes, sealing_epoch: int | None = None, by: str = "log", **changes: object):
    bundle = parse_bundle(raw)
    promise = Promise(
        network_id=NETWORK,
        bundle_digest=bundle.digest,
        submitter_key=bundle.value.submitter_key,
        broadcaster_account=key("broadcaster"),
        epoch=bundle.value.epoch,
        sealing_epoch=bundle.value.epoch if sealing_epoch is None else sealing_epoch,
        ledger_sequence=5,
        close_time_s=1_000_000,
    )
    return PROMISE.sign(replace(promise, **changes), seed(by)).raw


def make_spool(path: Path, *entries: tuple[bytes, bytes | None]) -> Path:
    """A spool as the engine writes it, with these bundles and promises."""
    with closing(Spool(path)) as spool:
        for raw, promise in entries:
            signed = parse_bundle(raw)
            spool.put_bundle(
                SpooledBundle(
                    epoch=signed.value.epoch,
                    kind=BundleKind(signed.value.kind),
                    number=signed.value.number,
                    digest=signed.digest,
                    raw=raw,
                    receipt_count=1,
                    bytes_total=1,
                    state=BundleState.UNSENT,
                    promise=None,
                    code="",
                    detail="",
                ),
                [],
            )
            if promise is not None:
                spool.store_promise(signed.digest, promise)
    return path


def search(tmp_path: Path, log: LogMaker, *entries: tuple[bytes, bytes | None], trust=TRUST):
    folder = log.write(tmp_path / "log")
    spool = read_spool_file(make_spool(tmp_path / "spool.sqlite", *entries))
    return find_missing(spool, FolderSource(folder), trust)


def test_every_fate_is_told(tmp_path: Path) -> None:
    kept, refused, missing, later, unsent, forged = (bundle_of(1, number) for number in range(6))
    log = LogMaker().close(300)
    log.leaves += [log.bundle_leaf(digest_of(refused), code=3)]
    log.close(300, digests=(digest_of(kept),), bundle_count=302).close(2)
    found = search(
        tmp_path,
        log,
        (kept, promise_of(kept)),
        (refused, promise_of(refused)),
        (missing, promise_of(missing)),
        (later, promise_of(later, sealing_epoch=3)),
        (unsent, None),
        (forged, promise_of(forged, by="thief")),
    )
    assert [finding.fate for finding in found.bundles] == [
        Fate.INCLUDED,
        Fate.REFUSED,
        Fate.MISSING,
        Fate.PENDING,
        Fate.NOT_PROMISED,
        Fate.BAD_PROMISE,
    ]
    (complaint,) = (one.complaint for one in found.bundles if one.complaint)
    proven = check_complaint(complaint, TRUST)
    assert proven.promise.bundle_digest == digest_of(missing)
    assert proven.bundle_count == 302


DAY_S = 86_400


@pytest.mark.parametrize("changes", [{}, {"epoch": 2**32 - 1}])
def test_a_promise_that_never_falls_due_is_false(tmp_path: Path, changes) -> None:
    raw = bundle_of(1)
    stated_s = TRUST.genesis_s + 30 * TRUST.epoch_length_s
    # A network that stood still, and clocks a day apart: still what an honest collector may name.
    honest = 30 + DAY_S // TRUST.epoch_length_s
    for sealing_epoch, fate in (
        (honest, Fate.PENDING),
        (honest + 1, Fate.FALSE_PROMISE),
        (2**32 - 1, Fate.FALSE_PROMISE),
    ):
        promise = promise_of(raw, sealing_epoch, close_time_s=stated_s, **changes)
        folder = tmp_path / str(sealing_epoch)
        folder.mkdir()
        (finding,) = search(folder, LogMaker().close().close(), (raw, promise)).bundles
        assert finding.fate == fate


def test_a_seal_from_before_the_log_is_a_false_promise(tmp_path: Path) -> None:
    raw, trust = bundle_of(1), replace(TRUST, first_epoch=3)
    log = LogMaker(epoch=3).close()
    (finding,) = search(tmp_path, log, (raw, promise_of(raw)), trust=trust).bundles
    assert finding.fate == Fate.FALSE_PROMISE


def test_a_log_that_leaves_out_an_epoch_is_disproven(tmp_path: Path) -> None:
    raw = bundle_of(1)
    log = LogMaker().close()
    log.epoch = 2
    with pytest.raises(DisprovenError, match="no seal of epoch 1"):
        search(tmp_path, log.close(), (raw, promise_of(raw)))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_complaint_is_proven_in_any_epoch_of_the_log(tmp_path: Path, epoch: int) -> None:
    raw = bundle_of(epoch)
    log = LogMaker().close(5).close(0).close(700)
    (finding,) = search(tmp_path, log, (raw, promise_of(raw))).bundles
    assert check_complaint(finding.complaint, TRUST).promise.sealing_epoch == epoch


def test_complaints_about_the_seals_of_a_million_viewers_can_be_read(tmp_path: Path) -> None:
    lengths = []
    for bundles in (100, 300):
        folder = tmp_path / str(bundles)
        folder.mkdir()
        raw = bundle_of(0)
        (finding,) = search(folder, LogMaker().close(bundles), (raw, promise_of(raw))).bundles
        lengths.append(len(finding.complaint))
    characters_a_bundle = (lengths[1] - lengths[0]) / 200
    assert 2_000_000 * characters_a_bundle < complaint.COMPLAINT_CHARACTERS_MAX


def test_no_complaint_is_written_that_nobody_could_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = complaint_text(tmp_path)
    for module in (complaint, missing):
        monkeypatch.setattr(module, "COMPLAINT_CHARACTERS_MAX", len(text) - 1)
    with pytest.raises(UndecidableError, match="characters"):
        check_complaint(text, TRUST)
    (tmp_path / "again").mkdir()
    raw = bundle_of(1)
    log = LogMaker().close(3).close(4).close(2)
    (finding,) = search(tmp_path / "again", log, (raw, promise_of(raw))).bundles
    assert (finding.fate, finding.complaint) == (Fate.MISSING, "")
    assert "too many for a complaint" in finding.detail


def complaint_text(tmp_path: Path) -> str:
    raw = bundle_of(1)
    log = LogMaker().close(3).close(4).close(2)
    (finding,) = search(tmp_path, log, (raw, promise_of(raw))).bundles
    return finding.complaint


def changed(text: str, **changes: object) -> str:
    return json.dumps({**json.loads(text), **changes})


def test_leaves_left_out_of_a_complaint_are_noticed(tmp_path: Path) -> None:
    raw = bundle_of(1)
    log = LogMaker().close(3).close(4, digests=(digest_of(raw),)).close(2)
    other = bundle_of(1, 7)
    (finding,) = search(tmp_path, log, (other, promise_of(other))).bundles
    document = json.loads(finding.complaint)
    lie = changed(
        finding.complaint, promise=promise_of(raw).hex(), bundle_digest=digest_of(raw).hex()
    )
    with pytest.raises(DisprovenError, match="holds the promised bundle"):
        check_complaint(lie, TRUST)
    leaves = document["leaves"]
    for place in range(len(leaves)):
        for rest in (leaves[:place] + leaves[place + 1 :], leaves[place + 1 :], leaves[:place]):
            with pytest.raises((DisprovenError, UndecidableError)):
                check_complaint(changed(lie, leaves=rest), TRUST)
    for first in range(8):
        if first != document["first_index"]:
            with pytest.raises(DisprovenError):
                check_complaint(changed(lie, first_index=first), TRUST)


def test_a_run_that_begins_too_late_proves_nothing(tmp_path: Path) -> None:
    """The run's proof is right, but bundles before its first leaf are not shown."""
    from ledger.evidence.tile_proofs import TileReader

    raw = bundle_of(1)
    log = LogMaker().close(3).close(4, digests=(digest_of(raw),)).close(2)
    folder = log.write(tmp_path / "log")
    reader = TileReader(len(log.leaves), FolderSource(folder).read)
    seal = next(
        index for index, leaf in enumerate(log.leaves) if index > 8 and leaf[5:6] == bytes([34])
    )
    first = seal - 3
    lie = {
        "format": "swarmledger-complaint/1",
        "promise": promise_of(raw).hex(),
        "bundle_digest": digest_of(raw).hex(),
        "checkpoint": log.notes[2].decode(),
        "first_index": first,
        "leaves": [leaf.hex() for leaf in log.leaves[first : seal + 1]],
        "hashes": [value.hex() for value in reader.prove_range(first, seal + 1)],
    }
    with pytest.raises(DisprovenError, match="want the last leaf of the epoch before"):
        check_complaint(json.dumps(lie), TRUST)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"promise": promise_of(bundle_of(1), by="thief").hex()}, "no valid signature"),
        ({"promise": promise_of(bundle_of(1), network_id=bytes(32)).hex()}, "network"),
        ({"promise": promise_of(bundle_of(1), broadcaster_account=bytes(32)).hex()}, "broadcaster"),
        ({"promise": promise_of(bundle_of(1), sealing_epoch=2).hex()}, "run of leaves"),
        ({"bundle_digest": "00" * 32}, "another bundle"),
        ({"hashes": []}, "range proof"),
    ],
)
def test_a_complaint_that_shows_nothing_is_disproven(tmp_path: Path, changes, words) -> None:
    with pytest.raises(DisprovenError, match=words):
        check_complaint(changed(complaint_text(tmp_path), **changes), TRUST)


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": LogMaker().close(by="thief").notes[0].decode()},
        {"checkpoint": 5},
        {"format": "swarmledger-complaint/2"},
        {"first_index": -1},
        {"first_index": True},
        {"leaves": "00"},
        {"leaves": ["0G"]},
        {"hashes": ["AA" * 32]},
        {"promise": "00"},
        {"more": 1},
    ],
)
def test_what_is_no_complaint_is_undecided(tmp_path: Path, changes) -> None:
    with pytest.raises(UndecidableError):
        check_complaint(changed(complaint_text(tmp_path), **changes), TRUST)


def test_a_promise_is_signed_by_the_key_of_its_bundles_epoch(tmp_path: Path) -> None:
    """Epoch 1 is still the old key's; late, its bundle is sealed under the new one."""
    trust = make_trust(("log", 0), ("log 2", 2))
    early, late = bundle_of(1), bundle_of(2)
    log = LogMaker().close(1).close(1).close(3, by="log 2")
    found = search(
        tmp_path,
        log,
        (early, promise_of(early, sealing_epoch=2)),
        (late, promise_of(late, by="log 2")),
        trust=trust,
    )
    assert [one.fate for one in found.bundles] == [Fate.MISSING, Fate.MISSING]
    for one in found.bundles:
        check_complaint(one.complaint, trust)
    with pytest.raises(DisprovenError):
        check_complaint(found.bundles[1].complaint, make_trust(("log 2", 0), ("log", 2)))


def test_receipts_that_were_never_sent_are_told(tmp_path: Path) -> None:
    path = make_spool(tmp_path / "spool.sqlite")
    with closing(Spool(path)) as spool:
        for epoch, payee in ((0, "a"), (1, "b"), (9, "c")):
            receipt = make_receipt(ENTITLEMENT, "viewer", payee, epoch, 100)
            spool.put_receipt(receipt, kind=BundleKind.PAYEE, session_key=key("viewer"))
    folder = LogMaker().close().close().write(tmp_path / "log")
    found = find_missing(read_spool_file(path), FolderSource(folder), TRUST)
    assert found.never_sent == {0: 1, 1: 1}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bundle SET raw = zeroblob(64)",
        "UPDATE bundle SET digest = zeroblob(32)",
        "UPDATE bundle SET promise = zeroblob(300)",
        "UPDATE bundle SET epoch = 2",
        "UPDATE bundle SET raw = zeroblob(5000000)",
        "DROP TABLE bundle",
        "ALTER TABLE bundle RENAME COLUMN promise TO vow",
    ],
)
def test_a_spool_that_is_not_what_it_says_is_refused(tmp_path: Path, statement: str) -> None:
    raw = bundle_of(1)
    path = make_spool(tmp_path / "spool.sqlite", (raw, promise_of(raw)))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(UndecidableError):
        read_spool_file(path)


@pytest.mark.parametrize("content", [None, b"", b"no database" * 100])
def test_what_is_no_spool_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spool.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UndecidableError):
        read_spool_file(path)


def test_reading_a_spool_changes_nothing(tmp_path: Path) -> None:
    raw = bundle_of(1)
    path = make_spool(tmp_path / "spool.sqlite", (raw, promise_of(raw)))
    before = path.read_bytes()
    assert read_spool_file(path).bundles[0].digest == digest_of(raw)
    assert path.read_bytes() == before
