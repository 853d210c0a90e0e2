"""Readers over a content in memory whose pieces arrive when a test says so."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.content import SourceBytes
from engine_plugin.errors import EngineError
from engine_plugin.meter import PieceLayout
from engine_plugin.playback.piece_desk import PieceDesk
from engine_plugin.playback.reader import Reader, WindowPolicy
from engine_plugin.playback.spans import SpanError, list_spans
from engine_plugin.torrents import TorrentFile

PIECE = 1 << 14


def make_torrent(sizes: list[int]) -> TorrentFile:
    """Files that each begin at a piece, as hybrid torrents have them."""
    pads, at = [], 0
    for size in sizes:
        at += size
        if gap := -at % PIECE:
            pads.append((at, at + gap))
            at += gap
    if pads and pads[-1][1] == at:
        at = pads.pop()[0]
    return TorrentFile(
        data=b"",
        name="t",
        infohash_v1=bytes(20),
        infohash_v2=bytes(32),
        layout=PieceLayout(total_bytes=at, piece_bytes=PIECE, pads=tuple(pads)),
        files=tuple((f"t/{index}", size) for index, size in enumerate(sizes)),
        web_seeds=(),
        is_private=False,
    )


class MemoryContent:
    """A `PieceSource` of random bytes."""

    def __init__(self, sizes: list[int], *, is_there: bool = True) -> None:
        self.torrent = make_torrent(sizes)
        layout = self.torrent.layout
        self.data = bytearray(random.Random(1).randbytes(layout.total_bytes))
        for start, end in layout.pads:
            self.data[start:end] = bytes(end - start)
        self.there = set(range(layout.piece_count)) if is_there else set()
        self.wanted: dict[int, int] = {}
        self.priorities: dict[int, int] = {}
        self.forgotten = 0
        self.received = 0
        self.reads: list[int] = []
        self.broken: set[int] = set()
        self._arrived = asyncio.Condition()

    def has_piece(self, piece: int) -> bool:
        return piece in self.there

    async def wait_for_piece(self, piece: int) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: piece in self.there)

    async def read_piece(self, piece: int) -> bytes:
        self.reads.append(piece)
        await asyncio.sleep(0)
        if piece in self.broken:
            raise EngineError(f"piece {piece}: cannot be read")
        return bytes(self.data[piece * PIECE : (piece + 1) * PIECE])

    def want_piece(self, piece: int, deadline_ms: int) -> None:
        assert deadline_ms >= 0
        self.wanted[piece] = deadline_ms

    def touched_pieces(self) -> set[int]:
        return set(self.wanted)

    def set_priorities(self, priorities: Mapping[int, int]) -> None:
        self.priorities.update(priorities)

    def bytes_by_source(self) -> SourceBytes:
        return SourceBytes(p2p_bytes=self.received)

    def forget_deadlines(self) -> None:
        self.wanted.clear()
        self.forgotten += 1

    async def arrive(self, *pieces: int) -> None:
        async with self._arrived:
            self.there.update(pieces)
            self._arrived.notify_all()

    def file(self, index: int) -> bytes:
        span = list_spans(self.torrent)[index]
        return bytes(self.data[span.start : span.start + span.size_bytes])


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@given(
    sizes=st.lists(st.integers(0, 5 * PIECE), min_size=1, max_size=5).filter(any),
    data=st.data(),
)
def test_any_range_of_any_file_is_the_files_bytes(sizes: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(sizes) - 1))
    offset = data.draw(st.integers(0, sizes[index]))
    length = data.draw(st.integers(0, sizes[index] - offset))

    async def run() -> bytes:
        content = MemoryContent(sizes)
        got = await Reader(PieceDesk(content), index).read_all(offset, length)
        assert got == content.file(index)[offset : offset + length]
        return got

    assert len(asyncio.run(run())) == length


def test_files_do_not_overlap_and_hold_no_padding() -> None:
    torrent = make_torrent([5, 0, PIECE, 3 * PIECE + 1, 9])
    spans = list_spans(torrent)
    assert [span.start for span in spans] == [0, 5, PIECE, 2 * PIECE, 6 * PIECE]
    assert sum(span.size_bytes for span in spans) == torrent.content_bytes


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 11), (11, 0), (5, -1)])
def test_range_outside_the_file_is_refused(offset: int, length: int) -> None:
    async def run() -> None:
        await Reader(PieceDesk(MemoryContent([10])), 0).read_all(offset, length)

    with pytest.raises(SpanError):
        asyncio.run(run())


def test_file_that_is_not_there_is_refused() -> None:
    async def run() -> None:
        Reader(PieceDesk(MemoryContent([10])), 1)

    with pytest.raises(SpanError):
        asyncio.run(run())


SMALL = WindowPolicy(first_bytes=1)


def test_window_begins_small_and_grows_by_what_is_delivered() -> None:
    async def run() -> None:
        content = MemoryContent([64 * PIECE], is_there=False)
        reader = Reader(PieceDesk(content), 0, policy=SMALL)
        async with aclosing(reader.read(8 * PIECE, 40 * PIECE)) as parts:
            first = asyncio.ensure_future(anext(parts))
            await settle()
            assert set(content.wanted) == {8}
            await content.arrive(8)
            await first
            second = asyncio.ensure_future(anext(parts))
            await settle()
            assert set(content.wanted) == {8, 9, 10}
            await content.arrive(9)
            await second

    asyncio.run(run())


def test_window_begins_as_large_as_what_comes_in_within_a_moment() -> None:
    async def run() -> None:
        now_s = 100.0
        content = MemoryContent([640 * PIECE], is_there=False)
        desk = PieceDesk(content, clock=lambda: now_s)
        assert desk.inflow_bytes_per_s() == 0
        now_s, content.received = 101.0, 20 * PIECE
        assert desk.inflow_bytes_per_s() == 20 * PIECE
        reader = Reader(desk, 0, policy=SMALL)
        parts = reader.read(100 * PIECE, 100 * PIECE)
        waiting = asyncio.ensure_future(anext(parts))
        await settle()
        assert set(content.wanted) == set(range(100, 110))
        assert content.wanted[109] > content.wanted[101] > content.wanted[100] == 0
        waiting.cancel()
        await settle()

    asyncio.run(run())


def test_window_grows_with_what_comes_in_while_its_first_piece_is_awaited() -> None:
    async def run() -> None:
        now_s = 100.0
        content = MemoryContent([640 * PIECE], is_there=False)
        reader = Reader(PieceDesk(content, clock=lambda: now_s), 0, policy=SMALL)
        waiting = asyncio.ensure_future(anext(reader.read(0, 100 * PIECE)))
        await settle()
        assert set(content.wanted) == {0}
        now_s, content.received = 101.0, 20 * PIECE
        async with asyncio.timeout(10):
            while len(content.wanted) < 10:
                await asyncio.sleep(0.02)
        waiting.cancel()
        await settle()

    asyncio.run(run())


def test_window_ends_with_the_range() -> None:
    async def run() -> None:
        content = MemoryContent([64 * PIECE], is_there=False)
        await content.arrive(*range(10))
        reader = Reader(PieceDesk(content), 0, policy=SMALL)
        async with aclosing(reader.read(0, 12 * PIECE)) as parts:
            for _ in range(10):
                await anext(parts)
            waiting = asyncio.ensure_future(anext(parts))
            await settle()
            assert set(content.wanted) == {10, 11}
            await content.arrive(10)
            await waiting

    asyncio.run(run())


def test_stage_takes_the_deadlines_of_the_next_pieces_and_gives_them_back() -> None:
    async def run() -> None:
        content = MemoryContent([200 * PIECE], is_there=False)
        desk = PieceDesk(content, clock=lambda: 100.0)
        started: list[bool] = []
        desk.on_start = lambda: started.append(desk.is_starting())
        reading = asyncio.ensure_future(Reader(desk, 0, policy=SMALL).read_all(50 * PIECE, PIECE))
        await settle()
        assert started == [True]
        assert set(content.wanted) == {50}
        desk.stage(is_on=True)
        assert 50 not in content.wanted
        assert content.priorities[50] == 7
        desk.stage(is_on=False)
        assert content.wanted[50] == 0
        await content.arrive(50)
        await reading
        assert not desk.is_starting()

    asyncio.run(run())


def test_seek_forgets_the_old_window() -> None:
    async def run() -> None:
        content = MemoryContent([64 * PIECE], is_there=False)
        reader = Reader(PieceDesk(content), 0, policy=SMALL)
        for start in (0, 30):
            parts = reader.read(start * PIECE, PIECE)
            waiting = asyncio.ensure_future(anext(parts))
            await settle()
            assert set(content.wanted) == {start}
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert content.wanted == {}

    asyncio.run(run())


def test_leaving_player_takes_nothing_from_another() -> None:
    async def run() -> None:
        content = MemoryContent([64 * PIECE], is_there=False)
        desk = PieceDesk(content)
        waits = [
            asyncio.ensure_future(Reader(desk, 0).read_all(start * PIECE, PIECE))
            for start in (5, 5, 20)
        ]
        await settle()
        assert set(content.wanted) == {5, 20}
        waits[0].cancel()
        waits[2].cancel()
        await settle()
        assert set(content.wanted) == {5}
        assert desk.head_count == 1
        await content.arrive(5)
        assert await waits[1] == content.file(0)[5 * PIECE : 6 * PIECE]
        assert desk.head_count == 0

    asyncio.run(run())


def test_piece_is_read_once_for_all_who_wait() -> None:
    async def run() -> None:
        content = MemoryContent([4 * PIECE])
        desk = PieceDesk(content)
        got = await asyncio.gather(*(Reader(desk, 0).read_all(0, 4 * PIECE) for _ in range(5)))
        assert set(got) == {content.file(0)}
        assert sorted(content.reads) == [0, 1, 2, 3]

    asyncio.run(run())


def test_one_who_gives_up_does_not_take_the_piece_from_another() -> None:
    async def run() -> None:
        content = MemoryContent([PIECE])
        desk = PieceDesk(content)
        one = asyncio.ensure_future(desk.take(0))
        other = asyncio.ensure_future(desk.take(0))
        await asyncio.sleep(0)
        one.cancel()
        assert await other == content.file(0)

    asyncio.run(run())


def test_slow_player_is_not_read_ahead_for_without_end() -> None:
    async def run() -> None:
        content = MemoryContent([200 * PIECE])
        policy = WindowPolicy(stock_bytes=4 * PIECE)
        reader = Reader(PieceDesk(content), 0, policy=policy)
        async with aclosing(reader.read(0, 200 * PIECE)) as parts:
            for _ in range(10):
                await anext(parts)
            await settle()
            assert max(content.reads) <= 9 + 5

    asyncio.run(run())


def test_cache_stays_within_its_bound() -> None:
    async def run() -> None:
        content = MemoryContent([20 * PIECE])
        desk = PieceDesk(content, cache_bytes=3 * PIECE)
        policy = WindowPolicy(stock_bytes=0)
        await Reader(desk, 0, policy=policy).read_all(0, 20 * PIECE)
        before = len(content.reads)
        await desk.take(19)
        assert len(content.reads) == before
        await desk.take(0)
        assert len(content.reads) == before + 1

    asyncio.run(run())


def test_piece_that_cannot_be_read_ends_the_read_and_the_window() -> None:
    async def run() -> None:
        content = MemoryContent([4 * PIECE])
        content.broken.add(2)
        desk = PieceDesk(content)
        with pytest.raises(EngineError):
            await Reader(desk, 0).read_all(0, 4 * PIECE)
        assert desk.head_count == 0
        content.broken.clear()
        assert await Reader(desk, 0).read_all(0, 4 * PIECE) == content.file(0)
        await desk.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "fields",
    [
        {"first_bytes": 0},
        {"ahead_ms": 0},
        {"least_bytes": 0},
        {"most_bytes": 1},
        {"stock_bytes": -1},
    ],
)
def test_policy_out_of_range_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields)).partition("_")[0]):
        WindowPolicy(**fields)
