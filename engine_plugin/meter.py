"""Counts, exactly, which peer delivered which verified block of one torrent.

The meter turns libtorrent's events, in queue order and copied to plain tuples, into credits: a
block is credited to the peer whose copy was written, once its piece has passed the hash check.
Only firm credits leave the meter, and a firm credit never falls. What is not certain stays
pending (no write report yet) or becomes ambiguous (several peers were asked and none was seen
writing); ambiguous bytes are reported and never claimed.

A block counts with the bytes it shares with real files: padding is nobody's.

This module does not know libtorrent, peers' keys, clocks or disks; peers are small integers.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, repeat
from typing import NamedTuple, TypeAlias

BLOCK_BYTES = 16384
"""The unit of BitTorrent requests; the last block of a piece may be shorter."""


class EventKind(IntEnum):
    """What happened; the first field of an event tuple."""

    ASKED = 0
    """A request for the block was queued to the peer."""
    WRITTEN = 1
    """The peer's copy of the block was written to disk."""
    PASSED = 2
    """The piece passed its hash check."""
    FAILED = 3
    """The piece failed its hash check."""
    SENT = 4
    """The block was put into the peer's send buffer."""
    CHECKING = 5
    """The files on disk are being checked from here on."""
    CHECKED = 6
    """The check of the files on disk has ended."""
    FINISHED = 7
    """Every wanted piece has passed."""
    DROPPED = 8
    """Events were lost here; of all torrents of the session."""
    SENT_BLOCKS = 9
    """So many blocks of 16 KiB content each were put into the peer's send buffer."""


# Plain integers for the loop that runs twice per block.
_ASKED, _WRITTEN, _SENT = int(EventKind.ASKED), int(EventKind.WRITTEN), int(EventKind.SENT)
_SENT_BLOCKS = int(EventKind.SENT_BLOCKS)
_NOBODY = -1
"""In the list of a piece's blocks."""


class Event(NamedTuple):
    """One event; the meter reads any 5-tuple of this order."""

    kind: int
    torrent: int
    """Number of the torrent in its session; -1: all."""
    peer: int
    """Number of the (peer-id, endpoint) pair in its session; -1: none."""
    piece: int
    """With SENT_BLOCKS: how many."""
    block: int


Credit: TypeAlias = tuple[int, int, int]
"""A block that became firm: piece, block, and its content bytes (1 to 16,384)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceLayout:
    """How a torrent's pieces are cut and which of their bytes are padding.

    Raises:
        ValueError: a size is out of range, or the pad ranges overlap or are out of order.
    """

    total_bytes: int
    """Size of all pieces together, padding included; n ≥ 1."""

    piece_bytes: int
    """Size of every piece but the last; n ≥ 1."""

    pads: tuple[tuple[int, int], ...] = ()
    """Half-open byte ranges of pad files, ascending."""

    padding_on_wire: bool = True
    """Whether peers send the padding inside a block: yes with v1 and hybrid, no with v2 only."""

    def __post_init__(self) -> None:
        if self.total_bytes < 1:
            raise ValueError(f"total_bytes: got {self.total_bytes}, want n >= 1")
        if self.piece_bytes < 1:
            raise ValueError(f"piece_bytes: got {self.piece_bytes}, want n >= 1")
        last = 0
        for start, end in self.pads:
            if not last <= start < end <= self.total_bytes:
                raise ValueError(
                    f"pads: got ({start}, {end}) after {last}, want ascending ranges in "
                    f"0..{self.total_bytes}"
                )
            last = end

    @property
    def piece_count(self) -> int:
        """Number of pieces; n ≥ 1."""
        return -(-self.total_bytes // self.piece_bytes)

    @property
    def blocks_per_piece(self) -> int:
        """Number of blocks of every piece but the last; n ≥ 1."""
        return -(-self.piece_bytes // BLOCK_BYTES)

    @property
    def content_bytes(self) -> int:
        """Size of the files, without padding."""
        return self.total_bytes - sum(end - start for start, end in self.pads)

    @property
    def mixed_padding_bytes(self) -> int:
        """Padding inside blocks that also hold content."""
        return sum(min(end - start, -start % BLOCK_BYTES) for start, end in self.pads)


class _BlockSizes:
    """Content bytes of each block of a piece, by one search of the pad ranges."""

    __slots__ = ("_layout", "_plain", "_starts", "_sums")

    def __init__(self, layout: PieceLayout) -> None:
        self._layout = layout
        self._starts = [start for start, _ in layout.pads]
        self._sums = [0, *accumulate(end - start for start, end in layout.pads)]
        self._plain = _block_lengths(layout.piece_bytes)

    def wire(self, piece: int) -> list[int]:
        """Returns the size of each block as BitTorrent requests it."""
        size = min(
            self._layout.piece_bytes, self._layout.total_bytes - piece * self._layout.piece_bytes
        )
        return self._plain if size == self._layout.piece_bytes else _block_lengths(size)

    def content(self, piece: int) -> list[int]:
        """Returns the content bytes of each block of the piece; 0 for a block of padding."""
        lengths = self.wire(piece)
        if not self._starts:
            return lengths
        first = piece * self._layout.piece_bytes
        if self._padding_before(first) == self._padding_before(first + sum(lengths)):
            return lengths
        before = [self._padding_before(edge) for edge in accumulate(lengths, initial=first)]
        return [
            length - (before[number + 1] - before[number]) for number, length in enumerate(lengths)
        ]

    def _padding_before(self, offset: int) -> int:
        index = bisect_right(self._starts, offset)
        if index == 0:
            return 0
        start, end = self._layout.pads[index - 1]
        return self._sums[index - 1] + min(offset, end) - start


class TorrentMeter:
    """The metering algorithm for one torrent in one session.

    Totals are read from the attributes; credits are taken once each with `take_credits`.
    At any time: firm + pending + ambiguous = content bytes of the pieces that passed after they
    were downloaded (`passed_bytes`).

    Blocks of unfinished pieces are kept as one list of peers a piece, which goes when the piece
    passes or fails: a block costs two list accesses and one credit.
    """

    def __init__(self, layout: PieceLayout, *, reports_every_write: bool = False) -> None:
        """Starts at zero; nothing has passed, no check is running.

        Args:
            layout: How the torrent is cut.
            reports_every_write: Whether each accepted copy is told by WRITTEN, and before its
                piece is told to have passed or failed. Then a block that is not written again
                after its piece failed is the copy written before: v2 fetches bad blocks only.
        """
        self.layout = layout
        self._reports_every_write = reports_every_write
        self.firm: defaultdict[int, int] = defaultdict(int)
        """Credited content bytes by peer; never falls."""
        self.failed: defaultdict[int, int] = defaultdict(int)
        """Content bytes of pieces that failed the hash check, by peer."""
        self.sent: defaultdict[int, int] = defaultdict(int)
        """Content bytes handed to the send buffer, by peer; upper bound, never a claim."""
        self.padding: defaultdict[int, int] = defaultdict(int)
        """Padding bytes inside credited blocks, by peer."""
        self.passed_bytes = 0
        """Content bytes of pieces that passed after a download."""
        self.present_bytes = 0
        """Content bytes that the last check found on disk."""
        self.is_estimated = False
        """Whether events were lost: totals may be too low, never too high."""
        self.is_finished = False
        """Whether the torrent has been reported finished since the last check."""
        self._sizes = _BlockSizes(layout)
        self._width = layout.blocks_per_piece
        self._pieces = layout.piece_count
        self._checking = False
        self._settled: set[int] = set()
        self._present: set[int] = set()
        """Pieces counted in `present_bytes`."""
        self._wrote: dict[int, list[int]] = {}
        """Writer of each block, by piece that is not settled."""
        self._survivors: dict[int, list[int]] = {}
        """Last writer of each block before its piece last failed, by piece."""
        self._asked: dict[int, list[int]] = {}
        """Last peer asked for each block, by piece."""
        self._several: set[int] = set()
        """Blocks that more than one peer was asked for, by key."""
        self._open: dict[int, tuple[int, int]] = {}
        """Passed without a write report: last peer asked, and length, by key."""
        self._doubtful: dict[int, int] = {}
        """Length of ambiguous blocks that a late write report can still settle, by key."""
        self._lost_bytes = 0
        self._credits: defaultdict[int, list[Credit]] = defaultdict(list)

    @property
    def pending_bytes(self) -> int:
        """Content bytes that passed and wait for a write report."""
        return sum(length for _, length in self._open.values())

    @property
    def ambiguous_bytes(self) -> int:
        """Content bytes that passed and can be attributed to nobody."""
        return self._lost_bytes + sum(self._doubtful.values())

    def list_peers(self) -> set[int]:
        """Returns every peer that anything is counted for, or may be yet."""
        peers = {peer for peer, _ in self._open.values()}
        for counts in (self.firm, self.failed, self.sent, self.padding, self._credits):
            peers |= counts.keys()
        for rows in (self._wrote, self._survivors, self._asked):
            peers.update(*rows.values())
        peers.discard(_NOBODY)
        return peers

    def take_credits(self) -> dict[int, list[Credit]]:
        """Returns each peer's credits since the last call, in credit order."""
        taken, self._credits = self._credits, defaultdict(list)
        return taken

    def feed(self, events: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Takes events of this torrent strictly in queue order.

        Raises:
            ValueError: An event names a piece or a block that the torrent does not have.
        """
        # The kinds that come once per block are dispatched first and by plain comparison.
        wrote, asked = self._wrote, self._asked
        for kind, _, peer, piece, block in events:
            if kind == _WRITTEN:
                row = wrote.get(piece)
                if row is None:
                    if piece in self._settled:
                        self._on_late_write(peer, piece, block)
                        continue
                    row = wrote[piece] = self._make_row(piece)
                if not 0 <= block < len(row):
                    raise self._out_of_range(piece, block)
                row[block] = peer
            elif kind == _SENT_BLOCKS:
                self.sent[peer] += piece * BLOCK_BYTES
            elif kind == _SENT:
                self.sent[peer] += self._content_of(piece, block)
            elif kind == _ASKED:
                row = asked.get(piece)
                if row is None:
                    row = asked[piece] = self._make_row(piece)
                if not 0 <= block < len(row):
                    raise self._out_of_range(piece, block)
                if row[block] not in (_NOBODY, peer):
                    self._several.add(piece * self._width + block)
                row[block] = peer
            else:
                self._on_rare(kind, piece)

    def feed_with_loss(self, events: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Takes a batch out of which events were lost: nobody knows where.

        A piece may have failed, been fetched from another peer and passed, and of all that only
        the first writes and the last word came through. So no block of such a batch is credited.

        Raises:
            ValueError: An event names a piece or a block that the torrent does not have.
        """
        self._on_dropped()
        self.feed(event for event in events if event[0] not in {_WRITTEN, _ASKED})

    def settle_pending(self) -> None:
        """Decides what still waits, after the torrent finished and the queue had time to drain.

        A block asked of exactly one peer becomes that peer's; the others become ambiguous. A
        write report that comes still later turns ambiguous into firm.
        """
        for key, (peer, length) in self._open.items():
            if key in self._several:
                self._several.discard(key)
                self._doubtful[key] = length
            else:
                self._credit(peer, key, length)
        self._open.clear()

    def forget_piece(self, piece: int) -> None:
        """Takes note that the data of a piece was lost; it may be downloaded and counted again."""
        self._settled.discard(self._in_range(piece))
        if piece in self._present:
            self._present.remove(piece)
            self.present_bytes -= sum(self._sizes.content(piece))
        for rows in (self._wrote, self._asked, self._survivors):
            rows.pop(piece, None)
        for key in range(piece * self._width, (piece + 1) * self._width):
            if entry := self._open.pop(key, None):
                self._lost_bytes += entry[1]
            self._lost_bytes += self._doubtful.pop(key, 0)
            self._several.discard(key)

    def _on_rare(self, kind: int, piece: int) -> None:
        if kind == EventKind.PASSED:
            self._on_passed(self._in_range(piece))
        elif kind == EventKind.FAILED:
            self._on_failed(self._in_range(piece))
        elif kind == EventKind.CHECKING:
            self._restart_check()
        elif kind == EventKind.CHECKED:
            # A write of before the check may be reported during it: it belongs to no open piece.
            if self._checking:
                self._drop_open_blocks()
            self._checking = False
        elif kind == EventKind.FINISHED:
            self.is_finished = True
        elif kind == EventKind.DROPPED:
            self._on_dropped()
        else:
            raise ValueError(f"kind: got {kind}, want an EventKind")

    def _on_late_write(self, peer: int, piece: int, block: int) -> None:
        self._content_of(piece, block)
        key = piece * self._width + block
        if entry := self._open.pop(key, None):
            self._credit(peer, key, entry[1])
            self._several.discard(key)
        elif length := self._doubtful.pop(key, 0):
            self._credit(peer, key, length)

    def _on_passed(self, piece: int) -> None:
        if piece in self._settled:
            return
        self._settled.add(piece)
        writers, asked = self._wrote.pop(piece, None), self._asked.pop(piece, None)
        sizes = self._sizes.content(piece)
        if survivors := self._survivors.pop(piece, None):
            writers = self._fill_gaps(writers, survivors, sizes)
        if self._checking:
            self._present.add(piece)
            self.present_bytes += sum(sizes)
            self._forget_several(piece)
            return
        self.passed_bytes += sum(sizes)
        if writers is None or _NOBODY in writers:
            self._settle_gaps(piece, sizes, writers, asked)
            return
        self._forget_several(piece)
        blocks = [*zip(repeat(piece), range(len(sizes)), sizes, strict=False)]
        peers = set(writers)
        for peer in peers:
            own = blocks
            if len(peers) > 1:
                own = [block for block, writer in zip(own, writers, strict=True) if writer == peer]
            if 0 in sizes:
                own = [block for block in own if block[2]]
            if own:
                self._credits[peer] += own
                self.firm[peer] += sum([length for _, _, length in own])
        if self._has_wire_padding:
            self._count_padding(piece, writers, sizes)

    def _fill_gaps(
        self, writers: list[int] | None, survivors: list[int], sizes: list[int]
    ) -> list[int]:
        """Returns the writers, with those of copies that outlived a failure of their piece."""
        filled = [_NOBODY] * len(sizes) if writers is None else writers
        for block, survivor in enumerate(survivors):
            if filled[block] == _NOBODY and survivor != _NOBODY:
                filled[block] = survivor
                # It was charged with the whole piece, and was not bad after all.
                self.failed[survivor] -= sizes[block]
        return filled

    def _settle_gaps(
        self, piece: int, sizes: list[int], writers: list[int] | None, asked: list[int] | None
    ) -> None:
        """Settles a passed piece that has blocks without a write report."""
        first = piece * self._width
        for block, length in enumerate(sizes):
            key = first + block
            writer = _NOBODY if writers is None else writers[block]
            last_asked = _NOBODY if asked is None else asked[block]
            if not length:
                self._several.discard(key)
            elif writer != _NOBODY:
                self._several.discard(key)
                self._credit(writer, key, length)
            elif last_asked != _NOBODY:
                self._open[key] = last_asked, length
            elif self.is_estimated:
                # Downloaded, yet nobody was seen, for events were lost: a report that comes now
                # may belong to a copy that is long gone.
                self._lost_bytes += length
            else:
                # The block survived a failed piece, or its report is late. It may be anybody's,
                # so it is nobody's until it is reported.
                self._doubtful[key] = length

    def _on_failed(self, piece: int) -> None:
        if piece in self._settled:
            self.forget_piece(piece)
            return
        writers, asked = self._wrote.pop(piece, None), self._asked.pop(piece, None)
        self._forget_several(piece)
        if self._reports_every_write and writers is not None and not self._checking:
            before = self._survivors.get(piece, writers)
            self._survivors[piece] = [
                old if new == _NOBODY else new for old, new in zip(before, writers, strict=True)
            ]
        for block, length in enumerate(self._sizes.content(piece)):
            culprit = _NOBODY if writers is None else writers[block]
            if culprit == _NOBODY and asked is not None:
                culprit = asked[block]
            if culprit != _NOBODY and length:
                self.failed[culprit] += length

    def _on_dropped(self) -> None:
        # What was known of unfinished pieces may have been overtaken by a lost event.
        self.is_estimated = True
        for key, (_, length) in self._open.items():
            self._doubtful[key] = length
        self._open.clear()
        self._drop_open_blocks()

    def _restart_check(self) -> None:
        self.settle_pending()
        self._lost_bytes += sum(self._doubtful.values())
        self._doubtful.clear()
        self._drop_open_blocks()
        self._settled.clear()
        self._present.clear()
        self.present_bytes = 0
        self.is_finished = False
        self._checking = True

    def _drop_open_blocks(self) -> None:
        self._wrote.clear()
        self._survivors.clear()
        self._asked.clear()
        self._several.clear()

    def _forget_several(self, piece: int) -> None:
        if self._several:
            first = piece * self._width
            self._several.difference_update(range(first, first + self._width))

    @property
    def _has_wire_padding(self) -> bool:
        return self.layout.padding_on_wire and bool(self.layout.pads)

    def _count_padding(self, piece: int, writers: list[int], sizes: list[int]) -> None:
        for writer, whole, length in zip(writers, self._sizes.wire(piece), sizes, strict=True):
            if length:
                self.padding[writer] += whole - length

    def _credit(self, peer: int, key: int, length: int) -> None:
        piece, block = divmod(key, self._width)
        self.firm[peer] += length
        if self._has_wire_padding:
            self.padding[peer] += self._sizes.wire(piece)[block] - length
        self._credits[peer].append((piece, block, length))

    def _make_row(self, piece: int) -> list[int]:
        return [_NOBODY] * len(self._sizes.wire(self._in_range(piece)))

    def _content_of(self, piece: int, block: int) -> int:
        sizes = self._sizes.content(self._in_range(piece))
        if not 0 <= block < len(sizes):
            raise self._out_of_range(piece, block)
        return sizes[block]

    def _out_of_range(self, piece: int, block: int) -> ValueError:
        return ValueError(
            f"block: got piece {piece} block {block}, want piece < {self._pieces}, "
            f"block < {self._width}"
        )

    def _in_range(self, piece: int) -> int:
        if not 0 <= piece < self._pieces:
            raise ValueError(f"piece: got {piece}, want 0..{self._pieces - 1}")
        return piece


def _block_lengths(size: int) -> list[int]:
    return [min(BLOCK_BYTES, size - start) for start in range(0, size, BLOCK_BYTES)]
