"""The chart's bars are in proportion, inside the plot, and never too many."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported_history import reported_figures, reported_files

from ledger.reports.bill import make_bill
from ledger.reports.chart import HEIGHT, make_chart


def epochs_of(amounts):
    _, trust = reported_files()
    model = make_bill(reported_figures(), trust).epochs[0]
    return [
        replace(model, epoch=number, bytes_p2p=p2p, bytes_cdn=cdn)
        for number, (p2p, cdn) in enumerate(amounts)
    ]


amounts = st.tuples(st.integers(0, 2**50), st.integers(0, 2**50))


@given(st.lists(amounts, min_size=1, max_size=300), st.sampled_from([288, 900]))
def test_bars_stay_in_the_plot_and_show_all_bytes(some, width):
    chart = make_chart(epochs_of(some), width)
    assert sum(bar.bytes_p2p for bar in chart.bars) == sum(p2p for p2p, _ in some)
    assert sum(bar.bytes_cdn for bar in chart.bars) == sum(cdn for _, cdn in some)
    for bar in chart.bars:
        assert chart.left <= bar.x < bar.x + bar.width <= chart.right
        assert 0 <= bar.cdn_y <= bar.p2p_y <= chart.base < HEIGHT
        assert bar.cdn_y + bar.cdn_height == bar.p2p_y
        assert bool(bar.p2p_height) == bool(bar.bytes_p2p)
        assert bool(bar.cdn_height) == bool(bar.bytes_cdn)


@pytest.mark.parametrize(
    ("largest", "labels"),
    [
        (0, ["0 B", "1 B", "2 B", "3 B", "4 B"]),
        (335_544_320, ["0 MB", "100 MB", "200 MB", "300 MB", "400 MB"]),
        (7_200_000, ["0 MB", "2 MB", "4 MB", "6 MB", "8 MB"]),
        (4_000, ["0 kB", "1 kB", "2 kB", "3 kB", "4 kB"]),
        (5 * 10**12, ["0 TB", "2 TB", "4 TB", "6 TB", "8 TB"]),
    ],
)
def test_ticks_are_round_numbers_with_their_unit(largest, labels):
    chart = make_chart(epochs_of([(largest, 0)]), 900)
    assert [tick.label for tick in chart.ticks] == labels
