import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine_plugin.errors import JournalError
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.journal_records import (
    CreditedBlock,
    Lane,
    LaneCredits,
    LaneKey,
    MeterBatch,
    PeerKey,
    PeerUpdate,
    SessionAudit,
    Source,
    TorrentGauges,
    pack_blocks,
    unpack_blocks,
)

KEY, PAYEE, OTHER, CDN_KEY = (bytes([n]) * 32 for n in (1, 2, 3, 4))
ALICE = PeerKey(b"A" * 20, "127.0.0.2:6881")
COPIER = PeerKey(b"A" * 20, "127.0.0.9:6881")
SERVER = PeerKey(b"W" * 20, "127.0.0.3:80")
URL = "http://127.0.0.3:80/"
LANE_KEY = LaneKey(entitlement_digest=b"E" * 32, payee_key=PAYEE, epoch=5, nonce=b"n" * 16)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[MeterJournal]:
    journal = MeterJournal(tmp_path / "meter.db")
    journal.start_run(session_id=b"s" * 16, session_key=KEY, started_at_ms=1)
    yield journal
    journal.close()


def _torrent(journal: MeterJournal) -> int:
    return journal.add_torrent(content_id=b"T" * 32, name="film", content_bytes=10**9)


def _credit(
    journal: MeterJournal,
    peer: PeerKey,
    *lengths: int,
    epoch: int | None = 5,
    source: Source = Source.P2P,
    first_block: int = 0,
) -> None:
    update = PeerUpdate(
        torrent=_torrent(journal),
        peer=peer,
        source=source,
        url=URL if source is Source.CDN else "",
        blocks=tuple(CreditedBlock(0, first_block + n, size) for n, size in enumerate(lengths)),
    )
    journal.commit_batch(MeterBatch(peers=(update,)), epoch=epoch)


def _list_blocks(taken: list[LaneCredits]) -> list[tuple[bytes, int, int, int]]:
    return [(part.content_id, *block) for part in taken for block in unpack_blocks(part.packed)]


def test_bytes_are_unattested_until_the_key_is_proved(journal: MeterJournal) -> None:
    _credit(journal, ALICE, 100, 23)
    assert journal.totals().unattested_bytes == 123
    assert journal.list_claims() == []
    journal.prove_peer(ALICE, PAYEE, epoch=6)
    assert journal.totals().unattested_bytes == 0
    assert journal.totals().delivered_p2p_bytes == 123


def test_bytes_belong_to_the_epoch_in_which_firm_and_proved_met(journal: MeterJournal) -> None:
    _credit(journal, ALICE, 100, epoch=5)
    journal.prove_peer(ALICE, PAYEE, epoch=6)
    _credit(journal, ALICE, 17, epoch=6)
    _credit(journal, ALICE, 19, epoch=7)
    assert [(claim.epoch, claim.byte_count) for claim in journal.list_claims()] == [
        (6, 117),
        (7, 19),
    ]


def test_bytes_without_a_ledger_clock_wait_for_it(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=None)
    _credit(journal, ALICE, 100, epoch=None)
    assert journal.list_claims() == []
    journal.stamp_epoch(9)
    journal.stamp_epoch(10)
    assert [(claim.epoch, claim.byte_count) for claim in journal.list_claims()] == [(9, 100)]


def test_copied_peer_id_on_another_endpoint_stays_unattested(journal: MeterJournal) -> None:
    _credit(journal, ALICE, 100)
    _credit(journal, COPIER, 31)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    assert journal.totals().delivered_p2p_bytes == 100
    assert journal.totals().unattested_bytes == 31


def test_second_key_for_one_connection_is_refused(journal: MeterJournal) -> None:
    _credit(journal, ALICE, 100)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    with pytest.raises(JournalError, match="second key"):
        journal.prove_peer(ALICE, OTHER, epoch=5)
    assert [row.public_key for row in journal.list_peers()] == [PAYEE]


def test_web_seed_bytes_are_cdn_and_claimable_once_its_key_is_named(journal: MeterJournal) -> None:
    _credit(journal, SERVER, 100, source=Source.CDN)
    assert journal.totals().delivered_cdn_bytes == 100
    assert journal.totals().unattested_bytes == 0
    assert journal.list_claims() == []
    journal.prove_cdn(URL, CDN_KEY, epoch=5)
    _credit(journal, PeerKey(b"X" * 20, SERVER.endpoint), 11, source=Source.CDN)
    (claim,) = journal.list_claims()
    assert (claim.source, claim.payee_key, claim.byte_count) == (Source.CDN, CDN_KEY, 111)


def test_proof_of_a_peer_never_claims_a_web_seeds_bytes(journal: MeterJournal) -> None:
    _credit(journal, SERVER, 100, source=Source.CDN)
    journal.prove_peer(SERVER, PAYEE, epoch=5)
    assert journal.list_claims() == []


def test_closed_connection_is_unattested_for_good(journal: MeterJournal) -> None:
    _credit(journal, ALICE, 100)
    assert journal.close_unproved(ALICE) == 100
    _credit(journal, ALICE, 10)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    assert journal.list_claims() == []
    assert journal.totals().unattested_bytes == 110


def test_credits_move_to_a_lane_in_credit_order_and_exactly_once(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    _credit(journal, ALICE, 100, 50)
    _credit(journal, ALICE, 16384, first_block=2)
    (claim,) = journal.list_claims()
    assert (claim.session_key, claim.scope_id, claim.byte_count) == (KEY, b"T" * 32, 16534)
    with journal.transaction():
        taken = journal.take_credits(claim)
        journal.save_lane(
            Lane(
                key=LANE_KEY,
                session_key=KEY,
                source=Source.P2P,
                sequence=1,
                cumulative_bytes=sum(part.byte_count for part in taken),
                root_state=b"state",
            )
        )
    assert _list_blocks(taken) == [
        (b"T" * 32, 0, 0, 100),
        (b"T" * 32, 0, 1, 50),
        (b"T" * 32, 0, 2, 16384),
    ]
    assert journal.list_claims() == []
    lane = journal.find_lane(LANE_KEY)
    assert lane is not None
    assert (lane.sequence, lane.cumulative_bytes, lane.root_state) == (1, 16534, b"state")
    assert journal.list_lanes(epoch=5) == journal.list_lanes() == [lane]
    assert journal.list_lanes(epoch=6) == []
    assert journal.totals().claimed_bytes == journal.totals().delivered_p2p_bytes == 16534
    assert journal.totals().unclaimed_bytes == 0


def test_row_limit_takes_the_oldest_first_and_leaves_the_rest(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    _credit(journal, ALICE, 1)
    _credit(journal, ALICE, 2, first_block=1)
    (claim,) = journal.list_claims()
    with journal.transaction():
        assert _list_blocks(journal.take_credits(claim, row_limit=1)) == [(b"T" * 32, 0, 0, 1)]
    with journal.transaction():
        assert _list_blocks(journal.take_credits(claim, row_limit=9)) == [(b"T" * 32, 0, 1, 2)]


def test_failure_after_taking_credits_undoes_the_taking(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    _credit(journal, ALICE, 100)
    claims = journal.list_claims()

    def fail() -> None:
        with journal.transaction():
            journal.take_credits(claims[0])
            journal.save_lane(Lane(key=LANE_KEY, session_key=KEY, source=Source.P2P, sequence=1))
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        fail()
    assert journal.list_claims() == claims
    assert journal.find_lane(LANE_KEY) is None


def test_taking_credits_outside_a_transaction_is_refused(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    _credit(journal, ALICE, 100)
    with pytest.raises(ValueError, match="no open transaction"):
        journal.take_credits(journal.list_claims()[0])
    assert journal.totals().unclaimed_bytes == 100


@pytest.mark.parametrize("change", [{"sequence": 1}, {"cumulative_bytes": 9}, {"media_ms": 4}])
def test_lane_whose_figures_would_fall_is_refused(
    journal: MeterJournal, change: dict[str, int]
) -> None:
    lane = Lane(
        key=LANE_KEY,
        session_key=KEY,
        source=Source.P2P,
        sequence=2,
        cumulative_bytes=10,
        media_ms=5,
    )
    journal.save_lane(lane)
    with pytest.raises(JournalError, match="never fall"):
        journal.save_lane(replace(lane, **change))  # type: ignore[arg-type]
    assert journal.find_lane(LANE_KEY) == lane


def test_batch_that_fails_halfway_leaves_nothing_and_can_be_repeated(journal: MeterJournal) -> None:
    torrent = _torrent(journal)
    good = PeerUpdate(
        torrent=torrent, peer=ALICE, source=Source.P2P, blocks=(CreditedBlock(0, 0, 100),)
    )
    bad = PeerUpdate(torrent=999, peer=COPIER, source=Source.P2P)
    with pytest.raises(JournalError, match="FOREIGN KEY"):
        journal.commit_batch(MeterBatch(peers=(good, bad)), epoch=5)
    assert journal.totals().unattested_bytes == 0
    journal.commit_batch(MeterBatch(peers=(good,)), epoch=5)
    assert journal.totals().unattested_bytes == 100


def test_reopened_journal_continues_all_totals(tmp_path: Path) -> None:
    path = tmp_path / "meter.db"
    for number in range(1, 4):
        journal = MeterJournal(path)
        journal.start_run(session_id=bytes([number]) * 16, session_key=KEY, started_at_ms=number)
        torrent = _torrent(journal)
        journal.prove_peer(ALICE, PAYEE, epoch=5)
        _credit(journal, ALICE, 101)
        _credit(journal, COPIER, 13)
        gauges = TorrentGauges(
            torrent=torrent,
            passed_bytes=200,
            pending_bytes=3,
            ambiguous_bytes=7,
            present_bytes=number * 1000,
            is_estimated=number == 2,
        )
        update = PeerUpdate(
            torrent=torrent, peer=ALICE, source=Source.P2P, failed_bytes=5, sent_bytes=11
        )
        journal.commit_batch(MeterBatch(peers=(update,), torrents=(gauges,)), epoch=5)
        journal.record_audit(
            SessionAudit(
                recv_payload_bytes=1, redundant_bytes=17, recv_failed_bytes=0, difference_bytes=-19
            )
        )
        journal.close()
    totals = read_totals(path)
    assert (totals.delivered_p2p_bytes, totals.unattested_bytes) == (303, 39)
    assert (totals.ambiguous_bytes, totals.pending_bytes) == (21, 9)
    assert (totals.failed_bytes, totals.sent_bytes) == (15, 33)
    assert (totals.redundant_bytes, totals.unexplained_bytes) == (51, 57)
    assert totals.present_bytes == 3000
    assert totals.is_estimated
    assert totals.unclaimed_bytes == 303
    assert len(read_peers(path)) == 6


def test_difference_within_the_tolerance_is_explained() -> None:
    audit = SessionAudit(
        recv_payload_bytes=0, redundant_bytes=0, recv_failed_bytes=0, difference_bytes=-50
    )
    assert audit.unexplained_bytes == 50
    assert replace(audit, tolerance_bytes=49).unexplained_bytes == 1
    assert replace(audit, tolerance_bytes=50).unexplained_bytes == 0
    assert replace(audit, tolerance_bytes=50, difference_bytes=2).unexplained_bytes == 2


def test_two_runs_with_one_session_id_are_refused(journal: MeterJournal) -> None:
    with pytest.raises(JournalError, match="UNIQUE"):
        journal.start_run(session_id=b"s" * 16, session_key=KEY, started_at_ms=2)


def test_committed_batch_survives_kill_at_once(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        from engine_plugin.journal import MeterJournal
        from engine_plugin.journal_records import *
        journal = MeterJournal(Path(sys.argv[1]))
        journal.start_run(session_id=b"s" * 16, session_key=b"k" * 32, started_at_ms=1)
        torrent = journal.add_torrent(content_id=b"T" * 32, name="film", content_bytes=1)
        peer = PeerKey(b"A" * 20, "127.0.0.2:1")
        total = 0
        for block in range(100000):
            update = PeerUpdate(torrent=torrent, peer=peer, source=Source.P2P,
                                blocks=(CreditedBlock(block, 0, 1 + block % 7),))
            journal.commit_batch(MeterBatch(peers=(update,)), epoch=1)
            total += 1 + block % 7
            print(total, flush=True)
        """)
    )
    path = tmp_path / "meter.db"
    with subprocess.Popen(
        [sys.executable, str(script), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged > 300:
                process.send_signal(signal.SIGKILL)
                break
    totals = read_totals(path)
    assert totals.unattested_bytes >= acknowledged
    journal = MeterJournal(path)
    with journal.transaction() as tx:
        credited = tx.execute("SELECT sum(bytes) FROM journal_credit").fetchone()[0]
    journal.close()
    assert credited == totals.unattested_bytes


def test_other_threads_wait_for_an_open_transaction(journal: MeterJournal) -> None:
    thread = threading.Thread(target=lambda: _credit(journal, ALICE, 100))
    with journal.transaction() as tx:
        tx.execute("CREATE TABLE spool (body BLOB)")
        thread.start()
        tx.execute("INSERT INTO spool VALUES (x'00')")
        assert tx.execute("SELECT count(*) FROM journal_credit").fetchone() == (0,)
    thread.join()
    assert journal.totals().unattested_bytes == 100


def test_file_that_is_no_journal_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "meter.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match=r"meter\.db"):
        MeterJournal(path)
    with pytest.raises(JournalError, match=r"meter\.db"):
        read_totals(path)
    with pytest.raises(JournalError, match=r"missing\.db"):
        read_totals(tmp_path / "missing.db")


def test_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meter.db"
    MeterJournal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE journal_schema SET version = 99")
    connection.close()
    with pytest.raises(JournalError, match="got 99"):
        MeterJournal(path)


def test_journal_commits_durably(journal: MeterJournal) -> None:
    with journal.transaction() as tx:
        assert tx.execute("PRAGMA synchronous").fetchone() == (2,)
        assert tx.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_blocks_pack_into_eight_bytes_and_back() -> None:
    blocks = [CreditedBlock(0, 0, 1), CreditedBlock(2**32 - 1, 1023, 16384)]
    assert pack_blocks(blocks).hex() == "0000000000000000ffffffffff03ff3f"
    assert unpack_blocks(pack_blocks(blocks)) == blocks


@pytest.mark.parametrize("packed", ["00", "0000000000000040"])
def test_packed_blocks_that_are_torn_or_too_long_are_refused(packed: str) -> None:
    with pytest.raises(ValueError, match="want"):
        unpack_blocks(bytes.fromhex(packed))


STREAM = b"S" * 32


def _segment(journal: MeterJournal, number: int) -> int:
    return journal.add_torrent(
        content_id=bytes([number]) * 32, name=f"{number}.ts", content_bytes=100, scope_id=STREAM
    )


def _commit_segment(journal: MeterJournal, torrent: int, *, byte_count: int) -> None:
    update = PeerUpdate(
        torrent=torrent,
        peer=ALICE,
        source=Source.P2P,
        sent_bytes=7,
        blocks=(CreditedBlock(0, 0, byte_count),),
    )
    gauges = TorrentGauges(
        torrent=torrent,
        passed_bytes=byte_count,
        pending_bytes=0,
        ambiguous_bytes=3,
        present_bytes=0,
        is_estimated=False,
    )
    journal.commit_batch(MeterBatch(peers=(update,), torrents=(gauges,)), epoch=5)


def test_credits_of_a_streams_torrents_are_one_claim_that_names_each(
    journal: MeterJournal,
) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    for number in (1, 2):
        _commit_segment(journal, _segment(journal, number), byte_count=10 * number)
    (claim,) = journal.list_claims()
    assert (claim.scope_id, claim.byte_count) == (STREAM, 30)
    with journal.transaction():
        taken = journal.take_credits(claim)
    assert _list_blocks(taken) == [(b"\1" * 32, 0, 0, 10), (b"\2" * 32, 0, 0, 20)]


def test_bytes_of_a_scope_are_those_of_all_its_torrents_in_this_run_by_source(
    journal: MeterJournal,
) -> None:
    _commit_segment(journal, _segment(journal, 1), byte_count=10)
    retired = _segment(journal, 2)
    _commit_segment(journal, retired, byte_count=20)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    journal.retire_torrent(retired)
    journal.retire_settled()
    assert journal.received_bytes(STREAM) == (30, 0)
    assert journal.received_bytes(b"other".ljust(32)) == (0, 0)
    journal.start_run(session_id=b"2" * 16, session_key=KEY, started_at_ms=2)
    assert journal.received_bytes(STREAM) == (0, 0)


def test_a_torrent_is_of_one_scope(journal: MeterJournal) -> None:
    _segment(journal, 1)
    with pytest.raises(JournalError, match="scope_id"):
        journal.add_torrent(content_id=b"\1" * 32, name="1.ts", content_bytes=100)


def test_retired_torrents_leave_sums_and_no_rows(journal: MeterJournal) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    segments = [_segment(journal, number) for number in (1, 2, 3)]
    for segment in segments:
        _commit_segment(journal, segment, byte_count=10)
    before = journal.totals()
    for segment in segments:
        journal.retire_torrent(segment)
    # Unsigned credits keep their rows; what is on a lane needs none.
    assert len(journal.list_peers()) == 3
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    assert len(journal.list_peers()) == 3
    journal.retire_settled()
    assert journal.list_peers() == []
    after = journal.totals()
    assert (after.delivered_p2p_bytes, after.sent_bytes) == (30, 21)
    assert replace(after, unclaimed_bytes=30) == before
    with journal.transaction() as tx:
        assert tx.execute("SELECT count(*) FROM journal_torrent").fetchone() == (1,)


def test_bytes_sent_for_retired_torrents_still_bound_claims_after_a_restart(
    journal: MeterJournal,
) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    segment = _segment(journal, 1)
    _commit_segment(journal, segment, byte_count=10)
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    journal.retire_torrent(segment)
    assert (journal.sent_before_bytes(PAYEE), journal.sent_ever_bytes(PAYEE)) == (0, 7)
    journal.start_run(session_id=b"2" * 16, session_key=KEY, started_at_ms=2)
    assert journal.sent_before_bytes(PAYEE) == journal.sent_ever_bytes(PAYEE) == 7


def test_torrent_that_comes_back_goes_on_with_the_rows_it_left(journal: MeterJournal) -> None:
    segment = _segment(journal, 1)
    _commit_segment(journal, segment, byte_count=10)
    journal.retire_torrent(segment)
    # Its bytes are unattested: the row of the connection is still there.
    assert _segment(journal, 1) == segment
    _commit_segment(journal, segment, byte_count=20)
    _commit_segment(journal, segment, byte_count=40)
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    # Settled and not removed: it is still being metered.
    journal.retire_settled()
    _commit_segment(journal, segment, byte_count=80)
    totals = journal.totals()
    assert totals.delivered_p2p_bytes == 150
    assert (totals.sent_bytes, totals.ambiguous_bytes) == (14, 6)
    journal.retire_torrent(segment)
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    journal.retire_settled()
    assert journal.list_peers() == []
    after = journal.totals()
    assert (after.delivered_p2p_bytes, after.sent_bytes, after.ambiguous_bytes) == (150, 14, 6)


def test_late_proof_after_retirement_still_attests(journal: MeterJournal) -> None:
    segment = _segment(journal, 1)
    _commit_segment(journal, segment, byte_count=10)
    journal.retire_torrent(segment)
    assert journal.totals().unattested_bytes == 10
    journal.prove_peer(ALICE, PAYEE, epoch=6)
    assert journal.totals().delivered_p2p_bytes == 10
    assert journal.list_claims()[0].epoch == 6


def test_journal_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    journal = MeterJournal(path)
    journal.start_run(session_id=b"1" * 16, session_key=KEY, started_at_ms=1)
    _torrent(journal)
    journal.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for view in ("journal_foldable", "journal_foldable_run"):
            connection.execute(f"DROP VIEW {view}")
        for table in ("journal_retired", "journal_retired_run"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("ALTER TABLE journal_torrent DROP COLUMN scope_id")
        connection.execute("ALTER TABLE journal_torrent_run DROP COLUMN is_retired")
        connection.execute("UPDATE journal_schema SET version = 1")
    taken_over = MeterJournal(path)
    taken_over.start_run(session_id=b"2" * 16, session_key=KEY, started_at_ms=2)
    assert _torrent(taken_over) == 1
    _segment(taken_over, 1)
    taken_over.close()


def test_newest_peer_rows_are_listed_oldest_first(journal: MeterJournal) -> None:
    peers = [PeerKey(b"P" * 20, f"127.0.0.2:{port}") for port in range(1, 6)]
    for peer in peers:
        _credit(journal, peer, 10)
    assert [row.peer for row in journal.list_peers(newest=2)] == peers[-2:]
    assert [row.peer for row in journal.list_peers()] == peers


def test_key_of_a_connection_outlives_the_torrent_that_it_served_first(
    journal: MeterJournal,
) -> None:
    journal.prove_peer(ALICE, PAYEE, epoch=5)
    first = _segment(journal, 1)
    _commit_segment(journal, first, byte_count=10)
    with journal.transaction():
        journal.take_credits(journal.list_claims()[0])
    journal.retire_torrent(first)
    assert journal.list_peers() == []
    # Firm only after the connection has ended: nobody is there to prove it again.
    _commit_segment(journal, _segment(journal, 2), byte_count=20)
    assert [claim.byte_count for claim in journal.list_claims()] == [20]


def test_keys_of_ended_connections_are_bounded(
    journal: MeterJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_plugin.journal._KEYS_KEPT", 2)
    peers = [PeerKey(b"P" * 20, f"127.0.0.2:{port}") for port in range(1, 6)]
    for peer in peers:
        journal.prove_peer(peer, PAYEE, epoch=5)
    assert [journal.proved_key(peer) for peer in peers] == [None, None, None, PAYEE, PAYEE]
