"""Every line in one counter; repeats dropped; conflicts quarantined; order without meaning."""

import random

import pytest
from cdn_logs import CONTENT, Delivery, changed, job_of, tally_of, write_log
from hypothesis import given
from hypothesis import strategies as st

from ledger.cdnlogs.contents import Contents, ContentsError, parse_contents
from ledger.cdnlogs.reading import read_log
from ledger.cdnlogs.tally import Tally, TallyFullError
from ledger.cdnlogs.timestamps import day_of

FIRST = Delivery(request_id="r1")
SECOND = Delivery(request_id="r2", body=77)


def test_the_same_line_again_is_dropped_and_counted() -> None:
    groups, counters = tally_of("nginx", write_log("nginx", [FIRST, SECOND, FIRST, FIRST]))
    [totals] = groups.values()
    assert (totals.lines, totals.body_bytes, totals.total_bytes) == (2, 1077, 1677)
    assert (totals.duplicate_lines, totals.duplicate_bytes) == (2, 2000)
    assert (counters.accepted, counters.duplicate, counters.sum) == (2, 2, 4)


def test_one_request_id_with_other_content_quarantines_all_of_its_lines() -> None:
    other = changed(FIRST, body=999)
    groups, counters = tally_of("nginx", write_log("nginx", [FIRST, SECOND, other, FIRST]))
    [totals] = groups.values()
    assert (totals.lines, totals.body_bytes) == (1, 77)
    assert (totals.conflict_lines, totals.conflict_bytes) == (3, 999)
    assert (counters.accepted, counters.conflict, counters.duplicate) == (1, 3, 0)


def test_lines_of_a_closed_day_are_late_and_count_as_corrections() -> None:
    day = day_of(FIRST.at_ms)
    groups, counters = tally_of(
        "nginx", write_log("nginx", [FIRST, SECOND]), closed_through_day=day
    )
    [totals] = groups.values()
    assert (totals.lines, totals.late_lines, totals.late_bytes) == (2, 2, 1077)
    assert (counters.accepted, counters.late) == (0, 2)


def test_without_a_request_id_equal_lines_are_two_deliveries() -> None:
    line = write_log("w3c", [FIRST]).replace(b" r1 ", b" - ")
    groups, counters = tally_of("w3c", line + line.split(b"\n")[-2] + b"\n")
    assert [totals.lines for totals in groups.values()] == [2]
    assert (counters.accepted, counters.excluded["directive"], counters.lines) == (2, 2, 4)


def test_totals_are_kept_by_content_session_and_day() -> None:
    tomorrow = changed(FIRST, request_id="r3", at_ms=FIRST.at_ms + 86_400_000)
    elsewhere = changed(FIRST, request_id="r4", path="/other", sid="")
    groups, _ = tally_of("nginx", write_log("nginx", [FIRST, tomorrow, elsewhere]))
    assert [(key.content_id, bool(key.session_id), key.day) for key in groups] == [
        (b"", False, day_of(FIRST.at_ms)),
        (CONTENT, True, day_of(FIRST.at_ms)),
        (CONTENT, True, day_of(FIRST.at_ms) + 1),
    ]


def test_more_request_ids_than_allowed_are_refused() -> None:
    tally = Tally(contents=Contents.of({}), keys_max=1)
    log = write_log("nginx", [FIRST, SECOND])
    with pytest.raises(TallyFullError):
        tally.add("file", read_log([log], job_of("nginx")))


DELIVERIES = st.lists(
    st.builds(
        Delivery,
        request_id=st.sampled_from(["a", "b", "c", "d"]),
        body=st.integers(0, 2),
        whole=st.booleans(),
        host=st.sampled_from(["cdn.example", ""]),
    ),
    max_size=12,
)


@given(DELIVERIES, st.integers(0, 2**32), st.integers(1, 4), st.booleans())
def test_order_and_cut_into_files_change_nothing(
    deliveries: list[Delivery], seed: int, file_count: int, adds_damage: bool
) -> None:
    lines = [write_log("nginx", [delivery]) for delivery in deliveries]
    if adds_damage:
        lines += [b"\x00 damaged\n", b"\n"]
    whole = tally_of("nginx", b"".join(lines))
    shuffled = random.Random(seed).sample(lines, len(lines))
    files = [b"".join(shuffled[number::file_count]) for number in range(file_count)]
    groups, counters = tally_of("nginx", *files)
    assert groups == whole[0]
    assert counters.sum == counters.lines == whole[1].lines == len(lines)
    for name in ("accepted", "duplicate", "conflict", "late", "malformed", "excluded"):
        assert getattr(counters, name) == getattr(whole[1], name)


def test_the_longest_prefix_names_the_content() -> None:
    contents = parse_contents(f'[contents]\n"/f/" = "{"11" * 32}"\n"/f/long/" = "{"22" * 32}"\n')
    assert contents.find("/f/long/1.ts") == b"\x22" * 32
    assert contents.find("/f/lon") == b"\x11" * 32
    assert contents.find("/g") == b""


@pytest.mark.parametrize("text", ["", "[contents]\nf = 1", '[contents]\n"/f" = "11"', "x"])
def test_contents_with_a_mistake_are_refused(text: str) -> None:
    with pytest.raises(ContentsError):
        parse_contents(text)
