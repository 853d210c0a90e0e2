"""Playback clock: media time of one playback out of its player's reports, never above wall clock.

While the player says that it plays, the media between two reported positions, divided by the rate,
counts; without positions the time itself does. Between two heartbeats no more can be claimed than
the wall clock ran, so a player's jitter is carried to the next and a player's lie is cut; media
played for the first time must have been received. Wall clock is the caller's monotonic clock; the
player's own clock only says how long a report was on its way, and cannot stretch the whole.

A state machine without clock, I/O or chance. Not here: signing, ledger time (`desk`), parsing
(`cmcd`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from engine_plugin.viewing.cmcd import PlayerReport
from engine_plugin.viewing.played_ranges import PlayedRanges

PERIOD_MS = 10_000
"""Longest time between two heartbeats while the player plays and reports."""

TICK_DUE_MS = 9_750
"""Age of the last heartbeat at which a tick makes one: ticks come four times a second."""

REPORT_DUE_MS = 7_500
"""Age of the last heartbeat at which a report makes one, so that exact positions are preferred."""

ASSUMED_MOST_MS = 12_000
"""How long a player that said nothing more is assumed to play on; a later report mends it. With one
every 30 s, CMCD's own interval, no two heartbeats are then farther apart than twice the period."""

_TICK_SLACK_MS = 500
"""How late a tick may come and still find the player playing."""

REBUFFERING_MOST_MS = 60_000
"""How long rebuffering without a report makes heartbeats."""

CARRY_MOST_MS = 250
"""Media beyond wall clock that is carried to the next heartbeat: jitter of a player's reports."""

DELAY_MOST_MS = 5_000
"""Longest time that a report is believed to have been on its way."""

LEAD_MOST_MS = 250
"""How far a report's time may seem to lie after its arrival, while a stretch that began with a slow
report runs."""

BURST_MOST = 20
"""Heartbeats that may follow each other at once; afterwards one a second."""

REFILL_MS = 1_000
_QUIET_STATES = frozenset("efq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a heartbeat is to say."""

    at_ms: int
    """Monotonic milliseconds."""

    state: str
    """From here on."""

    media_ms: int
    """Media played so far, each stretch divided by its rate; never falls, never above the wall
    clock since the playback began."""


class PlaybackClock:
    """The clock of one playback. All times are the caller's monotonic milliseconds."""

    def __init__(
        self, now_ms: int, *, received_ms: Callable[[], int | None] = lambda: None
    ) -> None:
        """Begin a playback.

        Args:
            now_ms: Now.
            received_ms: The most media that can have been handed to the player so far, or None
                when nobody can say.
        """
        self._received_ms = received_ms
        self._ranges = PlayedRanges()
        self._state = ""
        self._rate_permille = 1000
        self._opened_ms = self._now_ms = now_ms
        self._at_ms = now_ms
        """Time of the newest report; stretches begin here."""
        self._position_ms: int | None = None
        self._played_ms = 0
        """Media that the reports account for."""
        self._claimed_ms = 0
        self._beat_ms = now_ms
        self._beat_state = ""
        self._last_sn = -1
        self._offset_ms: int | None = None
        """Least difference between arrival and the player's own clock."""
        self._allowance = BURST_MOST
        self._refilled_ms = now_ms
        self._is_owed = False
        self._is_given_up = False
        """Whether the player has been silent for longer than it is assumed to play on."""

    @property
    def state(self) -> str:
        """CMCD's letter for what the player does; empty before its first report."""
        return self._state

    @property
    def media_ms(self) -> int:
        """Media claimed in the newest heartbeat."""
        return self._claimed_ms

    def take(self, report: PlayerReport, arrived_ms: int) -> list[Beat]:
        """Take a report.

        Args:
            report: In the player's order; one with a number that was seen is dropped.
            arrived_ms: When it arrived.

        Returns:
            At most one heartbeat to make.
        """
        if report.sequence_number is not None:
            if report.sequence_number <= self._last_sn:
                return []
            self._last_sn = report.sequence_number
        self._now_ms = arrived_ms
        at_ms = self._time_of(report, arrived_ms)
        state = report.state if report.state is not None else self._state
        self._close_stretch(at_ms, report, state)
        # Without a position the stretch is closed all the same: an older one would count it twice.
        self._position_ms = report.position_ms
        if report.rate_permille:
            self._rate_permille = report.rate_permille
        is_change = state != self._state
        self._state = state
        if is_change:
            return self._beat(at_ms)
        if state == "p" and at_ms - self._beat_ms >= REPORT_DUE_MS:
            return self._beat(at_ms)
        return []

    def tick(self, now_ms: int) -> list[Beat]:
        """Return the heartbeat that is due for its age, if one is."""
        self._now_ms = now_ms
        if self._is_owed and self._refill(now_ms):
            return self._beat(now_ms)
        is_lost = self._state == "p" and now_ms - self._at_ms >= ASSUMED_MOST_MS
        if is_lost and not self._is_given_up:
            # The last one before the silence says how far the player was assumed to come.
            self._is_given_up = True
            return self.beat_now(now_ms)
        return self.beat_now(now_ms) if now_ms - self._beat_ms >= TICK_DUE_MS else []

    def beat_now(self, now_ms: int) -> list[Beat]:
        """Return a heartbeat if the player is known to play or to rebuffer."""
        self._now_ms = now_ms
        silent_ms = now_ms - self._at_ms
        is_active = (self._state == "p" and silent_ms <= ASSUMED_MOST_MS + _TICK_SLACK_MS) or (
            self._state == "r" and silent_ms <= REBUFFERING_MOST_MS
        )
        return self._beat(now_ms) if is_active else []

    def end(self, now_ms: int) -> list[Beat]:
        """Return the last heartbeat: the connection or the player is gone."""
        if not self._state or self._state in _QUIET_STATES:
            return []
        gone = PlayerReport(
            sid="",
            sequence_number=None,
            event="ps",
            state="q",
            timestamp_ms=None,
            position_ms=None,
            rate_permille=None,
            starved_ms=0,
        )
        return self.take(gone, now_ms)

    def _time_of(self, report: PlayerReport, arrived_ms: int) -> int:
        """Return when a report was made, by our clock: hardly after its arrival, never falling."""
        if report.timestamp_ms is None:
            return max(arrived_ms, self._at_ms, self._beat_ms)
        offset_ms = arrived_ms - report.timestamp_ms
        known_ms = self._offset_ms
        if known_ms is None or not -LEAD_MOST_MS <= offset_ms - known_ms <= DELAY_MOST_MS:
            # The first report; or a step of the player's clock: faster than any, or far too slow.
            self._offset_ms = offset_ms
        elif self._state != "p":
            # The least difference is that of the fastest report. It is not changed while a stretch
            # runs: both ends of it are then late by the same, and its length is right.
            self._offset_ms = min(known_ms, offset_ms)
        at_ms = report.timestamp_ms + (self._offset_ms or 0)
        return max(at_ms, self._at_ms, self._beat_ms)

    def _close_stretch(self, at_ms: int, report: PlayerReport, state: str) -> None:
        elapsed_ms = at_ms - self._at_ms
        self._at_ms = at_ms
        self._is_given_up = False
        if self._state != "p":
            return
        # A seek's report brings its target: it says nothing about how far the player had come.
        is_measured = report.position_ms is not None and self._position_ms is not None
        if is_measured and state != "k":
            begin_ms, end_ms = self._position_ms or 0, report.position_ms or 0
            end_ms = begin_ms + self._cap_received(begin_ms, end_ms)
            media_ms = max(end_ms - begin_ms, 0) * 1000 // self._rate_permille
        else:
            media_ms = min(elapsed_ms - min(report.starved_ms, elapsed_ms), ASSUMED_MOST_MS)
        self._played_ms += min(media_ms, elapsed_ms + CARRY_MOST_MS)

    def _cap_received(self, begin_ms: int, end_ms: int) -> int:
        """Return how much of a stretch of media can have been played, given what was received."""
        if end_ms <= begin_ms:
            return 0
        received_ms = self._received_ms()
        if received_ms is None:
            return end_ms - begin_ms
        new_ms = self._ranges.add(begin_ms, end_ms)
        excess_ms = max(self._ranges.total_ms - received_ms, 0)
        return end_ms - begin_ms - min(excess_ms, new_ms)

    def _beat(self, at_ms: int) -> list[Beat]:
        if not self._refill(at_ms):
            self._is_owed = True
            return []
        self._allowance -= 1
        self._is_owed = False
        wall_ms = max(at_ms - self._beat_ms, 0)
        played_ms = self._played_ms
        if self._state == "p":
            played_ms += self._assume_ms(at_ms)
        if self._beat_state == "p":
            # Only here: what is claimed while the heartbeats say "paused" would count for nobody.
            self._claimed_ms = max(
                self._claimed_ms,
                min(played_ms, self._claimed_ms + wall_ms, self._now_ms - self._opened_ms),
            )
        self._played_ms = min(self._played_ms, self._claimed_ms + CARRY_MOST_MS)
        self._beat_ms = max(at_ms, self._beat_ms)
        self._beat_state = self._state
        return [Beat(at_ms=self._beat_ms, state=self._state, media_ms=self._claimed_ms)]

    def _assume_ms(self, at_ms: int) -> int:
        """Return how much media is taken to have been played since the newest report."""
        assumed_ms = min(max(at_ms - self._at_ms, 0), ASSUMED_MOST_MS + _TICK_SLACK_MS)
        received_ms = self._received_ms()
        if received_ms is None:
            return assumed_ms
        return min(assumed_ms, max(received_ms - self._ranges.total_ms, 0))

    def _refill(self, now_ms: int) -> bool:
        earned = max(now_ms - self._refilled_ms, 0) // REFILL_MS
        self._refilled_ms += earned * REFILL_MS
        self._allowance = min(self._allowance + earned, BURST_MOST)
        return self._allowance > 0
