"""Whether a broadcaster's escrow covers what it owes, before we serve on its word.

The collector publishes what the escrow holds and what it already owes; the owner says how many
times the one must cover the other. While it does not, or while nobody can tell, nothing is served.

Not here: the question itself (`collector`), what "not serving" means to libtorrent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from engine_plugin.errors import EngineError

PPM = 1_000_000
CHECK_EVERY_S = 60.0
RETRY_S = 5.0


class CoverageError(EngineError):
    """The escrow does not cover what is owed, as often as the owner wants it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the collector says."""

    epoch: int | None
    """Newest computed epoch that the figures are of; None: none is computed yet."""
    escrow_stroops: int
    """What the escrow and payout accounts hold."""
    liable_stroops: int
    """What is owed to payees and in fees, and what receipts not yet computed will come to."""

    @property
    def ratio_ppm(self) -> int | None:
        """Held ÷ owed in parts per million; None: nothing is owed."""
        if not self.liable_stroops:
            return None
        return self.escrow_stroops * PPM // self.liable_stroops


def require_coverage(coverage: Coverage, min_ppm: int) -> None:
    """Raise unless the escrow covers what is owed.

    An empty escrow covers nothing, even when nothing is owed yet.

    Args:
        coverage: What the collector says.
        min_ppm: Wanted ratio in parts per million; 1,000,000 = all of it, once.

    Raises:
        CoverageError: It does not, with the numbers.
    """
    held, owed = coverage.escrow_stroops, coverage.liable_stroops
    if held > 0 and held * PPM >= owed * min_ppm:
        return
    raise CoverageError(
        f"coverage: got {held} stroops in escrow for {owed} owed as of epoch {coverage.epoch}, "
        f"want {_percent(min_ppm)} of what is owed, and more than nothing"
    )


class CoverageGate:
    """Remembers whether to serve, and tells when that changes."""

    def __init__(self, min_ppm: int, on_change: Callable[[bool, str], None]) -> None:
        """Begin closed when a coverage is wanted.

        Args:
            min_ppm: Wanted ratio in parts per million; 0: none, always open.
            on_change: Told whether to serve, and why.
        """
        self.min_ppm = min_ppm
        self.is_open = min_ppm == 0
        self._on_change = on_change

    def take(self, coverage: Coverage | None, why_unknown: str = "") -> None:
        """Open or close.

        Args:
            coverage: The newest answer; None: there is none.
            why_unknown: Why there is none. Whoever serves already goes on: an operator that is
                away for a while is no reason to stop.
        """
        if coverage is None:
            if not self.is_open:
                self._on_change(False, f"coverage: not known: {why_unknown}")
            return
        try:
            require_coverage(coverage, self.min_ppm)
        except CoverageError as error:
            self._set(is_open=False, why=str(error))
        else:
            held, owed = coverage.escrow_stroops, coverage.liable_stroops
            self._set(is_open=True, why=f"coverage: {held} stroops in escrow for {owed} owed")

    def _set(self, *, is_open: bool, why: str) -> None:
        if is_open is not self.is_open:
            self.is_open = is_open
            self._on_change(is_open, why)


def _percent(ppm: int) -> str:
    return f"{ppm // 10_000}.{ppm % 10_000:04d}".rstrip("0").rstrip(".") + " %"
