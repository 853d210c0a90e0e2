"""Peers first, a CDN when a deadline is at risk: when a content may use which web seed.

A policy says from two figures (how long until the next missing piece is needed, and how long the
CDN has been of no use) whether the CDN is wanted; a roster says which of several CDNs, resting
those that fail, stall or lie for ever longer times. The driver carries both out on one content.

libtorrent does the fetching and checks every hash, so a CDN can waste time and never spoil the
picture. Not here: deadlines (`piece_desk`), what a CDN's bytes cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from engine_plugin.content import SourceBytes
from engine_plugin.url_text import hide_queries

REST_FIRST_S: Final = 5.0
REST_MOST_S: Final = 300.0
_DANGER_S: Final = 1.0
"""Nearer than this, the next missing pieces are the CDN's again."""

_COMPARE_S: Final = 2.0
"""Peers that deliver twice as much as the CDN for so long do without it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridPolicy:
    """When the CDN helps out.

    Raises:
        ValueError: A field is out of range.
    """

    risk_s: float = 4.0
    """The CDN is wanted when the next missing piece is needed within this time."""
    safe_s: float = 10.0
    """It is no longer wanted when nothing is missing for this time ahead."""
    patience_s: float = 0.7
    """How long peers alone are waited for, unless a player waits and they have proved nothing."""
    trust_s: float = 20.0
    """Peers that kept a player supplied alone for so long get their patience at a seek too."""
    stall_s: float = 3.0
    """A CDN that delivers nothing for so long, while it is wanted, has failed."""

    def __post_init__(self) -> None:
        for name in ("patience_s", "risk_s", "stall_s", "trust_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, want n >= 0")
        if not self.safe_s > self.risk_s:
            raise ValueError(f"safe_s: got {self.safe_s}, want more than risk_s {self.risk_s}")

    def is_cdn_wanted(
        self, *, slack_s: float | None, waited_s: float, is_on: bool, is_urgent: bool = False
    ) -> bool:
        """Decide whether the CDN should deliver now.

        Args:
            slack_s: Seconds until the next missing piece is needed, ≤ 0 if it is late; None:
                nothing that a player asked for is missing.
            waited_s: Seconds for which something has been missing without a break.
            is_on: Whether the CDN delivers at present.
            is_urgent: Whether a player waits for its first picture, and no peers are known that
                have kept it supplied.
        """
        if slack_s is None:
            return False
        if slack_s >= self.safe_s:
            return False
        if is_on:
            return True
        return slack_s < self.risk_s and (is_urgent or waited_s >= self.patience_s)


@dataclass(slots=True)
class _Record:
    """What is remembered of one CDN."""

    failures: int = 0
    failed_s: float = 0.0
    rests_until_s: float = 0.0


class CdnRoster:
    """Which of several CDNs is used: the first in the given order that does not rest."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Bind a roster.

        Args:
            urls: Web seeds, the preferred first.
        """
        self._records = {url: _Record() for url in urls}

    def choose(self, now_s: float, *, is_late: bool = False) -> str | None:
        """Return the URL to use now, or None while all rest.

        Args:
            now_s: Monotonic seconds.
            is_late: Whether a player waits already: then the CDN that failed longest ago is tried
                again after the shortest rest, for it can only help.
        """
        for url, record in self._records.items():
            if now_s >= record.rests_until_s:
                return url
        if is_late and self._records:
            url, record = min(self._records.items(), key=lambda item: item[1].failed_s)
            if now_s >= record.failed_s + REST_FIRST_S:
                return url
        return None

    def note_failure(self, url: str, now_s: float) -> None:
        """Let a CDN rest, twice as long as the last time."""
        if record := self._records.get(url):
            rest_s = min(REST_FIRST_S * 2**record.failures, REST_MOST_S)
            record.failures = min(record.failures + 1, 16)
            record.failed_s, record.rests_until_s = now_s, now_s + rest_s
            _log.info(
                "cdn_failed",
                url=hide_queries(url),
                failures=record.failures,
                rests_s=rest_s,
            )

    def note_success(self, url: str) -> None:
        """Forget a CDN's failures and its rest: it delivers."""
        if record := self._records.get(url):
            record.failures = 0
            record.rests_until_s = 0.0

    def describe(self, now_s: float) -> list[dict[str, str | int | float]]:
        """Return each CDN's URL, failures and remaining rest, for people."""
        return [
            {
                "url": url,
                "failures": record.failures,
                "rests_s": max(0.0, round(record.rests_until_s - now_s, 1)),
            }
            for url, record in self._records.items()
        ]


class HybridContent(Protocol):
    """What the driver asks of a content; `engine_plugin.content.Content` is one."""

    def add_web_seed(self, url: str) -> None:
        """Let the content come from a web seed as well."""

    def remove_web_seed(self, url: str) -> None:
        """Stop downloads from a web seed."""

    def web_seed_bytes(self) -> int:
        """Return payload bytes that web seeds have delivered, checked or not; never falls."""

    def take_web_seed_failures(self) -> list[str]:
        """Return the URLs of web seeds that failed since the last call."""


class StartDesk(Protocol):
    """What the driver asks of a content's desk; `piece_desk.PieceDesk` is one."""

    def is_starting(self) -> bool:
        """Say whether a player waits for its first picture, at a start or after a seek."""

    def stage(self, *, is_on: bool) -> None:
        """Order the next pieces so that a CDN gets them, or let deadlines order them again."""

    def received(self) -> SourceBytes:
        """Return what came in so far."""


class HybridDriver:
    """Turns a content's web seeds on and off; `tick` it a few times a second."""

    def __init__(
        self,
        content: HybridContent,
        urls: Sequence[str],
        *,
        policy: HybridPolicy,
        next_due_s: Callable[[], float | None],
        desk: StartDesk | None = None,
    ) -> None:
        """Bind a driver; no CDN is used yet.

        Args:
            content: Added to its engine without web seeds of its own.
            urls: Web seeds, the preferred first.
            policy: When to use them.
            next_due_s: Monotonic seconds at which the next missing piece is needed, None if
                nothing that a player asked for is missing.
            desk: Told when the first pieces are the CDN's; None: they never are.
        """
        self.roster = CdnRoster(urls)
        self.active: str | None = None
        """The web seed in use."""
        self._content = content
        self._policy = policy
        self._next_due_s = next_due_s
        self._desk = desk
        self._missing_since_s: float | None = None
        self._was_starting = self._is_staged = False
        self._compared_s, self._compared = 0.0, SourceBytes()
        self._alone_s = 0.0
        self._ticked_s: float | None = None
        self._seen_bytes = 0
        self._progress_s = 0.0

    def tick(self, now_s: float) -> None:
        """Decide and act.

        Raises:
            ContentError: The content was removed.
        """
        self._judge(now_s)
        due_s = self._next_due_s()
        is_starting = self._desk is not None and self._desk.is_starting()
        if due_s is None:
            self._missing_since_s = None
        elif self._missing_since_s is None or is_starting > self._was_starting:
            self._missing_since_s = now_s
        self._was_starting = is_starting
        if self._do_peers_keep_up(now_s):
            # They get their patience now, and at the next seek.
            self._missing_since_s, self._alone_s = now_s, self._policy.trust_s
            wanted = None
        else:
            wanted = self._choose(due_s, now_s, is_starting=is_starting)
        if wanted != self.active:
            self._switch(wanted, now_s)
        self._count_alone(due_s, now_s)
        if self._desk is not None:
            slack_s = float("inf") if due_s is None else due_s - now_s
            self._is_staged = self.active is not None and (
                is_starting or slack_s < (self._policy.risk_s if self._is_staged else _DANGER_S)
            )
            self._desk.stage(is_on=self._is_staged)

    def _choose(self, due_s: float | None, now_s: float, *, is_starting: bool) -> str | None:
        waited_s = 0.0 if self._missing_since_s is None else now_s - self._missing_since_s
        is_wanted = self._policy.is_cdn_wanted(
            slack_s=None if due_s is None else due_s - now_s,
            waited_s=waited_s,
            is_on=self.active is not None,
            is_urgent=is_starting and self._alone_s < self._policy.trust_s,
        )
        is_late = due_s is not None and due_s < now_s
        return self.roster.choose(now_s, is_late=is_late) if is_wanted else None

    def _do_peers_keep_up(self, now_s: float) -> bool:
        """Say whether peers have delivered far more than the CDN that is in use."""
        if self.active is None or self._desk is None or now_s - self._compared_s < _COMPARE_S:
            return False
        before, now = self._compared, self._desk.received()
        self._compared_s, self._compared = now_s, now
        p2p, cdn = now.p2p_bytes - before.p2p_bytes, now.cdn_bytes - before.cdn_bytes
        return p2p > 2 * cdn

    def _count_alone(self, due_s: float | None, now_s: float) -> None:
        """Take note of how long peers have kept a player supplied without the CDN."""
        if self.active is None and due_s is not None and self._ticked_s is not None:
            self._alone_s += now_s - self._ticked_s
        self._ticked_s = now_s

    def describe(self, now_s: float) -> list[dict[str, str | int | float]]:
        """Return each CDN's state ("active", "resting" or "ready") and record, for people."""
        rows = self.roster.describe(now_s)
        for row in rows:
            if row["url"] == self.active:
                row["state"] = "active"
            else:
                row["state"] = "resting" if row["rests_s"] else "ready"
            row["url"] = hide_queries(str(row["url"]))
        return rows

    def stop(self) -> None:
        """Use no CDN any more."""
        if self.active is not None:
            self._content.remove_web_seed(self.active)
            self.active = None

    def _judge(self, now_s: float) -> None:
        for url in self._content.take_web_seed_failures():
            self.roster.note_failure(url, now_s)
        if self.active is None:
            return
        delivered = self._content.web_seed_bytes()
        if delivered > self._seen_bytes:
            self._seen_bytes, self._progress_s = delivered, now_s
            self.roster.note_success(self.active)
        elif now_s - self._progress_s >= self._policy.stall_s and self._next_due_s() is not None:
            self.roster.note_failure(self.active, now_s)

    def _switch(self, wanted: str | None, now_s: float) -> None:
        _log.info(
            "cdn_switched",
            url=hide_queries(wanted or ""),
            before=hide_queries(self.active or ""),
        )
        self.stop()
        if wanted is not None:
            self._is_staged = True
            self._alone_s = 0.0
            if self._desk is not None:
                self._compared_s, self._compared = now_s, self._desk.received()
            self._seen_bytes, self._progress_s = self._content.web_seed_bytes(), now_s
            self._content.add_web_seed(wanted)
            self.active = wanted
