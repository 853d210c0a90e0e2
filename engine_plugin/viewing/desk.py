"""The desk that takes players' reports and signs heartbeats.

A token binds whoever reports to one playing session of one scope (content or stream). Each player
session under it gets a playback clock and a chain of its own. A heartbeat is stored in the spool
before it counts; what cannot be signed yet, because ledger time or an entitlement is wanting, waits
in bounded numbers. Ledger time is read once and runs on with the monotonic clock, so local clock
steps change nothing and two readings of the ledger's clock do not bend a session's time.

Not here: HTTP (`routes`), the rules of media time (`playback_clock`), bundles (`bundler`).
Called from the event loop's thread only.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

import structlog

from engine_plugin.errors import EngineError
from engine_plugin.spool import Spool, SpoolError
from engine_plugin.viewing import heartbeat_rows
from engine_plugin.viewing.cmcd import PlayerReport
from engine_plugin.viewing.playback_clock import Beat, PlaybackClock
from engine_plugin.viewing.read_pace import ReadPace, TimedReport
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.heartbeat import FLAG_ESTIMATED, HEARTBEAT, Heartbeat
from ledger.evidence.terms import Terms

TOKEN_CHARACTERS = 32
TOKENS_MAX = 256
"""Most open tokens; a further one closes the one that was used least recently."""

PLAYBACKS_PER_TOKEN_MAX = 16
"""Most player sessions under one token: tabs of one link."""

WAITING_MAX = 256
"""Most heartbeats of one playback that wait to be signed; beyond it the oldest is left out."""

REANCHOR_MS = 500
"""How far ledger time may run away from its first reading before it is read anew."""

BORDER_SPAN_MS = 30_000
"""A stretch across an epoch's border that is longer belongs to neither: see the viewing rules."""

_ESTIMATED_SID = ""
_PLAYER_DOMAIN = b"swarmledger player v1\0"

_log = structlog.get_logger(__name__)


class UnknownTokenError(EngineError):
    """The token is not that of an open playing session."""


class TooManyPlaybacksError(EngineError):
    """A token's player sessions are used up."""


class LedgerTime(Protocol):
    """Where ledger time comes from; `LedgerClock` is one."""

    def now_ms(self) -> int | None:
        """Return ledger milliseconds, or None while unknown."""


FindEntitlement = Callable[[bytes, int], Signed[Entitlement] | None]
"""Takes scope id and epoch."""

BytesBySource = Callable[[bytes], tuple[int, int]]
"""Takes a scope id; returns payload received from peers and from CDNs in this run."""


@dataclass(slots=True)
class _Playback:
    """One player session and its chain."""

    session_id: bytes
    clock: PlaybackClock
    last: Signed[Heartbeat] | None
    media_before_ms: int
    bytes_before: tuple[int, int]
    """Totals of the chain less what the engine had counted when the playback was opened."""
    flags: int
    at_ms: int
    """Monotonic time of the newest signed heartbeat, or of the opening."""
    waiting: deque[Beat] = field(default_factory=lambda: deque(maxlen=WAITING_MAX))


@dataclass(slots=True)
class _Ticket:
    """One open token."""

    scope_id: bytes
    received_ms: Callable[[], int | None]
    playbacks: dict[str, _Playback] = field(default_factory=dict)
    pace: ReadPace | None = field(default_factory=ReadPace)
    """None once a player reports by itself."""


class ViewingDesk:
    """Turns reports into signed, stored heartbeats."""

    def __init__(
        self,
        *,
        terms: Terms,
        spool: Spool,
        session_seed: bytes,
        ledger_time: LedgerTime,
        find_entitlement: FindEntitlement,
        bytes_by_source: BytesBySource,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._spool = spool
        self._seed = session_seed
        self._ledger_time = ledger_time
        self._find_entitlement = find_entitlement
        self._bytes_by_source = bytes_by_source
        self._monotonic = monotonic
        self._tickets: dict[str, _Ticket] = {}
        self._media_ms: dict[bytes, int] = {}
        """Entitlement's digest → media time under it, over all playbacks and runs."""
        self._covered_ms: dict[bytes, int] = {}
        """Scope → monotonic time up to which its media time is accounted for."""
        self._offset_ms: int | None = None
        self._epoch: int | None = None
        self.signed_count = 0
        """Heartbeats signed in this run."""

    def open(self, scope_id: bytes, *, received_ms: Callable[[], int | None] = lambda: None) -> str:
        """Open a playing session.

        Args:
            scope_id: Content or stream id, 32 bytes.
            received_ms: The most media that can have been handed to the player so far; None:
                nobody can say.

        Returns:
            The token its player reports with.
        """
        while len(self._tickets) >= TOKENS_MAX:
            self.close(next(iter(self._tickets)))
        token = secrets.token_urlsafe(TOKEN_CHARACTERS * 3 // 4)
        self._tickets[token] = _Ticket(scope_id, received_ms)
        return token

    def close(self, token: str) -> None:
        """Close a playing session: its playbacks end now. Closing it twice is the same as once."""
        ticket = self._tickets.pop(token, None)
        if ticket is None:
            return
        now_ms = self._now_ms()
        for playback in ticket.playbacks.values():
            self._sign_all(ticket, playback, playback.clock.end(now_ms))

    def let_go(self, token: str) -> None:
        """Take note that nobody asks for media any more: an estimated playback ends.

        A player that reports says itself when it ends: it may have all it plays, or rest paused.
        """
        ticket = self._tickets.get(token)
        if ticket is not None and ticket.pace is not None:
            self.close(token)

    def close_all(self) -> None:
        """Close every playing session, before the last bundle of a run."""
        for token in list(self._tickets):
            self.close(token)

    def is_open(self, token: str) -> bool:
        """Tell whether a token is that of an open playing session."""
        return token in self._tickets

    def take(self, token: str, reports: Sequence[PlayerReport]) -> None:
        """Take a player's reports, in its order.

        Raises:
            UnknownTokenError: No such playing session.
            TooManyPlaybacksError: The token has as many player sessions as it may have.
        """
        ticket = self._ticket_of(token)
        now_ms = self._now_ms()
        if ticket.pace is not None:
            ticket.pace = None
            estimated = ticket.playbacks.pop(_ESTIMATED_SID, None)
            if estimated is not None and estimated.flags:
                self._sign_all(ticket, estimated, estimated.clock.end(now_ms))
        for report in reports:
            playback = self._playback_of(ticket, report.sid, now_ms, flags=0)
            self._sign_all(ticket, playback, playback.clock.take(report, now_ms))

    def note_read(
        self, token: str, *, position_ms: int, media_ms: int, is_last: bool = False
    ) -> None:
        """Take note of media handed to a player; it counts only while the player reports nothing.

        Args:
            token: Of the playing session.
            position_ms: Media position of the first byte.
            media_ms: How much media was handed over, ≥ 0.
            is_last: Whether it reaches the content's end.

        Raises:
            UnknownTokenError: No such playing session.
        """
        ticket = self._ticket_of(token)
        if ticket.pace is not None:
            now_ms = self._now_ms()
            self._take_estimates(
                ticket,
                ticket.pace.read(
                    now_ms, position_ms=position_ms, media_ms=media_ms, is_last=is_last
                ),
                now_ms,
            )

    def note_closed(self, token: str) -> None:
        """Take note that the player's connection is closed, which ends an estimated playback."""
        ticket = self._tickets.get(token)
        if ticket is not None and ticket.pace is not None:
            now_ms = self._now_ms()
            self._take_estimates(ticket, ticket.pace.close(now_ms), now_ms)

    @property
    def is_busy(self) -> bool:
        """Whether a playing session is open."""
        return bool(self._tickets)

    def tick(self) -> None:
        """Sign what is due for its age, at an epoch's turn, and what waited. Call it often."""
        now_ms = self._now_ms()
        ledger_ms = self._ledger_ms(now_ms)
        epoch = None if ledger_ms is None else self._terms.epoch_at(ledger_ms // 1000)
        is_turn = self._epoch is not None and epoch != self._epoch
        self._epoch = epoch
        for ticket in list(self._tickets.values()):
            if ticket.pace is not None:
                self._take_estimates(ticket, ticket.pace.tick(now_ms), now_ms)
            for playback in ticket.playbacks.values():
                clock = playback.clock
                beats = clock.beat_now(now_ms) if is_turn else clock.tick(now_ms)
                self._sign_all(ticket, playback, beats)

    def media_ms(self, entitlement: Signed[Entitlement]) -> int:
        """Return media played under an entitlement so far, over runs; for receipts.

        It never falls, never grows faster than the wall clock, however many players there are, and
        stays within the entitlement's cap: beyond it nothing is payable in any case. What the spool
        cannot tell now counts as nothing played: receipts do not wait for it.
        """
        try:
            known_ms = self._known_media_ms(entitlement.digest)
        except SpoolError as error:
            _log.warning("media_time_not_read", error=str(error))
            return 0
        return min(known_ms, entitlement.value.max_media_ms or known_ms)

    def _ticket_of(self, token: str) -> _Ticket:
        ticket = self._tickets.pop(token, None)
        if ticket is None:
            raise UnknownTokenError("token: got an unknown one, want that of a playing session")
        self._tickets[token] = ticket  # the one used most recently stands last
        return ticket

    def _take_estimates(self, ticket: _Ticket, reports: Sequence[TimedReport], now_ms: int) -> None:
        for timed in reports:
            playback = self._playback_of(ticket, _ESTIMATED_SID, now_ms, flags=FLAG_ESTIMATED)
            self._sign_all(ticket, playback, playback.clock.take(timed.report, timed.at_ms))

    def _playback_of(self, ticket: _Ticket, sid: str, now_ms: int, *, flags: int) -> _Playback:
        if (playback := ticket.playbacks.get(sid)) is not None:
            return playback
        if len(ticket.playbacks) >= PLAYBACKS_PER_TOKEN_MAX:
            raise TooManyPlaybacksError(
                f"sid: got more than {PLAYBACKS_PER_TOKEN_MAX} under one token, want fewer"
            )
        # A nameless player's chain cannot be found again, so each of its playbacks is a new one.
        name = sid.encode() if sid else secrets.token_bytes(16)
        player_key = sha256(_PLAYER_DOMAIN + ticket.scope_id + bytes([flags]) + name).digest()
        with self._spool.transaction() as tx:
            row = heartbeat_rows.find_or_add_playback(tx, player_key, secrets.token_bytes(16))
        p2p, cdn = self._bytes_by_source(ticket.scope_id)
        last = row.last.value if row.last else None
        playback = _Playback(
            session_id=row.session_id,
            clock=PlaybackClock(now_ms, received_ms=ticket.received_ms),
            last=row.last,
            media_before_ms=last.media_ms_total if last else 0,
            bytes_before=(
                (last.bytes_p2p_total if last else 0) - p2p,
                (last.bytes_cdn_total if last else 0) - cdn,
            ),
            flags=flags,
            at_ms=now_ms,
        )
        ticket.playbacks[sid] = playback
        return playback

    def _sign_all(self, ticket: _Ticket, playback: _Playback, beats: Sequence[Beat]) -> None:
        """Sign beats, and those that waited before them; whatever fails leaves them waiting."""
        playback.waiting.extend(beats)
        while playback.waiting:
            try:
                is_signed = self._sign(ticket, playback, playback.waiting[0])
            except EngineError as error:
                _log.warning("heartbeat_not_stored", error=str(error))
                return
            if not is_signed:
                return
            playback.waiting.popleft()

    def _sign(self, ticket: _Ticket, playback: _Playback, beat: Beat) -> bool:
        offset_ms = self._offset()
        if offset_ms is None:
            return False
        before = playback.last
        earliest_ms = before.value.timestamp_ms if before else 0
        timestamp_ms = max(beat.at_ms + offset_ms, earliest_ms)
        epoch = self._terms.epoch_at(timestamp_ms // 1000)
        entitlement = self._find_entitlement(ticket.scope_id, epoch)
        if entitlement is None:
            return False
        signed = HEARTBEAT.sign(
            self._heartbeat(ticket, playback, beat, timestamp_ms, entitlement.digest), self._seed
        )
        epochs, neighbour = [epoch], None
        if before is not None and timestamp_ms - earliest_ms <= BORDER_SPAN_MS:
            epoch_before = self._terms.epoch_at(earliest_ms // 1000)
            if epoch_before != epoch:
                epochs, neighbour = list(range(epoch_before, epoch + 1)), before
        covered_ms = self._covered_ms.get(ticket.scope_id, 0)
        played_ms = signed.value.media_ms_total - (before.value.media_ms_total if before else 0)
        free_ms = max(beat.at_ms - max(playback.at_ms, covered_ms), 0)
        media_ms = self._known_media_ms(entitlement.digest) + min(played_ms, free_ms)
        with self._spool.transaction() as tx:
            heartbeat_rows.add_heartbeat(tx, signed, epochs=epochs, before=neighbour)
            heartbeat_rows.save_media_ms(tx, entitlement.digest, media_ms)
        # Durable from here: only now may receipts and bundles say so.
        self._media_ms[entitlement.digest] = media_ms
        if played_ms:
            self._covered_ms[ticket.scope_id] = max(covered_ms, beat.at_ms)
        playback.last, playback.at_ms = signed, max(beat.at_ms, playback.at_ms)
        self.signed_count += 1
        return True

    def _heartbeat(
        self,
        ticket: _Ticket,
        playback: _Playback,
        beat: Beat,
        timestamp_ms: int,
        entitlement_digest: bytes,
    ) -> Heartbeat:
        before = playback.last
        p2p, cdn = self._bytes_by_source(ticket.scope_id)
        return Heartbeat(
            network_id=self._terms.network_id,
            flags=playback.flags,
            entitlement_digest=entitlement_digest,
            session_id=playback.session_id,
            sequence_number=before.value.sequence_number + 1 if before else 0,
            timestamp_ms=timestamp_ms,
            state=beat.state,
            media_ms_total=playback.media_before_ms + beat.media_ms,
            bytes_p2p_total=max(
                playback.bytes_before[0] + p2p, before.value.bytes_p2p_total if before else 0
            ),
            bytes_cdn_total=max(
                playback.bytes_before[1] + cdn, before.value.bytes_cdn_total if before else 0
            ),
            previous_digest=before.digest if before else ZERO_KEY,
        )

    def _known_media_ms(self, digest: bytes) -> int:
        if (known_ms := self._media_ms.get(digest)) is None:
            with self._spool.transaction() as tx:
                known_ms = self._media_ms[digest] = heartbeat_rows.read_media_ms(tx, digest)
        return known_ms

    def _offset(self) -> int | None:
        """Return ledger less monotonic milliseconds."""
        told_ms = self._ledger_time.now_ms()
        if told_ms is None:
            return self._offset_ms
        offset_ms = told_ms - self._now_ms()
        if self._offset_ms is None or abs(offset_ms - self._offset_ms) > REANCHOR_MS:
            self._offset_ms = offset_ms
        return self._offset_ms

    def _ledger_ms(self, now_ms: int) -> int | None:
        offset_ms = self._offset()
        return None if offset_ms is None else now_ms + offset_ms

    def _now_ms(self) -> int:
        return int(self._monotonic() * 1000)
