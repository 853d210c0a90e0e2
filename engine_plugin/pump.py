"""The alert pump: from libtorrent's queue through the meters into the journal.

One step waits for alerts, drains them, feeds each torrent's meter and makes the new credits
durable. It also keeps the table of peers fresh, decides pending blocks after the drain grace, and
compares the meters with libtorrent's own counters. It signs nothing; whoever signs reads the
journal. If the journal refuses, metering goes on in memory and the batch is written later.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter

import structlog

from engine_plugin.adapters.protocol import MeteredEngine
from engine_plugin.errors import JournalError, ScopeError
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import (
    MeterBatch,
    PeerKey,
    PeerUpdate,
    SessionAudit,
    Source,
    TorrentGauges,
)
from engine_plugin.libtorrent_door import (
    Notice,
    NoticeKind,
    PeerSnapshot,
)
from engine_plugin.libtorrent_door.session_records import ALL_TORRENTS, NO_PEER, Drained
from engine_plugin.lookahead import LOOK_MOST_S, Lookahead
from engine_plugin.meter import EventKind, TorrentMeter
from engine_plugin.metered import Metered
from engine_plugin.peer_sources import PeerSources, WebSeeds
from engine_plugin.pump_steps import StepResult, join_steps
from engine_plugin.torrents import TorrentFile

GRACE_SECONDS = 2.0
"""How long after a torrent finished late write reports are awaited."""
POLL_SECONDS = 1.0
"""How often the table of peers is refreshed."""
FIRST_POLL_SECONDS = 0.2
"""How soon after a new connection the table is refreshed."""
COMMIT_SECONDS = 0.5
"""How often new credits are made durable when no receipt waits for them."""
EARLY_COMMIT_SECONDS = 0.02
"""Least time between commits for the sake of receipts; longer where the disk is slow."""
EARLY_COMMIT_SHARE = 10
"""Of the time, at most a tenth is spent on them."""
SENDING_LOOK_SECONDS = 0.15
"""Longest time between two looks while something is sent under terms: receipts are held against
it."""
BATCH_EVENTS = 4096
"""About so many events a look are read fastest: more do not fit the processor's caches."""
MEETING_LOOK_SECONDS = 0.05
"""The same for a while after a peer came: its key is not proved yet."""
MEETING_SECONDS = 3.0
GAUGE_SECONDS = 1.0
"""How often figures without credits (sent, failed) are made durable."""
GAUGES_EARLY_SECONDS = 0.5
"""So much earlier they go along with credits, which saves them a commit of their own."""
FORGET_SECONDS = 60.0
"""How often it is looked which peers are of no use; who is not twice in a row is forgotten."""
SENT_KEPT_MAX = 16_384
"""Of so many ended peers it is known what was sent to them: their key may be proved later."""

_log = structlog.get_logger(__name__)


class MeterPump:
    """Owns the session's alert queue.

    `step` runs in one thread; `add` and `remove` may be called from others and wait for it.
    """

    def __init__(
        self,
        session: MeteredEngine,
        journal: MeterJournal,
        *,
        current_epoch: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Binds a session to a journal whose run has started.

        Args:
            session: Whose alert queue is drained here and nowhere else.
            journal: Where credits become durable.
            current_epoch: The ledger's epoch now, or None while its clock is unknown.
            clock: Monotonic seconds.
        """
        self.session = session
        self.journal = journal
        self.peers: tuple[PeerSnapshot, ...] = ()
        """The last snapshot of connections; replaced as a whole, safe to read from any thread."""
        self._current_epoch = current_epoch
        self._clock = clock
        self._lock = threading.RLock()
        self._sent_lock = threading.Lock()
        self._torrents: dict[int, Metered] = {}
        self._retired_sent: defaultdict[int, int] = defaultdict(int)
        self._retired_metered = self._retired_padding = 0
        self._sources = PeerSources(
            lambda peer: session.peer_key(peer)[1],
            lambda number: None if (it := self._torrents.get(number)) is None else it.web_seeds,
        )
        self.lookahead = Lookahead()
        """Told how much is left to the next receipts by whoever signs them."""
        self._flows = False
        """Whether the last look found events: there will be more."""
        self._batch_events = 0
        self._rested_s = LOOK_MOST_S
        """Between the last two looks."""
        self._drained_at = clock()
        self._sends = False
        self._meets_until = clock()
        self._credited: set[int] = set()
        """Peers with credits since the table was last compared with them."""
        self._next_poll = self._next_commit = self._next_gauges = clock()
        self._next_early = clock()
        self._next_forget = clock() + FORGET_SECONDS
        self._idle: set[int] = set()
        self._unsaved_bytes = 0
        self._unsaved_epoch: int | None = None
        self._leaving: dict[int, Metered] = {}
        """Removed torrents that brought what the journal has not taken yet."""
        self._scope_error: str | None = None
        self._unretired: list[int] = []
        """Removed torrents that the journal has not been told of."""

    def add(
        self,
        torrent: TorrentFile,
        start: Callable[[], int],
        *,
        scope_id: bytes | None = None,
        uses_web_seeds: bool = True,
    ) -> int:
        """Starts a torrent and meters it from its first alert on.

        Args:
            torrent: The torrent file's facts.
            start: Adds it to the session and returns its number; called with the queue at rest.
            scope_id: The stream it is part of, if it is.
            uses_web_seeds: Whether it was started with the torrent's own web seeds.

        Returns:
            The torrent's number in the session.

        Raises:
            ScopeError: It has been metered under another scope; it was not started.
            SessionError: It cannot be started.
        """
        metering = Metered(
            torrent=torrent,
            scope_id=scope_id,
            meter=TorrentMeter(
                torrent.layout, reports_every_write=self.session.reports_every_write
            ),
            web_seeds=WebSeeds(
                list(torrent.web_seeds), list(torrent.web_seeds) if uses_web_seeds else []
            ),
        )
        with self._lock:
            try:
                self._enter(metering)
            except ScopeError:
                raise
            except JournalError as error:
                # Fails open: the picture begins, and the next commit enters it.
                _log.warning("torrent_not_journalled", error=str(error))
            number = start()
            with self._sent_lock:
                self._torrents[number] = metering
            return number

    def _enter(self, metering: Metered) -> int:
        """Returns the journal's id of a torrent, entering it first if need be."""
        if metering.journal_id is None:
            # One that comes back is told removed before it is entered again.
            self._book_leaving()
            self._retire()
            torrent = metering.torrent
            metering.journal_id = self.journal.add_torrent(
                content_id=torrent.content_id,
                name=torrent.name,
                content_bytes=torrent.content_bytes,
                scope_id=metering.scope_id,
            )
        return metering.journal_id

    def note_web_seed(self, number: int, url: str, *, is_active: bool) -> None:
        """Takes note of a web seed that a torrent is given later, before it is used, or loses."""
        self._torrents[number].web_seeds.note(url, is_active=is_active)

    def remove(self, number: int, *, deletes_files: bool = False) -> StepResult:
        """Ends a torrent: decides what is pending, makes it durable, removes it from the session.

        If the journal refuses it is removed all the same: its files may be what fills the disk.
        What it brought is kept and made durable by a later commit.
        """
        with self._lock:
            before = self._take(self.session.drain(), commit=False)
            metering = self._torrents[number]
            metering.meter.settle_pending()
            metering.touched.update(metering.meter.sent)
            for peer in metering.touched | metering.unsaved.keys():
                self._sources.of(number, peer)  # told by its web seeds, which go
            last = join_steps(before, self.commit())
            last = replace(last, removed_bytes=self.firm_bytes(number))
            metered, padding = self._metered_bytes(number)
            self._retired_metered += metered
            self._retired_padding += padding
            self.session.remove_torrent(number, deletes_files=deletes_files)
            with self._sent_lock:
                del self._torrents[number]
                for peer, count in metering.meter.sent.items():
                    self._retired_sent[peer] += count
            if last.journal_error is None:
                self._note_left(metering)
                with suppress(JournalError):  # tried again after the next commit
                    self._retire()
            else:
                self._leaving[number] = metering
            return last

    def _note_left(self, metering: Metered) -> None:
        if metering.journal_id is not None:
            self._unretired.append(metering.journal_id)

    def meter(self, number: int) -> TorrentMeter:
        """Returns the meter of a torrent, to read its totals."""
        return self._torrents[number].meter

    def sent_bytes(self, peer: PeerKey) -> int:
        """Returns content bytes handed to a connection's send buffer: no claim may exceed it."""
        index = self.session.find_peer(*peer)
        if index is None:
            return 0
        with self._sent_lock:  # a torrent that moves into the sum is seen once
            meters = [metering.meter for metering in self._torrents.values()]
            retired = self._retired_sent.get(index, 0)
        return retired + sum(meter.sent.get(index, 0) for meter in meters)

    def is_settled(self, number: int) -> bool:
        """Says whether all that a torrent received is decided and durable."""
        metering = self._torrents[number]
        return not metering.meter.pending_bytes and not metering.unsaved

    def firm_bytes(self, number: int) -> dict[Source, int]:
        """Returns a torrent's firm content bytes by source, durable or not yet."""
        totals = dict.fromkeys(Source, 0)
        for peer, count in list(self._torrents[number].meter.firm.items()):
            totals[self._sources.of(number, peer)[0]] += count
        return totals

    def step(self, timeout_ms: int = 100) -> StepResult:
        """Waits for alerts, meters them and makes credits durable when it is time to."""
        if not self._flows:
            self.session.wait(timeout_ms)
        with self._lock:
            drained = self.session.drain()
            now = self._clock()
            self._rested_s, self._drained_at = now - self._drained_at, now
            self._batch_events = len(drained.events)
            self._flows = bool(drained.events)
            return self._take(drained, commit=False)

    def rest_s(self) -> float:
        """Returns how long the next step can wait for the sake of accounts; seconds."""
        now = self._clock()
        if now < self._meets_until:
            return MEETING_LOOK_SECONDS
        rest = min(LOOK_MOST_S, self._rested_s * BATCH_EVENTS / (self._batch_events + 1))
        if self._unsaved_epoch is not None:
            rest = min(rest, self.lookahead.wait_s(now))
            if self._sends:
                rest = min(rest, SENDING_LOOK_SECONDS)
        return rest

    def commit(self) -> StepResult:
        """Drains what there is and makes all credits durable now."""
        with self._lock:
            return self._take(self.session.drain(), commit=True)

    def audit(self) -> SessionAudit | None:
        """Compares the meters with libtorrent's counters and journals the difference.

        At rest nothing is unexplained. While blocks are on their way it is their size; call it
        when the torrents are idle.

        Returns:
            The figures, or None if libtorrent did not answer in time.
        """
        with self._lock:
            counters, drained = self.session.read_counters()
            self._take(drained, commit=True)
        if counters is None:
            return None
        metered, mixed_padding = self._retired_metered, self._retired_padding
        for number in list(self._torrents):
            more, padding = self._metered_bytes(number)
            metered, mixed_padding = metered + more, mixed_padding + padding
        audit = SessionAudit(
            recv_payload_bytes=counters.recv_payload_bytes,
            redundant_bytes=counters.redundant_bytes,
            recv_failed_bytes=counters.failed_bytes,
            difference_bytes=counters.recv_payload_bytes
            - counters.redundant_bytes
            - counters.failed_bytes
            - metered,
            # A duplicate block of a web seed is received without its padding, yet libtorrent
            # counts it as redundant with it.
            tolerance_bytes=min(counters.redundant_bytes, mixed_padding),
        )
        self.journal.record_audit(audit)
        return audit

    def _metered_bytes(self, number: int) -> tuple[int, int]:
        """Returns passed bytes with their padding, and what a web seed's duplicates hide of it."""
        metering = self._torrents[number]
        meter = metering.meter
        # Peers send the padding inside a block; a web seed is never asked for it.
        padding = sum(
            count
            for peer, count in meter.padding.items()
            if self._sources.of(number, peer)[0] is Source.P2P
        )
        mixed = meter.layout.mixed_padding_bytes if metering.web_seeds.every else 0
        return meter.passed_bytes + padding, mixed

    def finish(self, *, grace_seconds: float = GRACE_SECONDS) -> StepResult:
        """Ends metering: pauses the session, drains through the grace, decides what is pending.

        What is firm is durable on return, unless the result says why not. Receipts of it can
        still be signed and sent; the session may be closed.
        """
        self._refresh_peers()
        self.session.pause()
        self.session.flush()
        deadline = self._clock() + grace_seconds
        total = StepResult(notices=(), credited_bytes=0, committed=False)
        while (left := deadline - self._clock()) > 0:
            total = join_steps(total, self.step(min(100, int(left * 1000) + 1)))
        with self._lock:
            for metering in self._torrents.values():
                metering.meter.settle_pending()
            return join_steps(total, self.commit())

    def _take(self, drained: Drained, *, commit: bool) -> StepResult:
        fault = self._feed_safely(drained)
        self._settle_finished()
        now = self._clock()
        if drained.events:
            self._sends = drained.events[-1][0] in _SENT_KINDS
        error = self._close_epoch() or fault
        credited = self._collect_credits()
        self._unsaved_bytes += credited
        self._look_at_notices(drained.notices, now)
        if now >= self._next_poll or self._has_unseen_peer():
            self._refresh_peers()
            self._next_poll = now + POLL_SECONDS
        if now >= self._next_forget:
            self._forget_ended()
            self._next_forget = now + FORGET_SECONDS
        committed = False
        if commit or self._is_due(now):
            self._next_commit = now + COMMIT_SECONDS
            try:
                is_near = now >= self._next_gauges - GAUGES_EARLY_SECONDS
                committed = self._commit(with_gauges=commit or is_near)
            except (JournalError, ValueError, LookupError) as failure:
                # Whatever it is, pieces that were read go on to the player.
                error = str(failure)
            error, self._scope_error = error or self._scope_error, None
            spent = self._clock() - now
            self._next_early = now + max(EARLY_COMMIT_SECONDS, EARLY_COMMIT_SHARE * spent)
        return StepResult(
            notices=tuple(drained.notices),
            credited_bytes=credited,
            committed=committed,
            journal_error=error,
            pieces=tuple(
                [(e[0], e[1], e[3]) for e in drained.events if e[0] in _PIECE_KINDS],
            ),
            reads=tuple(drained.reads),
        )

    def _look_at_notices(self, notices: Sequence[Notice], now: float) -> None:
        kinds = {notice.kind for notice in notices}
        if NoticeKind.CONNECTED in kinds:
            self._next_poll = min(self._next_poll, now + FIRST_POLL_SECONDS)
            self._meets_until = now + MEETING_SECONDS
        if kinds & {NoticeKind.FINISHED, NoticeKind.DISCONNECTED}:
            # The last receipts to whoever left wait for it.
            self._next_commit = min(self._next_commit, max(now, self._next_early))

    def _feed_safely(self, drained: Drained) -> str | None:
        """Feeds the meters; what cannot be metered is lost as if the queue had run over.

        Returns:
            What was wrong with an event, or None.
        """
        try:
            self._feed(drained)
        except (ValueError, LookupError) as fault:
            for metering in self._torrents.values():
                metering.meter.feed_with_loss(())
            return f"meter: {fault}"
        return None

    def _feed(self, drained: Drained) -> None:
        by_torrent: dict[int, list[tuple[int, int, int, int, int]]]
        numbers = set(map(_TORRENT_OF, drained.events))
        # What belongs to all torrents is the word that events were lost.
        has_loss = ALL_TORRENTS in numbers
        if len(numbers) == 1 and not has_loss:
            by_torrent = {numbers.pop(): drained.events}
        else:
            by_torrent = {number: [] for number in numbers | self._torrents.keys()}
            for event in drained.events:
                by_torrent[event[1]].append(event)
        for number, events in by_torrent.items():
            if (events or has_loss) and (metering := self._torrents.get(number)):
                if has_loss:
                    metering.meter.feed_with_loss(events)
                else:
                    metering.meter.feed(events)
                metering.touched.update(map(_PEER_OF, events))
                if NO_PEER in metering.touched:  # a verdict, which charges whoever had a part in it
                    metering.touched.update(metering.meter.failed)
                    metering.touched.discard(NO_PEER)

    def _settle_finished(self) -> None:
        now = self._clock()
        for metering in self._torrents.values():
            meter = metering.meter
            if not (meter.is_finished and meter.pending_bytes):
                metering.settle_at = None
            elif metering.settle_at is None:
                metering.settle_at = now + GRACE_SECONDS
            elif now >= metering.settle_at:
                meter.settle_pending()
                metering.settle_at = None

    def _collect_credits(self) -> int:
        credited = grain = 0
        by_key: defaultdict[bytes, int] = defaultdict(int)
        for metering in self._torrents.values():
            for peer, new in metering.meter.take_credits().items():
                metering.unsaved[peer] += new
                metering.touched.add(peer)
                count = sum([length for _, _, length in new])
                credited += count
                self._credited.add(peer)
                if key := self.journal.proved_key(PeerKey(*self.session.peer_key(peer))):
                    by_key[key] += count
                    grain = max(grain, metering.meter.layout.piece_bytes)
        if by_key:
            self.lookahead.note(by_key, self._clock(), grain_bytes=grain)
        return credited

    def _close_epoch(self) -> str | None:
        """Makes what became firm before an epoch's end durable under that epoch.

        Returns:
            Why it could not be; it is kept, and booked with what comes next.
        """
        before, self._unsaved_epoch = self._unsaved_epoch, self._current_epoch()
        if before in {None, self._unsaved_epoch} or not self._unsaved_bytes:
            return None
        now, self._unsaved_epoch = self._unsaved_epoch, before
        try:
            self._commit(with_gauges=False)
        except JournalError as failure:
            return str(failure)
        self._unsaved_epoch = now
        return None

    def _has_unseen_peer(self) -> bool:
        # A peer may come, deliver and leave between two polls: look at once when bytes appear.
        unseen = not self._sources.knows_all(self._credited)
        self._credited.clear()
        return unseen

    def _is_due(self, now: float) -> bool:
        # Early for the sake of receipts only: without an epoch there is nothing to sign.
        if now >= self._next_early and self._unsaved_epoch is not None and self.lookahead.is_due:
            return True
        if now >= self._next_commit and (
            self._leaving or any(m.unsaved for m in self._torrents.values())
        ):
            return True
        return now >= self._next_gauges and any(m.touched for m in self._torrents.values())

    def _retire(self) -> None:
        while self._unretired:
            self.journal.retire_torrent(self._unretired[-1])
            self._unretired.pop()

    def _commit(self, *, with_gauges: bool) -> bool:
        self._book_leaving()
        self._write(self._torrents, with_gauges=with_gauges)
        # Durable from here; before this line nothing was forgotten.
        self._unsaved_bytes = 0
        self.lookahead.note_commit()
        for metering in self._torrents.values():
            metering.unsaved.clear()
            if with_gauges:
                metering.touched.clear()
        if with_gauges:
            self._next_gauges = self._clock() + GAUGE_SECONDS
        self._retire()
        return True

    def _book_leaving(self) -> None:
        leaving, self._leaving = self._leaving, {}
        try:
            if leaving:
                self._write(leaving, with_gauges=True)
        except JournalError:
            self._leaving = leaving
            raise
        for metering in leaving.values():
            self._note_left(metering)

    def _write(self, meterings: Mapping[int, Metered], *, with_gauges: bool) -> None:
        updates: list[PeerUpdate] = []
        gauges: list[TorrentGauges] = []
        for number, metering in meterings.items():
            try:
                journal_id = self._enter(metering)
            except ScopeError as error:
                # Nothing mends it, and the others' bytes must not wait for it.
                if not metering.is_refused:
                    metering.is_refused, self._scope_error = True, str(error)
                continue
            gauges.append(metering.gauges(journal_id))
            updates.extend(
                self._update_of(number, metering, journal_id, peer)
                for peer in (metering.touched if with_gauges else metering.unsaved)
            )
        self.journal.commit_batch(
            MeterBatch(peers=tuple(updates), torrents=tuple(gauges)), epoch=self._unsaved_epoch
        )

    def _update_of(self, number: int, metering: Metered, journal_id: int, peer: int) -> PeerUpdate:
        source, url = self._sources.of(number, peer)
        return PeerUpdate(
            torrent=journal_id,
            peer=PeerKey(*self.session.peer_key(peer)),
            source=source,
            url=url,
            failed_bytes=metering.meter.failed.get(peer, 0),
            sent_bytes=metering.meter.sent.get(peer, 0),
            blocks=metering.unsaved.get(peer, ()),
        )

    def _refresh_peers(self) -> None:
        self.peers = tuple(self.session.peers())
        self._sources.note(self.peers)

    def _forget_ended(self) -> None:
        """Forgets peers that are of no use: a live stream meets ever new ones."""
        used = {snapshot.peer for snapshot in self.peers}
        for metering in [*self._torrents.values(), *self._leaving.values()]:
            used |= metering.meter.list_peers() | metering.unsaved.keys() | metering.touched
        with self._sent_lock:
            ended = sorted(self._retired_sent.keys() - used)
            for peer in ended[: max(0, len(ended) - SENT_KEPT_MAX)]:
                del self._retired_sent[peer]
            used |= self._retired_sent.keys()
        idle = set(self.session.peer_numbers()) - used
        gone = idle & self._idle
        self.session.forget_peers(gone)
        self._sources.forget(gone)
        self._idle = idle - gone


_TORRENT_OF, _PEER_OF = itemgetter(1), itemgetter(2)
_SENT_KINDS = frozenset({int(EventKind.SENT), int(EventKind.SENT_BLOCKS)})
_PIECE_KINDS = frozenset(
    {int(kind) for kind in (EventKind.PASSED, EventKind.FAILED, EventKind.CHECKING)}
)
