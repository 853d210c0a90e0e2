"""Every format's bytes, times and sessions; and that no input makes the reader raise."""

import gzip
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import pytest
from cdn_logs import (
    AT_MS,
    FORMATS,
    STATES_BODY,
    Delivery,
    changed,
    cloudflare_line,
    cloudfront_line,
    job_of,
    nginx_line,
    outcomes_of,
    write_log,
)
from hypothesis import given
from hypothesis import strategies as st

from ledger.cdnlogs.cdni import format_cdni_log
from ledger.cdnlogs.field_map import SHIPPED, FieldMapError, load_field_map, parse_field_map
from ledger.cdnlogs.lines import ContentDigest, read_lines
from ledger.cdnlogs.reading import BYTES_MAX, Job, SampledSourceError, read_log, session_id_of
from ledger.cdnlogs.rows import (
    ExcludedLine,
    Exclusion,
    LogRow,
    MalformedLine,
    Outcome,
    figures_of,
)
from ledger.cdnlogs.timestamps import TimeFormat

FIRST = Delivery(request_id="r1")
SID = session_id_of(FIRST.sid)


def rows_of(name: str, data: bytes, **changes: object) -> list[LogRow]:
    return [row for row in outcomes_of(name, data, **changes) if isinstance(row, LogRow)]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_states_bytes_time_place_and_session(name: str) -> None:
    [row] = rows_of(name, write_log(name, [FIRST]))
    assert row.total_bytes == 1300
    assert row.body_bytes == (1000 if name in STATES_BODY else None)
    assert (row.time_ms, row.host, row.path) == (AT_MS, "cdn.example", "/film/1.ts")
    assert (row.session_id, row.status, row.is_aborted) == (SID, 206, False)
    assert row.key


def test_every_shipped_map_is_covered() -> None:
    assert {*FORMATS, "cdni", "combined"} == set(SHIPPED)


def test_plain_combined_logs_are_read_without_a_request_id() -> None:
    line = (
        b'127.0.0.1 - - [01/Jan/2026:01:00:00 +0000] "GET /film/1.ts HTTP/1.1" 206 1000 "-" "x"\n'
    )
    [row] = rows_of("combined", line)
    assert (row.key, row.body_bytes, row.total_bytes, row.time_ms) == (b"", 1000, None, AT_MS)


@pytest.mark.parametrize("time_format", ["rfc3339", "unix", "unixnano"])
def test_logpush_times_are_found_once_a_job(time_format: str) -> None:
    job = job_of("cloudflare")
    assert job.time_format is None
    data = cloudflare_line(FIRST, time_format).encode()
    [row] = read_log([data], job)
    assert isinstance(row, LogRow)
    assert row.time_ms == AT_MS
    others = {"rfc3339", "unix", "unixnano"} - {time_format}
    for other in sorted(others):
        [outcome] = read_log([cloudflare_line(FIRST, other).encode()], job)
        assert isinstance(outcome, MalformedLine), other


def test_declared_time_format_refuses_the_first_row_in_another() -> None:
    data = cloudflare_line(FIRST, "unix").encode()
    [outcome] = outcomes_of("cloudflare", data, time_format=TimeFormat.UNIX_NS)
    assert isinstance(outcome, MalformedLine)
    assert "unix-ns" in outcome.reason


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("01/Jan/2026:02:00:00 +0100", AT_MS),
        ("31/Dec/2025:20:00:00 -0500", AT_MS),
        ("32/Dec/2025:20:00:00 -0500", None),
        ("29/Feb/2026:20:00:00 +0000", None),
        ("01/Foo/2026:02:00:00 +0100", None),
        ("01/Jan/2026:25:00:00 +0100", None),
        ("01/Jan/1999:02:00:00 +0100", None),
    ],
)
def test_local_times_of_nginx_are_read_with_their_zone(text: str, at_ms: int | None) -> None:
    line = nginx_line(FIRST).replace("01/Jan/2026:01:00:00 +0000", text).encode()
    [outcome] = outcomes_of("nginx", line)
    assert (outcome.time_ms if isinstance(outcome, LogRow) else None) == at_ms


def test_content_length_is_never_taken_for_what_was_sent() -> None:
    aborted = changed(FIRST, body=400, length=1000, status=0, whole=False)
    [row] = rows_of("cloudfront", write_log("cloudfront", [aborted]))
    assert (row.total_bytes, row.body_bytes, row.content_length) == (700, None, 1000)
    assert row.is_aborted
    figures = figures_of(row)
    assert (figures.payload_bytes, figures.header_bytes) == (700, 0)


def test_headers_of_whole_answers_come_out_of_content_length_where_no_body_is_stated() -> None:
    [row] = rows_of("cloudfront", write_log("cloudfront", [FIRST]))
    figures = figures_of(row)
    assert (figures.payload_bytes, figures.header_bytes, figures.has_body) == (1000, 300, False)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nginx", {"status": 499}),
        ("nginx", {"whole": False}),
        ("fastly", {"whole": False}),
        ("cloudfront", {"status": 0}),
        ("cloudfront", {"whole": False}),
        ("cloudflare", {"status": 499}),
        ("akamai-datastream2", {"length": 1001}),
        ("bunny", {"status": 499}),
    ],
)
def test_answers_that_the_client_left_are_known_as_aborted(name: str, changes: dict) -> None:
    [row] = rows_of(name, write_log(name, [changed(FIRST, **changes)]))
    assert row.is_aborted
    assert row.total_bytes == 1300


def test_head_and_not_modified_are_not_aborted() -> None:
    for changes in ({"method": "HEAD"}, {"status": 304}):
        line = changed(FIRST, body=0, length=1000, **changes)
        [row] = rows_of("akamai-datastream2", write_log("akamai-datastream2", [line]))
        assert not row.is_aborted


@pytest.mark.parametrize("name", ["akamai-datastream2", "cloudflare", "fastly"])
def test_midgress_is_no_egress_and_keeps_its_bytes(name: str) -> None:
    [outcome] = outcomes_of(name, write_log(name, [changed(FIRST, midgress=True)]))
    assert outcome == ExcludedLine(1, Exclusion.MIDGRESS, 1300)


def test_other_hosts_are_excluded() -> None:
    data = write_log("nginx", [changed(FIRST, host="other.example")])
    [outcome] = outcomes_of("nginx", data, hosts=frozenset({"cdn.example"}))
    assert outcome == ExcludedLine(1, Exclusion.OTHER_HOST, 1300)


def test_sampled_rows_are_refused_without_a_declared_rate() -> None:
    line = cloudflare_line(FIRST).replace('"RayID"', '"SampleInterval": 10, "RayID"').encode()
    [outcome] = outcomes_of("cloudflare", line)
    assert outcome == ExcludedLine(1, Exclusion.SAMPLED, 1300)
    [row] = rows_of("cloudflare", line, sampled_one_in=10)
    assert figures_of(row, 10).body_bytes == 10_000


@pytest.mark.parametrize(
    ("interval", "declared", "is_taken"),
    [
        ("1", 0, True), ('"1/1"', 0, True), ("1", 1, True),
        ("100", 0, False), ('"100%"', 0, False), ("10", 0, False), ("0", 0, False),
        ("10", 10, True), ('"1/10"', 10, True),
        ("1", 10, False), ("100", 10, False), ('"10/1"', 10, False), ("-10", 10, False),
    ],
)  # fmt: skip
def test_a_row_stands_for_as_many_requests_as_declared_or_is_left_out(
    interval: str, declared: int, is_taken: bool
) -> None:
    stated = f'"SampleInterval": {interval}, "RayID"'
    line = cloudflare_line(FIRST).replace('"RayID"', stated).encode()
    [outcome] = outcomes_of("cloudflare", line, sampled_one_in=declared)
    assert isinstance(outcome, LogRow) == is_taken
    assert is_taken or outcome == ExcludedLine(1, Exclusion.SAMPLED, 1300)


def test_sampled_source_is_refused_before_its_first_row() -> None:
    sampled = replace(load_field_map("fastly"), is_sampled=True)
    with pytest.raises(SampledSourceError):
        Job(field_map=sampled)
    assert Job(field_map=sampled, sampled_one_in=4).weight == 4


def test_gzip_of_several_members_is_one_file() -> None:
    first, second = write_log("nginx", [FIRST]), write_log("nginx", [Delivery(request_id="r2")])
    whole = gzip.compress(first) + gzip.compress(second)
    plain, packed = ContentDigest(), ContentDigest()
    rows = list(read_log([whole[:7], whole[7:]], job_of("nginx"), content=packed))
    assert rows == list(read_log([first + second], job_of("nginx"), content=plain))
    assert packed.digest() == plain.digest()


def test_gzip_cut_short_keeps_its_whole_lines_and_says_so() -> None:
    lines = write_log("nginx", [Delivery(request_id=f"r{number}") for number in range(2000)])
    cut = gzip.compress(lines)[:-2000]
    *rows, last = outcomes_of("nginx", cut)
    assert all(isinstance(row, LogRow) for row in rows)
    assert 0 < len(rows) < 2000
    assert isinstance(last, MalformedLine)
    assert last.line == len(rows) + 1
    assert "gzip" in last.reason


def test_a_line_cut_within_its_last_number_is_not_believed() -> None:
    data = write_log("cloudfront", [FIRST])
    header, line = data[: data.rindex(b"\n2026") + 1], cloudfront_line(FIRST).encode()
    *_, outcome = outcomes_of("cloudfront", header + line.removesuffix(b"\n"))
    assert isinstance(outcome, MalformedLine)


def test_a_bomb_makes_one_malformed_line_in_bounded_memory() -> None:
    bomb = gzip.compress(b"x" * (16 << 20))
    [line] = read_lines([bomb])
    assert line.number == 1
    assert "longer" in line.fault


def test_lines_beyond_the_limit_are_counted_and_not_read() -> None:
    data = write_log("nginx", [Delivery(request_id=f"r{number}") for number in range(5)])
    outcomes = list(read_log([data], job_of("nginx"), rows_max=3))
    assert [isinstance(outcome, LogRow) for outcome in outcomes] == [True] * 3 + [False] * 2
    assert outcomes[-1] == ExcludedLine(5, Exclusion.ROW_LIMIT, 0)


def test_rows_before_the_header_are_malformed() -> None:
    [outcome] = outcomes_of("cloudfront", cloudfront_line(FIRST).encode())
    assert isinstance(outcome, MalformedLine)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"EdgeResponseBytes": 1300', '"EdgeResponseBytes": -1'),
        ('"EdgeResponseBytes": 1300', '"EdgeResponseBytes": 1300.5'),
        ('"EdgeResponseBytes": 1300', '"EdgeResponseBytes": 9223372036854775808'),
        ('"EdgeResponseBytes": 1300', f'"EdgeResponseBytes": {BYTES_MAX + 1}'),
        ('"EdgeResponseStatus": 206', '"EdgeResponseStatus": "two"'),
        ('"EdgeResponseStatus": 206', '"EdgeResponseStatus": null'),
        ('"ClientRequestURI"', '"URI"'),
        ('"EdgeEndTimestamp"', '"End"'),
        ("{", "["),
    ],
)
def test_values_that_cannot_be_are_malformed(old: str, new: str) -> None:
    [outcome] = outcomes_of("cloudflare", cloudflare_line(FIRST).replace(old, new).encode())
    assert isinstance(outcome, MalformedLine)
    assert "got" in outcome.reason or "json" in outcome.reason


def test_what_a_row_stands_for_in_all_is_bounded() -> None:
    for declared, most in ((0, BYTES_MAX), (10, BYTES_MAX // 10)):
        for body, is_taken in ((most, True), (most + 1, False)):
            data = write_log("nginx", [changed(FIRST, body=body, headers=0)])
            [outcome] = outcomes_of("nginx", data, sampled_one_in=declared)
            assert isinstance(outcome, LogRow) == is_taken, (declared, body)


def test_reasons_that_quote_no_text_are_text() -> None:
    [outcome] = outcomes_of("cdni", b"#SHA256-hash:\t\xff\n")
    assert isinstance(outcome, MalformedLine)
    assert "\\udcff" in outcome.reason.encode().decode()


def test_export_as_cdni_reads_back_with_the_same_figures() -> None:
    deliveries = [Delivery(request_id=f"r{n}", body=1000 + n) for n in range(3)]
    rows = rows_of("cloudflare", write_log("cloudflare", deliveries))
    uuid = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
    exported = b"".join(format_cdni_log(rows, uuid=uuid, origin="cdn.example"))
    again = rows_of("cdni", exported)
    kept = ("time_ms", "host", "path", "session_id", "method", "status", "body_bytes")
    for row, copy in zip(rows, again, strict=True):
        assert [getattr(row, name) for name in kept] == [getattr(copy, name) for name in kept]
        assert copy.total_bytes == row.total_bytes
    assert len({row.key for row in again}) == 3


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_damaged_input_never_raises_and_every_line_has_one_outcome(
    name: str, data: st.DataObject
) -> None:
    log = bytearray(write_log(name, [Delivery(request_id=f"r{number}") for number in range(3)]))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(log) - 1))
        log[place] = data.draw(st.integers(0, 255))
    cut = log[: data.draw(st.integers(0, len(log)))]
    packed = bytes(cut)
    if data.draw(st.booleans()):
        squeezed = bytearray(gzip.compress(packed, mtime=0))
        if data.draw(st.booleans()):
            squeezed[data.draw(st.integers(2, len(squeezed) - 1))] ^= 0x41
        packed = bytes(squeezed[: data.draw(st.integers(0, len(squeezed)))])
    outcomes = list(read_log([packed], job_of(name)))
    assert [outcome.line for outcome in outcomes] == list(range(1, len(outcomes) + 1))
    assert all(can_be_kept(outcome) for outcome in outcomes)


def can_be_kept(outcome: Outcome) -> bool:
    """Whether a database can hold what came of a line."""
    if isinstance(outcome, MalformedLine):
        return bool(outcome.reason.encode())
    if isinstance(outcome, ExcludedLine):
        return 0 <= outcome.sent_bytes <= BYTES_MAX
    return max(figures_of(outcome)[:6]) <= BYTES_MAX


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.integers(0, 2000), max_size=8))
def test_cutting_the_stream_elsewhere_changes_nothing(name: str, cuts: list[int]) -> None:
    log = write_log(name, [Delivery(request_id=f"r{number}") for number in range(4)])
    places = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    chunks = [log[begin:end] for begin, end in pairwise(places)]
    assert list(read_log(chunks, job_of(name))) == outcomes_of(name, log)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_by_every_map(data: bytes) -> None:
    for name in SHIPPED:
        for outcome in read_log([data], job_of(name)):
            assert outcome.line
            assert can_be_kept(outcome)


MAP = """
layout = "pipe"
columns = ["at", "code", "sent", "where"]
[time]
fields = ["at"]
format = "unix-s"
[fields]
status = "code"
total_bytes = "sent"
path = "where"
"""


def test_a_declared_map_reads_a_format_of_ones_own() -> None:
    job = Job(field_map=parse_field_map(MAP, name="mine"))
    [row] = read_log([b"1767229200|200|77|/film/x\n"], job)
    assert isinstance(row, LogRow)
    assert (row.time_ms, row.total_bytes, row.key) == (AT_MS, 77, b"")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('layout = "pipe"', 'layout = "csv"', "layout"),
        ("total_bytes", "bytes", "bytes"),
        ('total_bytes = "sent"', 'content_length = "sent"', "body_bytes"),
        ('status = "code"', 'method = "code"', "status"),
        ('path = "where"', 'path = "were"', "were"),
        ('"unix-s"', '"unix"', "time.format"),
        ('["at", "code"', '["at", "at"', "twice"),
        ("[fields]", "[feilds]", "feilds"),
        ('fields = ["at"]', "fields = 7", "fields"),
        ("layout", "layout ==", "map"),
    ],
)
def test_a_map_with_a_mistake_is_refused(old: str, new: str, word: str) -> None:
    with pytest.raises(FieldMapError, match=word):
        parse_field_map(MAP.replace(old, new, 1), name="mine")


@pytest.mark.parametrize(
    ("query", "sid"),
    [
        ("CMCD=sid%3D%22ab-1%22", "ab-1"),
        ("CMCD=br%3D1%2Csid%3D%22ab-1%22", "ab-1"),
        ("CMCD=br%253D1%252Csid%253D%2522ab-1%2522", "ab-1"),
        ('CMCD=br=1,sid="ab-1"', "ab-1"),
        ("CMCD=sid%3D%22a%20b%22", "a b"),
        ("CMCD=cid%3D%22mysid%22%2Csid%3D%22x%22", "x"),
        ("CMCD=nosid%3D%22x%22", None),
        ("CMCD=sid%3D%22" + "x" * 65 + "%22", None),
        ("sid=%22x%22", None),
        ("", None),
    ],
)
def test_session_ids_are_read_however_often_they_are_escaped(query: str, sid: str | None) -> None:
    line = nginx_line(changed(FIRST, sid="")).replace("/1.ts ", f"/1.ts?{query} ", 1)
    # As nginx writes a quote within a quoted value.
    [row] = rows_of("nginx", line.replace('"ab-1"', "\\x22ab-1\\x22").encode())
    assert row.session_id == (b"" if sid is None else session_id_of(sid))


def test_paths_are_percent_decoded_and_exported_escaped() -> None:
    line = nginx_line(FIRST).replace("/film/1.ts", "/film/a%20b%25.ts").encode()
    [row] = rows_of("nginx", line)
    assert row.path == "/film/a b%.ts"
    exported = b"".join(format_cdni_log([row], uuid="urn:uuid:1", origin="cdn.example"))
    assert b"/film/a%20b%25.ts" in exported
    assert rows_of("cdni", exported)[0].path == row.path


@pytest.mark.parametrize(
    "odd", [chr(0xDCFF), chr(0xD800), chr(0xD800) + chr(0xDCFF), "\t", "\r\n", "é"]
)
def test_what_no_line_can_hold_is_escaped_in_the_exported_log(odd: str) -> None:
    [row] = rows_of("nginx", write_log("nginx", [FIRST]))
    odd_row = row._replace(host=f"cdn{odd}.example", path=f"/film{odd}", method=f"GET{odd}")
    exported = b"".join(format_cdni_log([odd_row], uuid="urn:uuid:1", origin="cdn.example"))
    plain = b"".join(format_cdni_log([row], uuid="urn:uuid:1", origin="cdn.example"))
    assert exported.isascii()
    assert [line.count(b"\t") for line in exported.split(b"\r\n")] == [
        line.count(b"\t") for line in plain.split(b"\r\n")
    ]


def test_a_long_log_is_read_in_little_memory() -> None:
    line = write_log("nginx", [FIRST])
    chunk = line * (1 + (64 << 10) // len(line))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_lines(chunk for _ in range(100)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count * len(line) > 6 << 20
    assert peak < 2 << 20


def test_a_cdni_log_that_was_changed_does_not_hold_its_own_hash() -> None:
    rows = rows_of("nginx", write_log("nginx", [FIRST, changed(FIRST, request_id="r2")]))
    exported = b"".join(format_cdni_log(rows, uuid="urn:uuid:1", origin="cdn.example"))
    assert not any(isinstance(x, MalformedLine) for x in outcomes_of("cdni", exported))
    [fault] = [
        outcome
        for outcome in outcomes_of("cdni", exported.replace(b"\t1300\t", b"\t1301\t", 1))
        if isinstance(outcome, MalformedLine)
    ]
    assert fault.reason.startswith("hash:")
    assert fault.line == exported.count(b"\n")
