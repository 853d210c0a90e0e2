"""Playback of a player that reports nothing, estimated from the pace at which it reads.

The playhead is taken to run with the wall clock from the first read on, as far as media was read,
and to stand when nothing more was read for a while: such a player has paused, and its buffer is
full. Media that was read and thrown away (a closed connection, a jump) is not played. So the
estimate is never above wall clock and never above what was read; it cannot see a pause that is
shorter than the player's buffer.

A state machine without clock or I/O: the caller tells it times and reads, and hands its reports to
a `playback_clock`.
"""

from dataclasses import dataclass

from engine_plugin.viewing.cmcd import PlayerReport

QUIET_MOST_MS = 10_000
"""A player that plays reads at least so often."""

JUMP_MS = 1_000
"""A read that begins farther than this from the last one's end is a seek."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedReport:
    """A report, and the monotonic milliseconds at which what it says became so."""

    at_ms: int
    report: PlayerReport


class ReadPace:
    """The estimated playback of one HTTP session. Times are monotonic milliseconds."""

    def __init__(self) -> None:
        self._state = ""
        self._at_ms = 0
        self._last_read_ms = 0
        self._read_to_ms = 0
        """Media position up to which was read."""
        self._playhead_ms = 0
        self._is_closed = False
        self._is_complete = False

    def read(
        self, now_ms: int, *, position_ms: int, media_ms: int, is_last: bool = False
    ) -> list[TimedReport]:
        """Take note of media handed to the player.

        Args:
            now_ms: Now.
            position_ms: Media position of its first byte, in milliseconds.
            media_ms: How much media it is, ≥ 0.
            is_last: Whether it reaches the content's end.
        """
        reports = self.tick(now_ms)
        if not self._state:
            self._playhead_ms = self._read_to_ms = position_ms
            self._at_ms = now_ms
        elif abs(position_ms - self._read_to_ms) > JUMP_MS:
            reports += self._enter("k", now_ms)
            self._playhead_ms = self._read_to_ms = position_ms
        self._read_to_ms = max(self._read_to_ms, position_ms + media_ms)
        self._last_read_ms = now_ms
        self._is_closed, self._is_complete = False, is_last
        if self._read_to_ms > self._playhead_ms:
            reports += self._enter("p", now_ms)
        return reports

    def close(self, now_ms: int) -> list[TimedReport]:
        """Take note that the player closed its connection: what it had not played it threw away.

        A player that had read to the end goes on with what it holds.
        """
        reports = self.tick(now_ms)
        self._is_closed = True
        if not self._is_complete and self._state not in {"", "q"}:
            reports += self._enter("q", now_ms)
        return reports

    def tick(self, now_ms: int) -> list[TimedReport]:
        """Move the playhead to now."""
        reports: list[TimedReport] = []
        if self._state == "p":
            until_ms = now_ms
            if not self._is_complete:
                until_ms = min(now_ms, max(self._last_read_ms + QUIET_MOST_MS, self._at_ms))
            step_ms = min(until_ms - self._at_ms, self._read_to_ms - self._playhead_ms)
            self._playhead_ms += step_ms
            self._at_ms += step_ms
            if self._at_ms < now_ms:
                stopped = "r" if self._playhead_ms >= self._read_to_ms else "a"
                if self._is_complete and stopped == "r":
                    stopped = "e"
                reports += self._enter(stopped, self._at_ms)
        self._at_ms = now_ms
        return reports

    def _enter(self, state: str, at_ms: int) -> list[TimedReport]:
        if state == self._state:
            return []
        self._state = state
        report = PlayerReport(
            sid="",
            sequence_number=None,
            event="ps",
            state=state,
            timestamp_ms=None,
            position_ms=None if state == "k" else self._playhead_ms,
            rate_permille=None,
            starved_ms=0,
        )
        return [TimedReport(at_ms=at_ms, report=report)]
