"""Chart of bytes by source over time: geometry of stacked bars, in integers.

One bar an epoch, or a run of epochs where there are more than fit. Drawing is the template's; the
numbers stand in a table beside the chart as well, so that nobody needs to see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.reports.bill import EpochSummary

TICKS = 4
HEIGHT = 240
_TOP, _BOTTOM, _LEFT, _RIGHT = 12, 28, 64, 8
_BAR_WIDTH_MIN, _BAR_WIDTH_MAX, _GAP = 6, 72, 4
_AXIS_UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: P2P below, CDN above it. Pixels from the top left."""

    x: int
    width: int
    label: str
    """Epoch, or first and last epoch."""

    shows_label: bool
    bytes_p2p: int
    bytes_cdn: int
    p2p_y: int
    p2p_height: int
    cdn_y: int
    cdn_height: int

    @property
    def middle(self) -> int:
        """Where the label stands."""
        return self.x + self.width // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line across the chart."""

    y: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Everything a template needs to draw."""

    width: int
    height: int
    left: int
    right: int
    """x of the plot's edges."""

    base: int
    """y of the zero line."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def make_chart(epochs: Sequence[EpochSummary], width: int) -> Chart:
    """Return the chart of these epochs.

    Args:
        epochs: Consecutive, at least one.
        width: Of the whole drawing, in pixels, ≥ 200.
    """
    plot_width, plot_height = width - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    groups = _groups(epochs, plot_width // (_BAR_WIDTH_MIN + _GAP))
    totals = [
        (sum(e.bytes_p2p for e in group), sum(e.bytes_cdn for e in group)) for group in groups
    ]
    step_bytes = _tick_step(max(p2p + cdn for p2p, cdn in totals))
    top_bytes = step_bytes * TICKS
    slot = plot_width // len(groups)
    bar_width = min(_BAR_WIDTH_MAX, slot - _GAP)
    base = HEIGHT - _BOTTOM
    label_every = max(1, -(-len(groups) * 44 // plot_width))
    bars = []
    for place, (group, (p2p, cdn)) in enumerate(zip(groups, totals, strict=True)):
        p2p_height = _pixels(p2p, top_bytes, plot_height)
        cdn_height = _pixels(cdn, top_bytes, plot_height)
        bars.append(
            Bar(
                x=_LEFT + place * slot + (slot - bar_width) // 2,
                width=bar_width,
                label=_label(group),
                shows_label=place % label_every == 0,
                bytes_p2p=p2p,
                bytes_cdn=cdn,
                p2p_y=base - p2p_height,
                p2p_height=p2p_height,
                cdn_y=base - p2p_height - cdn_height,
                cdn_height=cdn_height,
            )
        )
    ticks = tuple(
        Tick(y=base - plot_height * place // TICKS, label=_tick_label(step_bytes, place))
        for place in range(TICKS + 1)
    )
    return Chart(
        width=width,
        height=HEIGHT,
        left=_LEFT,
        right=width - _RIGHT,
        base=base,
        bars=tuple(bars),
        ticks=ticks,
    )


def _groups(epochs: Sequence[EpochSummary], most: int) -> list[Sequence[EpochSummary]]:
    size = -(-len(epochs) // most)
    return [epochs[at : at + size] for at in range(0, len(epochs), size)]


def _label(group: Sequence[EpochSummary]) -> str:
    first, last = group[0].epoch, group[-1].epoch
    return str(first) if first == last else f"{first}–{last}"


def _pixels(amount_bytes: int, top_bytes: int, plot_height: int) -> int:
    """Height of an amount, rounded half up; what is there at all stays visible."""
    if amount_bytes == 0:
        return 0
    return max(1, (2 * amount_bytes * plot_height + top_bytes) // (2 * top_bytes))


def _tick_step(largest_bytes: int) -> int:
    """The least of 1, 2, 5 × 10ⁿ bytes of which `TICKS` reach the largest bar."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step * TICKS >= largest_bytes:
                return factor * step
        step *= 10


def _tick_label(step_bytes: int, place: int) -> str:
    unit = next(unit for unit, size in _AXIS_UNITS.items() if step_bytes >= size)
    return f"{place * step_bytes // _AXIS_UNITS[unit]:,} {unit}"
