"""Bars of three sources beside each other, one group a CDN: geometry in integers.

Drawing is the template's; the numbers stand in tables as well, so that nobody needs to see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SOURCES: Final = ("signed", "log", "invoice")
BAR_HEIGHT: Final = 16
_GAP, _GROUP_GAP, _LABEL_HEIGHT, _VALUE_WIDTH, _LEFT = 4, 18, 20, 130, 74


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBar:
    """One bar. Pixels from the top left."""

    source: str
    """A name of `SOURCES`."""

    amount_bytes: int | None
    """None: not known; the bar has no width."""

    y: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BarGroup:
    """The bars of one CDN."""

    label: str
    label_y: int
    bars: tuple[SourceBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChart:
    """Everything a template needs to draw."""

    width: int
    height: int
    left: int
    """x of the zero line."""

    groups: tuple[BarGroup, ...]


def make_source_chart(
    amounts_by_label: Sequence[tuple[str, Sequence[int | None]]], width: int
) -> SourceChart:
    """Return the chart of (label, bytes by source in the order of `SOURCES`).

    Args:
        amounts_by_label: One pair a group.
        width: Of the whole drawing, in pixels, ≥ 260.
    """
    longest = max((a or 0 for _, amounts in amounts_by_label for a in amounts), default=0)
    room = width - _LEFT - _VALUE_WIDTH
    y, groups = 0, []
    for label, amounts in amounts_by_label:
        label_y = y + _LABEL_HEIGHT - 6
        y += _LABEL_HEIGHT
        bars = []
        for source, amount_bytes in zip(SOURCES, amounts, strict=True):
            pixels = 0
            if amount_bytes:
                pixels = max(1, (2 * amount_bytes * room + longest) // (2 * longest))
            bars.append(SourceBar(source=source, amount_bytes=amount_bytes, y=y, width=pixels))
            y += BAR_HEIGHT + _GAP
        y += _GROUP_GAP - _GAP
        groups.append(BarGroup(label=label, label_y=label_y, bars=tuple(bars)))
    return SourceChart(width=width, height=max(y, 1), left=_LEFT, groups=tuple(groups))
