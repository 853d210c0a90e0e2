"""CMCD bodies: both forms read alike; anything out of range or bounds refuses the whole body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.viewing.cmcd import (
    BODY_BYTES_MAX,
    REPORTS_MAX,
    MalformedReportError,
    PlayerReport,
    parse_reports,
)

EXPECTED = PlayerReport(
    sid="6e2fb550-c457",
    sequence_number=3,
    event="ps",
    state="p",
    timestamp_ms=1_790_000_000_123,
    position_ms=4567,
    rate_permille=1080,
    starved_ms=150,
)


def test_lines_and_json_say_the_same() -> None:
    line = b'bsd=150,e=ps,pr=1.08,pt=4567,sid="6e2fb550-c457",sn=3,sta=p,su,ts=1790000000123,v=2'
    values = {
        "bsd": 150, "e": "ps", "pr": 1.08, "pt": 4567, "sid": "6e2fb550-c457",
        "sn": 3, "sta": "p", "su": True, "ts": 1790000000123, "v": 2,
    }  # fmt: skip
    assert parse_reports(line, is_json=False) == [EXPECTED]
    assert parse_reports(json.dumps(values).encode(), is_json=True) == [EXPECTED]
    assert parse_reports(json.dumps([values]).encode(), is_json=True) == [EXPECTED]


def test_every_line_is_a_report_and_unused_keys_are_read_past() -> None:
    body = b'sta=s,com.example-note="a, \\"quoted\\" one",br=(3200 128)\nsta=p,cid="x=y"\n'
    assert [report.state for report in parse_reports(body, is_json=False)] == ["s", "p"]


@pytest.mark.parametrize(
    ("body", "is_json"),
    [
        (b"", False),
        (b"\n", False),
        (b"sta=x", False),
        (b"sta=pp", False),
        (b"sta=p,sta=a", False),
        (b'sid="open', False),
        (b'sid="' + b"x" * 65 + b'"', False),
        (b"sn=-1", False),
        (b"sn=1.5", False),
        (b"sn=" + b"9" * 20, False),
        (b"sn", False),
        (b"pr=17", False),
        (b"pr=nan", False),
        (b"pr=inf", False),
        (b"=1", False),
        (b"\xff", False),
        (b"x" * (BODY_BYTES_MAX + 1), False),
        (b"\n".join([b"sta=p"] * (REPORTS_MAX + 1)), False),
        (b"{", True),
        (b"[]", True),
        (b"[1]", True),
        (b'"sta"', True),
        (b'{"sta":"p","sta":"a"}', True),
        (b'{"pr":NaN}', True),
        (b'{"pr":true}', True),
        (b'{"sn":true}', True),
        (b'{"sn":"1"}', True),
        (b'{"sid":7}', True),
        (b'{"ts":1e400}', True),
        (b"[" * 5000, True),
    ],
)
def test_body_out_of_form_or_range_is_refused(body: bytes, is_json: bool) -> None:
    with pytest.raises(MalformedReportError):
        parse_reports(body, is_json=is_json)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, is_json: bool) -> None:
    try:
        reports = parse_reports(body, is_json=is_json)
    except MalformedReportError:
        return
    assert 1 <= len(reports) <= REPORTS_MAX


@given(st.text(alphabet='stapresidn=",\\.0123456789\n -', max_size=200))
def test_any_text_near_the_form_is_read_or_refused(text: str) -> None:
    try:
        reports = parse_reports(text.encode(), is_json=False)
    except MalformedReportError:
        return
    assert 1 <= len(reports) <= REPORTS_MAX
