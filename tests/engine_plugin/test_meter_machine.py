"""The meter against a scripted torrent whose truth is known: any order, any accident.

The scripted torrent does what libtorrent does (who is asked, whose copy is accepted, what is told,
when a report is late or lost) and writes down who really delivered each block that passed.
"""

from collections import Counter, defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine_plugin.meter import BLOCK_BYTES, EventKind, PieceLayout, TorrentMeter

PEERS = 3
PIECES = 3
BLOCKS = 2
# Two full pieces of two blocks, and a last piece of one short block.
LAYOUTS = [
    PieceLayout(total_bytes=4 * BLOCK_BYTES + 1000, piece_bytes=2 * BLOCK_BYTES),
    PieceLayout(
        total_bytes=4 * BLOCK_BYTES + 1000,
        piece_bytes=2 * BLOCK_BYTES,
        pads=((20_000, 2 * BLOCK_BYTES),),
    ),
]
Block = tuple[int, int]
PEER, PIECE = st.integers(0, PEERS - 1), st.integers(0, PIECES - 1)


class ScriptedTorrent(RuleBasedStateMachine):
    """What a downloading torrent does to its meter."""

    reports_every_write = True

    @initialize(layout=st.sampled_from(LAYOUTS))
    def start(self, layout: PieceLayout) -> None:
        self.layout = layout
        self.meter = TorrentMeter(layout, reports_every_write=self.reports_every_write)
        self.queue: list[tuple[int, int, int, int, int]] = []
        self.accepted: dict[Block, int] = {}
        """Whose copy of a block of an open piece was accepted."""
        self.asked: set[tuple[Block, int]] = set()
        self.late: list[tuple[int, int, int, int, int]] = []
        """Write reports that have not been posted yet."""
        self.on_disk: set[int] = set()
        self.connection = list(range(PEERS))
        """Number of each true peer's present connection."""
        self.true_peer = dict(enumerate(range(PEERS)))
        self.delivered: Counter[Block] = Counter()
        """How often a block passed after a download."""
        self.truth: defaultdict[Block, Counter[int]] = defaultdict(Counter)
        """How often a true peer's copy of a block was in a piece that passed."""
        self.credited: defaultdict[Block, Counter[int]] = defaultdict(Counter)
        self.firm_before: dict[int, int] = {}
        self.firm_of_earlier_runs = 0
        self.taken_bytes: Counter[int] = Counter()
        self.has_loss = False
        self.passed_bytes = 0

    def post(self, kind: EventKind, peer: int = -1, piece: int = 0, block: int = 0) -> None:
        self.queue.append((int(kind), 0, peer, piece, block))

    def blocks_of(self, piece: int) -> list[Block]:
        return [(piece, block) for block in range(BLOCKS if piece < PIECES - 1 else 1)]

    def length_of(self, block: Block) -> int:
        begin = block[0] * self.layout.piece_bytes + block[1] * BLOCK_BYTES
        end = min(begin + BLOCK_BYTES, self.layout.total_bytes)
        pad = sum(max(0, min(end, b) - max(begin, a)) for a, b in self.layout.pads)
        return end - begin - pad

    @property
    def open_blocks(self) -> list[Block]:
        return [
            block
            for piece in range(PIECES)
            if piece not in self.on_disk
            for block in self.blocks_of(piece)
            if block not in self.accepted
        ]

    @rule(peer=PEER, piece=PIECE, number=st.integers(0, BLOCKS - 1))
    def ask(self, peer: int, piece: int, number: int) -> None:
        if (block := (piece, number)) in self.open_blocks:
            self.asked.add((block, peer))
            self.post(EventKind.ASKED, self.connection[peer], *block)

    @rule(peers=st.lists(PEER, min_size=1, max_size=3), piece=PIECE, is_late=st.booleans())
    def fetch_rest(self, peers: list[int], piece: int, is_late: bool) -> None:
        """The missing blocks of a piece come, asked of some peers in turn, from the first."""
        for block in self.open_blocks:
            if block[0] == piece:
                for peer in peers:
                    self.ask(peer, *block)
                self.deliver(block, peers[0], is_late=is_late)

    @rule(data=st.data(), is_late=st.booleans())
    def deliver_one(self, data: st.DataObject, is_late: bool) -> None:
        if waiting := sorted(pair for pair in self.asked if pair[0] in self.open_blocks):
            self.deliver(*data.draw(st.sampled_from(waiting)), is_late=is_late)

    def deliver(self, block: Block, peer: int, *, is_late: bool) -> None:
        self.accepted[block] = peer
        report = (int(EventKind.WRITTEN), 0, self.connection[peer], *block)
        if is_late and not self.reports_every_write:
            self.late.append(report)
        else:
            self.queue.append(report)

    @rule(data=st.data())
    def report_late(self, data: st.DataObject) -> None:
        if self.late:
            self.queue.append(self.late.pop(data.draw(st.integers(0, len(self.late) - 1))))

    @rule(piece=PIECE, survivors=st.sets(st.integers(0, BLOCKS - 1)), peer=PEER)
    def fail(self, piece: int, survivors: set[int], peer: int) -> None:
        """The hash is wrong; with v2 some blocks may be known to be good."""
        self.fetch_rest([peer], piece, is_late=False)
        if piece in self.on_disk:
            return
        # What was held back of this attempt is thrown away with it.
        self.late = [report for report in self.late if report[3] != piece]
        self.post(EventKind.FAILED, piece=piece)
        for block in self.blocks_of(piece):
            if block[1] not in survivors:
                del self.accepted[block]
        self.asked = {pair for pair in self.asked if pair[0][0] != piece}

    @rule(piece=PIECE, peer=PEER)
    def pass_check(self, piece: int, peer: int) -> None:
        self.fetch_rest([peer], piece, is_late=False)
        if piece in self.on_disk:
            return
        self.post(EventKind.PASSED, piece=piece)
        for block in self.blocks_of(piece):
            self.truth[block][self.accepted.pop(block)] += 1
            self.delivered[block] += 1
            self.passed_bytes += self.length_of(block)
        self.on_disk.add(piece)
        self.asked = {pair for pair in self.asked if pair[0][0] != piece}
        if len(self.on_disk) == PIECES:
            self.post(EventKind.FINISHED)
            # A seed posts no write reports any more.
            self.late = []

    @rule(peer=PEER)
    def reconnect(self, peer: int) -> None:
        number = len(self.true_peer)
        self.true_peer[number] = peer
        self.connection[peer] = number
        self.asked = {pair for pair in self.asked if pair[1] != peer}

    @rule(damaged=st.sets(PIECE), is_told_twice=st.booleans())
    def recheck(self, damaged: set[int], is_told_twice: bool) -> None:
        self.post(EventKind.CHECKING)
        self.queue += self.late
        self.late = []
        self.on_disk -= damaged
        # Whole pieces on disk pass the check, whether or not they had passed before.
        for piece in range(PIECES):
            if all(block in self.accepted for block in self.blocks_of(piece)):
                self.on_disk.add(piece)
        self.accepted.clear()
        self.asked.clear()
        for piece in sorted(self.on_disk):
            self.post(EventKind.PASSED, piece=piece)
        for _ in range(1 + is_told_twice):
            self.post(EventKind.CHECKED)

    @rule(count=st.sampled_from([1, 3, 1000]))
    def drain(self, count: int) -> None:
        batch, self.queue = self.queue[:count], self.queue[count:]
        self.meter.feed(batch)
        self.take()

    @rule(peer=PEER)
    def finish_and_settle(self, peer: int) -> None:
        """Everything passes, the queue is drained, and the grace is over."""
        for piece in range(PIECES):
            self.pass_check(piece, peer)
        self.drain(1000)
        self.meter.settle_pending()
        self.take()

    @rule(data=st.data())
    @precondition(lambda self: self.queue)
    def lose(self, data: st.DataObject) -> None:
        kept = data.draw(
            st.lists(st.booleans(), min_size=len(self.queue), max_size=len(self.queue))
        )
        self.has_loss = True
        self.meter.feed_with_loss(
            [event for event, is_kept in zip(self.queue, kept, strict=True) if is_kept]
        )
        self.queue = []
        # The next batch may begin in the middle of anything.
        self.take()

    @rule()
    def crash(self) -> None:
        """Kill -9: what was not drained is lost; the next run checks the files."""
        self.firm_of_earlier_runs += sum(self.meter.firm.values())
        self.meter = TorrentMeter(self.layout, reports_every_write=self.reports_every_write)
        self.firm_before = {}
        self.taken_bytes.clear()
        self.queue.clear()
        self.late.clear()
        self.accepted.clear()
        self.asked.clear()
        self.passed_bytes = 0
        self.has_loss = False
        for peer in range(PEERS):
            self.reconnect(peer)
        self.recheck(set(), is_told_twice=False)

    def take(self) -> None:
        for number, blocks in self.meter.take_credits().items():
            for piece, block, length in blocks:
                assert length == self.length_of((piece, block)) > 0
                self.credited[piece, block][self.true_peer[number]] += 1
                self.taken_bytes[number] += length

    @invariant()
    def bytes_are_conserved_and_firm_never_falls(self) -> None:
        meter = self.meter
        total = sum(meter.firm.values()) + meter.pending_bytes + meter.ambiguous_bytes
        assert total == meter.passed_bytes
        assert all(meter.firm[peer] >= count for peer, count in self.firm_before.items())
        self.firm_before = dict(meter.firm)
        assert meter.firm == self.taken_bytes
        assert meter.present_bytes <= self.layout.content_bytes
        assert all(count >= 0 for count in meter.failed.values())

    @invariant()
    def nobody_is_credited_for_what_another_delivered(self) -> None:
        for block, peers in self.credited.items():
            assert peers <= self.truth[block], (block, peers, self.truth[block])

    @invariant()
    def drained_and_undisturbed_everything_is_known(self) -> None:
        if self.queue or self.has_loss:
            return
        assert self.meter.passed_bytes == self.passed_bytes
        if self.reports_every_write:
            assert self.meter.pending_bytes == self.meter.ambiguous_bytes == 0


class LateReports(ScriptedTorrent):
    """A disk backend that reports writes late, or not at all once the torrent is a seed."""

    reports_every_write = False


TestEveryWriteReported = ScriptedTorrent.TestCase
TestLateReports = LateReports.TestCase
SETTINGS = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestEveryWriteReported.settings = TestLateReports.settings = SETTINGS
