"""Issuing budget: what a broadcaster may still promise, before an entitlement is signed.

An entitlement with a cap of bytes may cost cap × price; that is what it is counted for, from its
issue on. Nothing is issued that would take the entitlements that hold beyond what the deposits
cover, all of them together beyond the budget, or those of one UTC day of ledger time beyond the
daily cap. What the deposits cover is the collector's answer, asked for at most every few seconds;
while nobody can tell, nothing is issued. An entitlement without a cap counts for nothing: it is
given as long as anything is left. What running entitlements have used already is not taken off what
they are counted for, so it is refused rather too early than too late. Not here: the collector's own
refusal of receipts that are not covered, which needs no issuer's honesty.
"""

import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from ledger.api.answers import RefusedError
from ledger.audit.address import format_account
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.terms import Terms

TIMEOUT_S: Final = 10.0
FRESH_S: Final = 5.0
"""For how long an answer about the deposits is good."""

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a broadcaster allows itself; 0 = no limit."""

    budget_stroops: int = 0
    """Most that all entitlements ever issued may cost together."""

    daily_stroops: int = 0
    """Most that the entitlements issued on one UTC day may cost."""

    daily_bytes: int = 0
    """Most bytes that the caps of those issued on one UTC day may come to; none without a cap."""

    def __post_init__(self) -> None:
        for name in ("budget_stroops", "daily_stroops", "daily_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, want 0 or more")


def cost_of(terms: Terms, max_bytes: int) -> int:
    """Return what bytes may cost at most, rounded up: by peers or by the dearest CDN."""
    prices = [(terms.price_stroops, terms.price_quantity_bytes)]
    prices += [(cdn.price_stroops, cdn.price_quantity_bytes) for cdn in terms.cdns]
    return max(-(-max_bytes * stroops // quantity) for stroops, quantity in prices)


class IssuingBudget:
    """Refuses what may not be promised; the issuer calls it with its lock held."""

    def __init__(
        self, terms: Terms, limits: Limits, *, read_free: Callable[[], int] | None = None
    ) -> None:
        """Begin with nothing issued; `note` what was.

        Args:
            terms: Whose prices.
            limits: The broadcaster's own.
            read_free: Returns what the deposits still cover; raises `RefusedError` when nobody can
                tell. None: the deposits are not asked about.
        """
        self._terms = terms
        self._limits = limits
        self._read_free = read_free
        self._total_stroops = 0
        self._by_day: defaultdict[int, int] = defaultdict(int)
        self._bytes_by_day: defaultdict[int, int] = defaultdict(int)
        self._live: list[tuple[int, int]] = []
        self._live_stroops = 0

    def note(self, entitlements: Iterable[Entitlement]) -> None:
        """Count entitlements that were issued."""
        for entitlement in entitlements:
            cost_stroops = cost_of(self._terms, entitlement.max_bytes)
            self._total_stroops += cost_stroops
            self._by_day[entitlement.not_before_s // DAY_S] += cost_stroops
            self._bytes_by_day[entitlement.not_before_s // DAY_S] += entitlement.max_bytes
            heapq.heappush(self._live, (entitlement.not_after_s, cost_stroops))
            self._live_stroops += cost_stroops

    def require(self, wanted: Iterable[Entitlement], now_s: int) -> None:
        """Raise unless these entitlements may be issued too.

        Args:
            wanted: About to be issued, now.
            now_s: Ledger time.

        Raises:
            RefusedError: 403 `budget_spent`, `daily_cap_reached` or `not_covered`; 503, nobody can
                tell what is covered.
        """
        while self._live and self._live[0][0] < now_s:
            self._live_stroops -= heapq.heappop(self._live)[1]
        by_day: defaultdict[int, int] = defaultdict(int)
        wanted = list(wanted)
        self._require_bytes(wanted)
        for entitlement in wanted:
            cost_stroops = cost_of(self._terms, entitlement.max_bytes)
            by_day[entitlement.not_before_s // DAY_S] += cost_stroops
        new_stroops, limits = sum(by_day.values()), self._limits
        if limits.budget_stroops:
            _require_most("budget_spent", self._total_stroops, new_stroops, limits.budget_stroops)
        if limits.daily_stroops:
            for day, day_stroops in by_day.items():
                so_far = self._by_day[day]
                _require_most("daily_cap_reached", so_far, day_stroops, limits.daily_stroops)
        if self._read_free is not None:
            free_stroops = self._read_free()
            if free_stroops <= 0:
                raise RefusedError(
                    403,
                    "not_covered",
                    field="coverage",
                    got=f"{free_stroops} stroops left of the deposits",
                    want="more than nothing",
                )
            _require_most("not_covered", self._live_stroops, new_stroops, free_stroops)

    def _require_bytes(self, wanted: Sequence[Entitlement]) -> None:
        most = self._limits.daily_bytes
        if not most:
            return
        by_day: defaultdict[int, int] = defaultdict(int)
        for entitlement in wanted:
            if not entitlement.max_bytes:
                raise RefusedError(
                    403,
                    "daily_cap_reached",
                    field="max_bytes",
                    got="no cap",
                    want=f"one: at most {most} bytes a day are issued",
                )
            by_day[entitlement.not_before_s // DAY_S] += entitlement.max_bytes
        for day, new_bytes in by_day.items():
            so_far = self._bytes_by_day[day]
            if so_far + new_bytes > most:
                raise RefusedError(
                    403,
                    "daily_cap_reached",
                    field="max_bytes",
                    got=f"{so_far} bytes issued and {new_bytes} more",
                    want=f"at most {most} bytes a day",
                )


def _require_most(code: str, so_far: int, new_stroops: int, most_stroops: int) -> None:
    if so_far + new_stroops > most_stroops:
        raise RefusedError(
            403,
            code,
            field="max_bytes",
            got=f"{so_far} stroops promised and {new_stroops} more",
            want=f"at most {most_stroops} stroops",
        )


class CoverageSource:
    """What the collector says the deposits still cover; safe to read from any thread."""

    def __init__(
        self,
        collector_url: str,
        broadcaster_account: bytes,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to ask when asked."""
        self._url = f"{collector_url.rstrip('/')}/v1/coverage"
        self._account = format_account(broadcaster_account)
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: tuple[float, int] | None = None

    def read_free(self) -> int:
        """Return what is neither charged nor claimed yet, in stroops; may be negative.

        Raises:
            RefusedError: 503, the collector gave no usable answer.
        """
        with self._lock:
            now = self._monotonic()
            if self._known is None or now - self._known[0] > FRESH_S:
                self._known = now, self._ask()
            return self._known[1]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self) -> int:
        try:
            answer = self._client.get(self._url, params={"broadcaster": self._account})
            answer.raise_for_status()
            free_stroops = _integer(answer.json()["free_stroops"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                503,
                "coverage_unknown",
                field="coverage",
                got=error,
                want="the collector's answer",
            ) from None
        return free_stroops


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"free_stroops: got {value!r}, want a whole number")
    return value
