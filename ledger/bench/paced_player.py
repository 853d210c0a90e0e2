"""A player without a screen: reads a file over HTTP at its playing rate and counts stalls.

It plays once a stretch of media is there, stalls when it has none left, and goes on when that
stretch is there again; it never holds more than its buffer. A seek is a new request from another
place. Time is the machine's monotonic clock; media is bytes over a constant rate.
"""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from ledger.bench.errors import BenchError

START_S: Final = 1.0
"""Media that a player wants before it shows the first picture, or goes on after a stall."""

BUFFER_S: Final = 10.0
_READ_BYTES: Final = 64 << 10
_TIMEOUT_S: Final = 60.0
_NAP_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayFigures:
    """What one stretch of playing came to."""

    first_byte_s: float
    """From the request to its first byte of media."""
    start_s: float
    """From the request to the first picture: 1 s of media is there."""
    played_s: float
    stalls: int
    stalled_s: float
    digest: bytes
    """SHA-256 of what was read."""

    @property
    def rebuffer_ratio(self) -> float:
        """Time stalled as a part of the time after the first picture."""
        return self.stalled_s / (self.played_s + self.stalled_s)


class PlayClock:
    """Buffer and playing position of one stretch."""

    def __init__(
        self,
        rate_bytes_per_s: int,
        length: int,
        *,
        start_s: float = START_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the request.

        Args:
            rate_bytes_per_s: The playing rate.
            length: n ≥ 1 bytes.
            start_s: Media wanted before the first picture, and after a stall.
            clock: Monotonic seconds.
        """
        self.rate = rate_bytes_per_s
        self.length = length
        self.got = 0
        self.played = 0.0
        self.stalls = 0
        self.stalled_s = 0.0
        self.start_s: float | None = None
        self._is_playing = False
        self._wanted_s = start_s
        self._clock = clock
        self._asked_s = self._seen_s = clock()

    def tick(self, got: int) -> None:
        """Take note of bytes and of the time that has passed."""
        now_s = self._clock()
        passed_s = now_s - self._seen_s
        self._seen_s = now_s
        if self._is_playing:
            room = self.got - self.played
            self.played += min(passed_s * self.rate, room)
            if passed_s * self.rate > room and self.got < self.length:
                self._is_playing = False
                self.stalls += 1
                self.stalled_s += passed_s - room / self.rate
        elif self.start_s is not None:
            self.stalled_s += passed_s
        self.got += got
        wanted = min(self._wanted_s * self.rate, self.length - self.played)
        if not self._is_playing and self.got - self.played >= wanted:
            self._is_playing = True
            if self.start_s is None:
                self.start_s = now_s - self._asked_s

    @property
    def is_full(self) -> bool:
        """Whether the player's buffer is."""
        return self.got - self.played > BUFFER_S * self.rate

    @property
    def is_over(self) -> bool:
        """Whether all that was asked for has been shown."""
        return self.played >= self.length - 1


def play(
    url: str, *, offset: int, length: int, rate_bytes_per_s: int, start_s: float = START_S
) -> PlayFigures:
    """Play a stretch of a file and return what it came to.

    Args:
        url: The stream.
        offset: Its first byte.
        length: n ≥ 1 bytes of it.
        rate_bytes_per_s: The playing rate.
        start_s: Media wanted before the first picture, and after a stall.

    Raises:
        BenchError: The answer is not the stretch asked for.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    clock = PlayClock(rate_bytes_per_s, length, start_s=start_s)
    digest = sha256()
    asked_s = time.monotonic()
    first_byte_s = 0.0
    try:
        headers = {"range": f"bytes={offset}-{offset + length - 1}"}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        if answer.status != 206:
            raise BenchError(f"{url}: got status {answer.status}, want 206")
        while not clock.is_over:
            data = b""
            if clock.got < length and not clock.is_full:
                data = answer.read1(_READ_BYTES)
                if not data:
                    raise BenchError(f"{url}: ended after {clock.got} of {length} bytes")
                first_byte_s = first_byte_s or time.monotonic() - asked_s
                digest.update(data)
            else:
                time.sleep(_NAP_S)
            clock.tick(len(data))
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{url}: {error}") from None
    finally:
        connection.close()
    return PlayFigures(
        first_byte_s=first_byte_s,
        start_s=clock.start_s or 0.0,
        played_s=clock.played / rate_bytes_per_s,
        stalls=clock.stalls,
        stalled_s=clock.stalled_s,
        digest=digest.digest(),
    )
