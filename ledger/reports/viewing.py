"""Viewing of a bill's period: minutes played, viewers, and how many watched at once, per content.

Spans of all epochs are united per viewer, so a viewer of an epoch's border counts once, and two
tabs never count twice. A signed heartbeat proves that a key's holder said so, not that a person
watched; no amount depends on these figures.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ledger.books.concurrency import (
    MinuteRun,
    Peak,
    count_per_minute,
    find_busiest_minute,
    find_peak,
)
from ledger.books.viewing_time import Span, length_of, unite
from ledger.reports.evidence_use import EvidenceUse


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentViewing:
    """How one content was watched, or all of them together."""

    content_id: bytes
    """32 bytes; empty for all together."""

    title: str
    """Empty if the catalogue has none."""

    playing_ms: int
    """United per viewer."""

    viewers: int
    """Keys that played."""

    at_once: Peak
    busiest_minute: Peak
    per_minute: tuple[MinuteRun, ...]
    """How many played in each minute; ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewing:
    """A period's viewing."""

    contents: tuple[ContentViewing, ...]
    """By title, then id; those that somebody played."""

    total: ContentViewing
    """A viewer that plays two contents at the same time counts once."""

    heartbeats: int
    heartbeats_refused: int


def measure_period(uses: Sequence[EvidenceUse], titles: Mapping[bytes, str]) -> Viewing:
    """Return the viewing of consecutive epochs."""
    by_content: dict[bytes, dict[bytes, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for use in uses:
        for (content, viewer), spans in use.playing.items():
            by_content[content][viewer].extend(spans)
    everything: dict[bytes, list[Span]] = defaultdict(list)
    for viewers in by_content.values():
        for viewer, spans_of_viewer in viewers.items():
            everything[viewer].extend(spans_of_viewer)
    ordered = sorted(by_content, key=lambda content: (titles.get(content, ""), content))
    return Viewing(
        contents=tuple(
            _measure(content, titles.get(content, ""), by_content[content]) for content in ordered
        ),
        total=_measure(b"", "", everything),
        heartbeats=sum(use.heartbeats for use in uses),
        heartbeats_refused=sum(use.heartbeats_refused for use in uses),
    )


def _measure(
    content: bytes, title: str, spans_by_viewer: Mapping[bytes, Iterable[Span]]
) -> ContentViewing:
    united = {viewer: unite(spans) for viewer, spans in spans_by_viewer.items()}
    per_minute = tuple(count_per_minute(united))
    return ContentViewing(
        content_id=content,
        title=title,
        playing_ms=sum(length_of(spans) for spans in united.values()),
        viewers=sum(bool(spans) for spans in united.values()),
        at_once=find_peak(united),
        busiest_minute=find_busiest_minute(per_minute),
        per_minute=per_minute,
    )
