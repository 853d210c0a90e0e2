"""When the pump makes credits durable, and under which epoch: a scripted alert queue."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import EPOCH, key_of

from engine_plugin import pump as pump_module
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey
from engine_plugin.libtorrent_door import PieceRead
from engine_plugin.libtorrent_door.session_records import Drained
from engine_plugin.meter import EventKind
from engine_plugin.pump import (
    COMMIT_SECONDS,
    EARLY_COMMIT_SECONDS,
    FORGET_SECONDS,
    GAUGE_SECONDS,
    MeterPump,
)
from engine_plugin.pump_steps import StepResult
from engine_plugin.pump_thread import PumpThread
from engine_plugin.torrents import make_torrent

PEER = PeerKey(b"P" * 20, "127.0.0.2:6881")
PIECE = 16_384
STEP = 1 << 19
"""So many more bytes make a receipt due."""


class Queue:
    """Stands where libtorrent's session stands: holds the events that the test put in."""

    reports_every_write = True

    def __init__(self) -> None:
        self.events: list[tuple[int, int, int, int, int]] = []
        self.next_piece = 0
        self.forgotten: set[int] = set()
        self.reads: list[PieceRead] = []
        self.removed: list[tuple[int, bool]] = []
        self.number = 0

    def deliver(self, byte_count: int) -> None:
        for _ in range(byte_count // PIECE):
            piece, self.next_piece = self.next_piece, self.next_piece + 1
            for kind in (EventKind.ASKED, EventKind.WRITTEN, EventKind.PASSED):
                self.events.append((kind, self.number, 0, piece, 0))

    def wait(self, timeout_ms: int) -> bool:
        return bool(self.events)

    def drain(self) -> Drained:
        events, self.events = self.events, []
        reads, self.reads = self.reads, []
        return Drained(events=events, reads=reads)

    def peers(self) -> list[Any]:
        return []

    def peer_key(self, peer: int) -> PeerKey:
        return PEER

    def peer_numbers(self) -> list[int]:
        return [number for number in range(4) if number not in self.forgotten]

    def forget_peers(self, unused: set[int]) -> None:
        self.forgotten |= unused

    def remove_torrent(self, torrent: int, *, deletes_files: bool) -> None:
        self.removed.append((torrent, deletes_files))


class Bench:
    """A pump over a scripted queue, its clock and the ledger's epoch in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.now_s, self.epoch = 100.0, EPOCH
        self.queue = Queue()
        self.journal = MeterJournal(folder / "meter.sqlite")
        self.journal.start_run(session_id=bytes(16), session_key=key_of("viewer"), started_at_ms=1)
        self.pump = MeterPump(
            self.queue,  # type: ignore[arg-type]  # the queue is all that is used of it here
            self.journal,
            current_epoch=lambda: self.epoch,
            clock=lambda: self.now_s,
        )
        (folder / "film").write_bytes(bytes(64 << 20))
        self.torrent = make_torrent(folder / "film", piece_bytes=PIECE)
        self.pump.lookahead.room_of = lambda _: STEP
        self.pump.add(self.torrent, lambda: 0)
        self.journal.prove_peer(PEER, key_of("seeder"), epoch=EPOCH)

    def step(self, passed_s: float = 0.0) -> bool:
        self.now_s += passed_s
        return self.pump.step(0).committed

    def claims(self) -> dict[int, int]:
        return {claim.epoch: claim.byte_count for claim in self.journal.list_claims()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.step(COMMIT_SECONDS)
    yield bench
    bench.journal.close()


def test_few_bytes_wait_for_the_next_commit(bench: Bench) -> None:
    bench.queue.deliver(PIECE)
    assert bench.step(COMMIT_SECONDS)
    bench.queue.deliver(PIECE)
    assert not bench.step(COMMIT_SECONDS / 2)
    assert bench.step(COMMIT_SECONDS / 2)
    assert bench.claims() == {EPOCH: 2 * PIECE}


def test_bytes_that_make_a_receipt_due_are_durable_at_once(bench: Bench) -> None:
    bench.queue.deliver(PIECE)
    assert bench.step(COMMIT_SECONDS)
    bench.queue.deliver(STEP)
    assert not bench.step(EARLY_COMMIT_SECONDS / 2)
    assert bench.step(EARLY_COMMIT_SECONDS / 2)
    assert bench.claims() == {EPOCH: STEP + PIECE}


def test_what_was_sent_is_durable_with_credits_and_needs_no_commit_of_its_own(
    bench: Bench,
) -> None:
    def send() -> None:
        bench.queue.events.append((EventKind.SENT, 0, 0, 0, 0))

    send()
    assert bench.step(GAUGE_SECONDS)
    send()
    bench.queue.deliver(PIECE)
    assert bench.step(COMMIT_SECONDS)
    assert [peer.sent_bytes for peer in bench.journal.list_peers()] == [2 * PIECE]
    assert not bench.step(GAUGE_SECONDS - COMMIT_SECONDS)
    send()
    assert bench.step(COMMIT_SECONDS), "alone it is durable within the second"
    assert [peer.sent_bytes for peer in bench.journal.list_peers()] == [3 * PIECE]


def test_slow_disk_is_not_asked_more_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = bench.journal.commit_batch

    def slowly(*arguments: Any, **fields: Any) -> None:
        bench.now_s += 0.02
        commit(*arguments, **fields)

    monkeypatch.setattr(bench.journal, "commit_batch", slowly)
    bench.queue.deliver(STEP)
    assert bench.step(COMMIT_SECONDS)
    bench.queue.deliver(STEP)
    assert not bench.step(0.1)
    assert bench.step(0.1)


def test_bytes_belong_to_the_epoch_in_which_they_became_firm(bench: Bench) -> None:
    bench.queue.deliver(PIECE)
    assert bench.step(COMMIT_SECONDS)
    bench.queue.deliver(2 * PIECE)
    assert not bench.step(0.01)
    bench.queue.deliver(2 * PIECE)
    bench.epoch = EPOCH + 1
    bench.step(0.01)
    bench.step(COMMIT_SECONDS)
    assert bench.claims() == {EPOCH: 3 * PIECE, EPOCH + 1: 2 * PIECE}


def test_bytes_of_before_the_first_reading_of_the_clock_get_the_epoch_then(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.epoch = None  # type: ignore[assignment]
    bench.queue.deliver(PIECE)
    bench.step(COMMIT_SECONDS)
    assert bench.claims() == {}
    bench.epoch = EPOCH
    bench.queue.deliver(PIECE)
    bench.step(COMMIT_SECONDS)
    bench.journal.stamp_epoch(EPOCH)
    assert bench.claims() == {EPOCH: 2 * PIECE}
    bench.journal.close()


def test_refused_commit_at_a_border_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise pump_module.JournalError("disk full")

    bench.queue.deliver(PIECE)
    assert bench.step(COMMIT_SECONDS)
    bench.queue.deliver(2 * PIECE)
    assert not bench.step(0.001)
    with monkeypatch.context() as patch:
        patch.setattr(bench.journal, "commit_batch", refuse)
        bench.epoch = EPOCH + 1
        bench.queue.deliver(PIECE)
        assert bench.pump.step(0).journal_error == "disk full"
    bench.step(COMMIT_SECONDS)
    assert sum(bench.claims().values()) == 4 * PIECE


def test_peers_of_no_use_are_forgotten_and_no_other(bench: Bench) -> None:
    # 0 delivered, 1 wrote a block of a piece that is not complete yet, 2 was sent to, 3 nothing.
    bench.queue.deliver(PIECE)
    bench.queue.events.append((EventKind.WRITTEN, 0, 1, 5, 0))
    bench.queue.events.append((EventKind.SENT, 0, 2, 0, 0))
    bench.step(FORGET_SECONDS)
    assert bench.queue.forgotten == set()
    bench.step(FORGET_SECONDS)
    assert bench.queue.forgotten == {3}
    bench.pump.remove(0)
    bench.step(FORGET_SECONDS)
    bench.step(FORGET_SECONDS)
    # Its key may be proved later: what was sent to 2 bounds what it may claim.
    assert bench.queue.forgotten == {0, 1, 3}


def test_what_was_sent_to_too_many_ended_peers_is_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "SENT_KEPT_MAX", 1)
    for peer in (1, 2):
        bench.queue.events.append((EventKind.SENT, 0, peer, 0, 0))
    bench.step(COMMIT_SECONDS)
    bench.pump.remove(0)
    bench.step(FORGET_SECONDS)
    bench.step(FORGET_SECONDS)
    assert bench.queue.forgotten == {0, 1, 3}


def test_torrent_is_removed_although_the_journal_refuses_and_its_bytes_are_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise pump_module.JournalError("disk full")

    bench.queue.deliver(3 * PIECE)
    with monkeypatch.context() as patch:
        patch.setattr(bench.journal, "commit_batch", refuse)
        result = bench.pump.remove(0, deletes_files=True)
    assert result.journal_error == "disk full"
    assert sum(result.removed_bytes.values()) == 3 * PIECE
    assert bench.queue.removed == [(0, True)]
    # It comes back before the journal is well again, and brings more.
    bench.pump.add(bench.torrent, lambda: 1)
    bench.queue.number, bench.queue.next_piece = 1, 0
    bench.queue.deliver(2 * PIECE)
    bench.step(COMMIT_SECONDS)
    assert bench.claims() == {EPOCH: 5 * PIECE}
    assert bench.pump.step(0).journal_error is None


def test_torrent_known_under_another_scope_holds_up_no_other(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(4 * PIECE))
    clip = make_torrent(tmp_path / "clip", piece_bytes=PIECE)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(**_: Any) -> int:
            raise pump_module.JournalError("disk full")

        patch.setattr(bench.journal, "add_torrent", refuse)
        bench.pump.add(clip, lambda: 1, scope_id=b"S" * 32)
    bench.journal.add_torrent(content_id=clip.content_id, name="clip", content_bytes=1)
    bench.queue.deliver(PIECE)
    bench.now_s += COMMIT_SECONDS
    told = bench.pump.step(0)
    assert told.committed
    assert "scope_id" in (told.journal_error or "")
    bench.queue.deliver(PIECE)
    bench.now_s += COMMIT_SECONDS
    assert bench.pump.step(0).journal_error is None
    assert bench.claims() == {EPOCH: 2 * PIECE}


def test_torrent_that_comes_back_is_told_removed_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.queue.deliver(PIECE)
    bench.step(COMMIT_SECONDS)
    retire = bench.journal.retire_torrent

    def refuse(_: int) -> None:
        raise pump_module.JournalError("disk full")

    monkeypatch.setattr(bench.journal, "retire_torrent", refuse)
    torrent = bench.torrent
    bench.pump.remove(0)
    bench.pump.add(torrent, lambda: 0)
    monkeypatch.setattr(bench.journal, "retire_torrent", retire)
    bench.queue.next_piece = 0
    for count in (1, 2):
        bench.queue.deliver(PIECE)
        bench.step(COMMIT_SECONDS)
        assert bench.claims() == {EPOCH: (count + 1) * PIECE}
    with bench.journal.transaction():
        bench.journal.take_credits(bench.journal.list_claims()[0])
    bench.journal.retire_settled()
    bench.queue.deliver(PIECE)
    bench.step(COMMIT_SECONDS)
    assert bench.claims() == {EPOCH: PIECE}


def test_pieces_are_read_whatever_the_meter_and_the_journal_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no such row")

    monkeypatch.setattr(bench.journal, "commit_batch", refuse)
    bench.queue.deliver(PIECE)
    bench.queue.events.append((EventKind.WRITTEN, 0, 0, 1 << 30, 0))
    bench.queue.reads.append(PieceRead(torrent=0, piece=0, data=b"picture"))
    bench.now_s += COMMIT_SECONDS
    result = bench.pump.step(0)
    assert [read.data for read in result.reads] == [b"picture"]
    assert result.journal_error is not None
    # What cannot be metered counts as lost: nothing is guessed from what came before it.
    assert bench.pump.meter(0).is_estimated


def test_thread_outlives_whatever_a_step_raises() -> None:
    class Faulty:
        steps = 0

        def rest_s(self) -> float:
            return 0.0

        def step(self, timeout_ms: int) -> StepResult:
            self.steps += 1
            if self.steps == 1:
                raise RuntimeError("invalid torrent handle used")
            return StepResult(notices=(), credited_bytes=0, committed=True)

    async def scene() -> list[str]:
        told: list[str] = []
        stepped = asyncio.Event()
        thread = PumpThread(
            Faulty(),  # type: ignore[arg-type]  # a pump that fails once
            take_step=lambda _: stepped.set(),
            fail=lambda _, detail: told.append(detail),
        )
        async with asyncio.timeout(5):
            await stepped.wait()
        thread.stop()
        return told

    assert asyncio.run(scene()) == ["RuntimeError: invalid torrent handle used"]
