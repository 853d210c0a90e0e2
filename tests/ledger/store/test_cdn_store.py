"""CDN logs in the database: the verdicts of the tally in memory, once each, whatever happens."""

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from cdn_logs import CONTENTS, FORMATS, Delivery, changed, job_of, tally_of, write_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.books.invoices import Invoice
from ledger.cdnlogs.lines import ContentDigest
from ledger.cdnlogs.reading import read_log
from ledger.cdnlogs.rows import Counters
from ledger.cdnlogs.tally import GroupKey, GroupTotals
from ledger.cdnlogs.timestamps import TimeFormat, day_of
from ledger.store.cdn_store import (
    DayError,
    ImportedFile,
    InvoiceConflictError,
    OtherFormatError,
    Source,
    close_days,
    count_lines,
    forget_days,
    import_file,
    load_invoices,
    open_source,
    store_invoice,
    stream_groups,
)
from ledger.store.engine import SessionFactory, make_session_factory, open_engine

pytestmark = pytest.mark.postgres
ACCOUNT = b"\x01" * 32
DAYS = 0, 40_000
FIRST = Delivery(request_id="r1")


@pytest.fixture
def sessions(database_url: str):
    engine = open_engine(database_url)
    yield make_session_factory(engine)
    engine.dispose()


def open_nginx(session, cdn: str = "cdn.example", format_name: str = "nginx") -> Source:
    return open_source(session, account=ACCOUNT, cdn=cdn, format_name=format_name, sampled_one_in=0)


def store(
    sessions: SessionFactory, data: bytes, name: str = "log", cdn: str = "cdn.example",
    format_name: str = "nginx", sampled: int = 0,
) -> ImportedFile:  # fmt: skip
    with sessions.begin() as session:
        source = open_source(
            session, account=ACCOUNT, cdn=cdn, format_name=format_name, sampled_one_in=sampled
        )
        job = job_of(format_name, time_format=source.time_format, sampled_one_in=sampled)
        content = ContentDigest()
        return import_file(
            session, source, name, read_log([data], job, content=content),
            job=job, contents=CONTENTS, content=content,
        )  # fmt: skip


def load(
    sessions: SessionFactory, cdn: str = "cdn.example", format_name: str = "nginx"
) -> tuple[dict[GroupKey, GroupTotals], Counters]:
    with sessions.begin() as session:
        source = open_nginx(session, cdn, format_name)
        groups: dict[GroupKey, GroupTotals] = {}
        for key, part in stream_groups(session, source, first_day=DAYS[0], last_day=DAYS[1]):
            whole = groups.setdefault(key, GroupTotals())
            for name in GroupTotals.__slots__:
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
        return dict(sorted(groups.items())), count_lines(session, source)


def same(got: Counters, want: Counters) -> bool:
    names = ("lines", "accepted", "duplicate", "conflict", "late", "excluded", "malformed")
    return all(getattr(got, name) == getattr(want, name) for name in names) and (
        got.sum == got.lines
    )


def test_a_file_imported_twice_under_any_name_and_compression_changes_nothing(sessions):
    data = write_log("nginx", [FIRST, changed(FIRST, request_id="r2")])
    assert not store(sessions, data).is_known
    before = load(sessions)
    for again in (data, gzip.compress(data)):
        assert store(sessions, again, name="other name").is_known
        assert load(sessions) == before


DELIVERIES = st.lists(
    st.builds(
        Delivery,
        request_id=st.sampled_from(["a", "b", "c", "-"]),
        body=st.integers(0, 2),
        whole=st.booleans(),
        at_ms=st.sampled_from([FIRST.at_ms, FIRST.at_ms + 86_400_000]),
    ),
    max_size=12,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DELIVERIES, st.integers(0, 2**32), st.integers(1, 3))
def test_the_database_comes_to_what_the_tally_comes_to(sessions, deliveries, seed, file_count):
    cdn = f"{seed}-{time.monotonic_ns()}"
    lines = [write_log("nginx", [delivery]) for delivery in deliveries] + [b"damaged\n"]
    shuffled = random.Random(seed).sample(lines, len(lines))
    # A line of its own makes each file another one.
    files = [
        b"".join(shuffled[n::file_count]) + f"damaged {n}\n".encode() for n in range(file_count)
    ]
    for number, data in enumerate(files):
        store(sessions, data, f"file {number}", cdn)
    groups, counters = load(sessions, cdn)
    want_groups, want_counters = tally_of("nginx", *files)
    assert groups == want_groups
    assert same(counters, want_counters)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(
        st.builds(
            Delivery,
            request_id=st.sampled_from(["a", "-"]),
            body=st.sampled_from([0, 2**50, 2**60, 2**63 - 301, 2**63 - 1]),
        ),
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6),
    st.sampled_from([0, 10]),
)
def test_no_line_keeps_a_file_from_being_imported(sessions, name, deliveries, damage, sampled):
    log = bytearray(write_log(name, deliveries) + b"#SHA256-hash:\t\xff\n")
    for place, value in damage:
        log[place % len(log)] = value
    cdn = f"odd {time.monotonic_ns()}"
    taken = store(sessions, bytes(log), "odd", cdn, name, sampled)
    with sessions.begin() as session:
        source = open_source(
            session, account=ACCOUNT, cdn=cdn, format_name=name, sampled_one_in=sampled
        )
        counters = count_lines(session, source)
    assert counters.sum == counters.lines == taken.lines


def test_the_line_that_no_database_can_hold_is_malformed_and_the_rest_is_taken(sessions):
    huge = changed(FIRST, body=2**63 - 301)
    keyless = write_log("w3c", [FIRST, huge, huge]).replace(b" r1 ", b" - ")
    for format_name, data, sampled, odd in (
        ("w3c", keyless, 0, 2),
        ("nginx", write_log("nginx", [FIRST, changed(huge, request_id="r2")]), 10, 1),
        ("cdni", b"#SHA256-hash:\t\xff\n", 0, 1),
    ):
        taken = store(sessions, data, "odd", format_name, format_name, sampled)
        assert taken.malformed == odd, format_name


def test_lines_without_a_request_id_count_once_a_file(sessions):
    data = write_log("w3c", [FIRST, FIRST]).replace(b" r1 ", b" - ")
    store(sessions, data, format_name="w3c")
    store(sessions, data, format_name="w3c")
    groups, counters = load(sessions, format_name="w3c")
    assert [totals.lines for totals in groups.values()] == [2]
    assert same(counters, tally_of("w3c", data)[1])


def test_lines_of_a_closed_day_are_corrections_and_days_stay_closed(sessions):
    day = day_of(FIRST.at_ms)
    store(sessions, write_log("nginx", [FIRST]))
    with sessions.begin() as session:
        close_days(session, open_nginx(session), day)
    with sessions.begin() as session, pytest.raises(DayError):
        close_days(session, open_nginx(session), day - 1)
    store(sessions, write_log("nginx", [FIRST, changed(FIRST, request_id="r2", body=7)]))
    [totals] = load(sessions)[0].values()
    assert (totals.lines, totals.late_lines, totals.late_bytes) == (2, 1, 7)
    counters = load(sessions)[1]
    assert (counters.accepted, counters.late, counters.duplicate) == (1, 1, 1)


def test_forgotten_days_keep_their_totals_and_take_no_more_lines(sessions):
    day = day_of(FIRST.at_ms)
    deliveries = [
        FIRST, FIRST, changed(FIRST, request_id="r2", whole=False),
        changed(FIRST, request_id="r3"), changed(FIRST, request_id="r3", body=9),
        changed(FIRST, request_id="r4", at_ms=FIRST.at_ms + 86_400_000),
    ]  # fmt: skip
    store(sessions, write_log("nginx", deliveries))
    before = load(sessions)
    with sessions.begin() as session, pytest.raises(DayError):
        forget_days(session, open_nginx(session), day)
    with sessions.begin() as session:
        close_days(session, open_nginx(session), day)
    with sessions.begin() as session:
        assert forget_days(session, open_nginx(session), day) == 4
    assert load(sessions) == before
    late = store(sessions, write_log("nginx", [changed(FIRST, request_id="r9")]))
    assert late.excluded["forgotten day"] == 1
    groups, counters = load(sessions)
    assert groups == before[0]
    assert counters.sum == counters.lines == 7


def test_forgotten_days_are_never_remembered_again(sessions):
    day = day_of(FIRST.at_ms)
    store(sessions, write_log("nginx", [FIRST]))
    with sessions.begin() as session:
        close_days(session, open_nginx(session), day + 1)
    with sessions.begin() as session:
        assert forget_days(session, open_nginx(session), day + 1) == 1
    with sessions.begin() as session, pytest.raises(DayError, match="forgotten"):
        forget_days(session, open_nginx(session), day - 1)
    with sessions.begin() as session:
        assert forget_days(session, open_nginx(session), day + 1) == 0
    # The same line in another file: its request id is not known any more.
    again = store(sessions, write_log("nginx", [FIRST]) + b"damaged\n")
    assert again.excluded["forgotten day"] == 1
    [totals] = load(sessions)[0].values()
    assert totals.lines == 1


def test_one_cdn_in_two_formats_is_refused(sessions):
    store(sessions, write_log("nginx", [FIRST]))
    with pytest.raises(OtherFormatError, match="format"):
        store(sessions, write_log("bunny", [FIRST]), format_name="bunny")


def test_the_time_format_found_in_the_first_file_holds_for_the_next(sessions):
    from cdn_logs import cloudflare_line

    first = cloudflare_line(FIRST, "unix").encode()
    second = cloudflare_line(changed(FIRST, request_id="r2"), "unixnano").encode()
    store(sessions, first, format_name="cloudflare")
    with sessions.begin() as session:
        found = open_nginx(session, format_name="cloudflare").time_format
    assert found == TimeFormat.UNIX_S
    assert store(sessions, second, format_name="cloudflare").malformed == 1


def test_files_and_invoices_are_never_changed(sessions):
    store(sessions, write_log("nginx", [FIRST]) + b"damaged\n")
    with sessions.begin() as session:
        store_invoice(session, ACCOUNT, INVOICE)
    for statement in (
        "UPDATE cdn_files SET lines = 0",
        "DELETE FROM cdn_file_counts",
        "UPDATE cdn_faults SET line = 7",
        "UPDATE cdn_invoices SET quantity = '1'",
        "TRUNCATE cdn_invoices",
    ):
        with pytest.raises(DBAPIError), sessions.begin() as session:
            session.execute(text(statement))


INVOICE = Invoice(
    cdn="cdn.example", number="4711", first_day=1, last_day=31, quantity="1.5", unit="GB"
)


def test_an_invoice_is_stored_once_and_never_replaced(sessions):
    other = Invoice(
        cdn="cdn.example", number="4711", first_day=1, last_day=31, quantity="1.6", unit="GB"
    )
    with sessions.begin() as session:
        assert store_invoice(session, ACCOUNT, INVOICE)
        assert not store_invoice(session, ACCOUNT, INVOICE)
        assert load_invoices(session, ACCOUNT) == [INVOICE]
        with pytest.raises(InvoiceConflictError):
            store_invoice(session, ACCOUNT, other)


IMPORTER = """
import sys
sys.path.insert(0, sys.argv[3])
from cdn_logs import CONTENTS, job_of
from ledger.cdnlogs.lines import ContentDigest
from ledger.cdnlogs.reading import read_log
from ledger.store.cdn_store import import_file, open_source
from ledger.store.engine import make_session_factory, open_engine

sessions = make_session_factory(open_engine(sys.argv[1]))
content, job = ContentDigest(), job_of("nginx")
with open(sys.argv[2], "rb") as file, sessions.begin() as session:
    source = open_source(
        session, account=b"\\x01" * 32, cdn="cdn.example", format_name="nginx", sampled_one_in=0
    )
    rows = read_log(iter(lambda: file.read(65536), b""), job, content=content)
    import_file(
        session, source, "killed", rows, job=job, contents=CONTENTS, content=content
    )
    print("merged", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.process
@pytest.mark.parametrize("delay_s", [0.2, None], ids=["midway", "before commit"])
def test_an_import_that_is_killed_loses_nothing_and_doubles_nothing(
    sessions, database_url, tmp_path: Path, delay_s
):
    log = tmp_path / "access.log"
    log.write_bytes(write_log("nginx", [changed(FIRST, request_id=f"r{n}") for n in range(6_000)]))
    tests = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, database_url, str(log), str(tests)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tests.parent,
    )
    if delay_s is None:
        assert process.stdout.readline() == b"merged\n"
    else:
        wait_for_session(database_url)
        time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert load(sessions)[1].lines == 0
    assert not store(sessions, log.read_bytes()).is_known
    counters = load(sessions)[1]
    assert (counters.lines, counters.accepted, counters.sum) == (6_000, 6_000, 6_000)


def wait_for_session(database_url: str) -> None:
    """Until the other process is in the database."""
    url = database_url.replace("+psycopg", "")
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND query LIKE '%cdn_s%'"
            ).fetchone()
            if row[0]:
                return
            time.sleep(0.01)
    raise AssertionError("the importer never came")
