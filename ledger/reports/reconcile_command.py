"""The command `swarmledger reconcile`: CDN logs and invoices in, the three-way report out.

    import    access logs of one CDN, gzip or plain; a file counts once however often it is given
    invoice   what the CDN billed
    close     days after which further lines are corrections
    report    signed by viewers, logged, billed; from proven audit files
    convert   a log as an IETF CDNI logging file (RFC 7937), without a database

Exit status of `report`: 0 all agrees, 1 an invoice or the traffic differs by more than the
tolerance (named), 2 cannot tell. Of the others: 0 done, 2 not done. Standard output is the result,
standard error is talk.
"""

import json
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ledger.audit.trust import TRUST_SIZE_MAX, Trust, parse_trust
from ledger.books.invoices import TOLERANCE_PPM, Invoice, InvoiceError
from ledger.books.reconciliation import KnownSession, SignedKey, merge_sessions, reconcile
from ledger.cdnlogs.cdni import format_cdni_log, format_day
from ledger.cdnlogs.contents import Contents, ContentsError, parse_contents
from ledger.cdnlogs.field_map import (
    SHIPPED,
    FieldMap,
    FieldMapError,
    load_field_map,
    parse_field_map,
)
from ledger.cdnlogs.lines import ContentDigest
from ledger.cdnlogs.reading import Job, SampledSourceError, read_log
from ledger.cdnlogs.rows import LogRow
from ledger.cdnlogs.timestamps import MalformedTimeError, TimeFormat
from ledger.config import ConfigError, load_settings, need
from ledger.evidence.errors import EvidenceError
from ledger.reports.figures import UnprovenFileError, iterate_figures
from ledger.reports.inputs import ReportInputError, parse_catalogue
from ledger.reports.invoice_files import parse_day, parse_invoices
from ledger.reports.pages import render_three_way
from ledger.reports.three_way import ThreeWayReport, describe_three_way, make_three_way
from ledger.reports.three_way_text import format_three_way
from ledger.store.cdn_store import (
    ImportedFile,
    Source,
    close_days,
    count_lines,
    forget_days,
    import_file,
    list_sources,
    load_invoices,
    open_source,
    store_invoice,
    stream_groups,
)
from ledger.store.engine import (
    DatabaseUnavailableError,
    SessionFactory,
    make_session_factory,
    open_engine,
)
from ledger.store.errors import StoreError

EXIT_DIFFERS = 1
EXIT_CANNOT_TELL = 2
CHUNK_BYTES = 1 << 20
DAY_S = 86_400
_AUDIT_NAME = re.compile(r"epoch-(0|[1-9][0-9]{0,9})\.audit")

app = typer.Typer(
    name="swarmledger reconcile",
    help="Compare what viewers signed with a CDN's own log and its invoice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TrustFile = Annotated[
    Path | None, typer.Option("--trust", help="Your trust.json; default: SWARMLEDGER_TRUST_FILE.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Cdn = Annotated[str, typer.Option(help="The CDN's host, as in the terms.")]
Format = Annotated[
    str, typer.Option("--format", help=f"{', '.join(SHIPPED)}; or a field map of your own (TOML).")
]
Host = Annotated[
    list[str] | None, typer.Option(help="Count this host's requests only; repeatable.")
]
Time = Annotated[
    str, typer.Option(help="Time format of the log; default: the first row decides, for good.")
]
Sampled = Annotated[int, typer.Option(min=0, help="N, if the source logs one request in N only.")]


def main() -> None:
    """Entry point of `swarmledger reconcile`."""
    app()


@app.command("import")
def import_logs(
    files: Annotated[list[Path], typer.Argument(help="Access logs, plain or gzip.")],
    *,
    cdn: Cdn,
    format_name: Format,
    contents: Annotated[
        Path | None, typer.Option(help='TOML: [contents] "/path/prefix" = "content id in hex".')
    ] = None,
    host: Host = None,
    time: Time = "",
    sampled: Sampled = 0,
    trust: TrustFile = None,
    as_json: Json = False,
) -> None:
    """Import access logs; every line ends in exactly one counter."""
    with _reasons():
        account = _read_trust(trust).broadcaster_account
        field_map = _read_map(format_name)
        known = Contents.of({}) if contents is None else parse_contents(_read_text(contents))
        hosts = frozenset(name.lower() for name in host or [])
        done = []
        with _database() as sessions:
            for path in files:
                job = Job(
                    field_map=field_map,
                    hosts=hosts,
                    time_format=_read_time_format(time),
                    sampled_one_in=sampled,
                )
                imported = _import_one(sessions, path, account, cdn.lower(), job, known)
                _say(_describe_import(path, imported))
                done.append((path, imported))
            with sessions.begin() as session:
                source = _source_of(session, account, cdn.lower())
                counters = count_lines(session, source)
    document: dict[str, Any] = {
        "cdn": cdn.lower(),
        "files": [
            {
                "name": path.name,
                "already_imported": imported.is_known,
                "lines": imported.lines,
                "excluded": dict(sorted(imported.excluded.items())),
                "malformed": imported.malformed,
                "faults": [[fault.line, fault.reason] for fault in imported.faults],
            }
            for path, imported in done
        ],
        "lines": counters.lines,
        "accepted": counters.accepted,
        "duplicate": counters.duplicate,
        "conflict": counters.conflict,
        "late": counters.late,
        "excluded": dict(sorted(counters.excluded.items())),
        "malformed": counters.malformed,
    }
    if as_json:
        print(json.dumps(document, indent=2))
        return
    print(
        f"{cdn}: {counters.lines:,} lines so far: {counters.accepted:,} accepted, "
        f"{counters.late:,} late, {counters.duplicate:,} duplicate, {counters.conflict:,} in "
        f"conflict, {counters.excluded.total():,} excluded, {counters.malformed:,} malformed"
    )


def _import_one(
    sessions: SessionFactory, path: Path, account: bytes, cdn: str, job: Job, contents: Contents
) -> ImportedFile:
    content = ContentDigest()
    with path.open("rb") as file, sessions.begin() as session:
        source = open_source(
            session,
            account=account,
            cdn=cdn,
            format_name=job.field_map.name,
            sampled_one_in=job.sampled_one_in,
        )
        if source.time_format is not None:
            if job.time_format not in {None, source.time_format}:
                raise MalformedTimeError(
                    f"time: got {job.time_format}, want {source.time_format.value} as before"
                )
            job.time_format = source.time_format
        chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
        return import_file(
            session,
            source,
            path.name,
            read_log(chunks, job, content=content),
            job=job,
            contents=contents,
            content=content,
        )


def _describe_import(path: Path, imported: ImportedFile) -> str:
    if imported.is_known:
        return f"{path.name}: imported before, nothing changed"
    first = "".join(f"; first: line {x.line}: {x.reason}" for x in imported.faults[:1])
    return (
        f"{path.name}: {imported.lines:,} lines, {imported.excluded.total():,} excluded, "
        f"{imported.malformed:,} malformed{first}"
    )


@app.command()
def invoice(
    file: Annotated[Path, typer.Argument(help="TOML with tables [[invoice]].")],
    *,
    trust: TrustFile = None,
) -> None:
    """Take in what a CDN billed; a number is taken once and never replaced."""
    with _reasons():
        account = _read_trust(trust).broadcaster_account
        invoices = parse_invoices(_read_text(file))
        with _database() as sessions, sessions.begin() as session:
            new = [one.number for one in invoices if store_invoice(session, account, one)]
    print(f"{len(invoices)} invoices, {len(new)} of them new")


@app.command()
def close(
    *,
    cdn: Cdn,
    through: Annotated[str, typer.Option(help="Last day to close, UTC: 2026-01-31.")],
    forget: Annotated[
        bool,
        typer.Option(help="Fold the closed lines into totals; later ones of these days are left."),
    ] = False,
    trust: TrustFile = None,
) -> None:
    """Close days of a CDN: lines of them that come later are corrections."""
    with _reasons():
        account, day = _read_trust(trust).broadcaster_account, parse_day(through)
        forgotten = 0
        with _database() as sessions, sessions.begin() as session:
            source = _source_of(session, account, cdn.lower())
            if forget and day <= source.closed_through_day:
                forgotten = forget_days(session, source, day)
            else:
                close_days(session, source, day)
                if forget:
                    source = _source_of(session, account, cdn.lower())
                    forgotten = forget_days(session, source, day)
    print(f"{cdn}: closed through {through}, {forgotten:,} lines folded into totals")


@app.command()
def report(
    *,
    audit: Annotated[Path, typer.Option(help="Folder with epoch-N.audit of consecutive epochs.")],
    trust: TrustFile = None,
    first: Annotated[str, typer.Option("--from", help="First day, UTC; default: of audit.")] = "",
    last: Annotated[str, typer.Option("--to", help="Last day, UTC; default: of audit.")] = "",
    catalogue: Annotated[
        Path | None, typer.Option(help='JSON {"content id in hex": "title"}.')
    ] = None,
    tolerance_ppm: Annotated[
        int, typer.Option(min=0, help="Unexplained share up to which figures agree.")
    ] = TOLERANCE_PPM,
    html: Annotated[Path | None, typer.Option(help="Write the page for people here.")] = None,
    as_json: Json = False,
) -> None:
    """Compare signed, logged and billed bytes per content, day and CDN."""
    with _reasons():
        reader = _read_trust(trust)
        titles = {} if catalogue is None else parse_catalogue(_read_text(catalogue))
        signed = _read_signed(_audit_paths(audit), reader)
        days = _days_of(signed, first, last)
        made = _make_report(signed, reader, titles, days, tolerance_ppm)
        if html is not None:
            html.write_text(render_three_way(made), "utf-8")
    if as_json:
        print(json.dumps(describe_three_way(made), indent=2))
    else:
        print(format_three_way(made), end="")
    if made.named_cdns or made.unexplained_cdns:
        raise typer.Exit(EXIT_DIFFERS)
    if not made.is_complete:
        raise typer.Exit(EXIT_CANNOT_TELL)


@dataclass(slots=True)
class _Signed:
    """What proven audit files say that viewers signed."""

    cdn: dict[SignedKey, int] = field(default_factory=dict)
    p2p: dict[tuple[bytes, int], int] = field(default_factory=dict)
    sessions: dict[bytes, KnownSession] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    start_s: int = 0
    end_s: int = 0


def _read_signed(paths: list[Path], reader: Trust) -> _Signed:
    signed = _Signed()
    for epoch in iterate_figures((path.read_bytes() for path in paths), reader):
        if not signed.epochs:
            signed.start_s = epoch.terms.epoch_start_s(epoch.epoch)
        signed.end_s = epoch.terms.epoch_end_s(epoch.epoch)
        signed.epochs.append(epoch.epoch)
        merge_sessions(signed.sessions, epoch.use.sessions.items())
        for key, size in epoch.use.signed_cdn.items():
            signed.cdn[key] = signed.cdn.get(key, 0) + size
        for place, size in epoch.use.signed_p2p.items():
            signed.p2p[place] = signed.p2p.get(place, 0) + size
    return signed


def _make_report(
    signed: _Signed,
    reader: Trust,
    titles: dict[bytes, str],
    days: tuple[int, int],
    tolerance_ppm: int,
) -> ThreeWayReport:
    first_day, last_day = days
    account = reader.broadcaster_account
    with _database() as factory, factory.begin() as session:
        sources = list_sources(session, account)
        counters = {source.cdn: count_lines(session, source) for source in sources}
        invoices: list[Invoice] = [
            one
            for one in load_invoices(session, account)
            if first_day <= one.first_day and one.last_day <= last_day
        ]
        cells = reconcile(
            {key: size for key, size in signed.cdn.items() if first_day <= key.day <= last_day},
            {
                source.cdn: stream_groups(session, source, first_day=first_day, last_day=last_day)
                for source in sources
            },
            signed.sessions,
        )
    return make_three_way(
        cells,
        counters=counters,
        invoices=invoices,
        signed_p2p={
            place: size for place, size in signed.p2p.items() if first_day <= place[1] <= last_day
        },
        titles=titles,
        days=days,
        epochs=(signed.epochs[0], signed.epochs[-1]),
        tolerance_ppm=tolerance_ppm,
    )


def _days_of(signed: _Signed, first: str, last: str) -> tuple[int, int]:
    days = (
        parse_day(first) if first else signed.start_s // DAY_S,
        parse_day(last) if last else (signed.end_s - 1) // DAY_S,
    )
    if days[0] > days[1]:
        raise MalformedTimeError(f"to: got {format_day(days[1])}, want ≥ {format_day(days[0])}")
    return days


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="An access log, plain or gzip.")],
    *,
    cdn: Cdn,
    format_name: Format,
    host: Host = None,
    time: Time = "",
    sampled: Sampled = 0,
) -> None:
    """Print a log's deliveries as a CDNI logging file (RFC 7937)."""
    with _reasons(), file.open("rb") as opened:
        job = Job(
            field_map=_read_map(format_name),
            hosts=frozenset(name.lower() for name in host or []),
            time_format=_read_time_format(time),
            sampled_one_in=sampled,
        )
        outcomes = read_log(iter(lambda: opened.read(CHUNK_BYTES), b""), job)
        rows = (outcome for outcome in outcomes if isinstance(outcome, LogRow))
        for line in format_cdni_log(rows, uuid=f"urn:uuid:{uuid.uuid4()}", origin=cdn):
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


@contextmanager
def _database() -> Iterator[SessionFactory]:
    engine = open_engine(need("database_url", load_settings().database_url))
    try:
        yield make_session_factory(engine)
    finally:
        engine.dispose()


@contextmanager
def _reasons() -> Iterator[None]:
    """Say why a command could not be carried out, in one line."""
    try:
        yield
    except (
        ConfigError, ContentsError, EvidenceError, FieldMapError, InvoiceError, MalformedTimeError,
        ReportInputError, SampledSourceError, StoreError, UnprovenFileError,
    ) as error:  # fmt: skip
        _stop(str(error))
    except DatabaseUnavailableError as error:
        _stop(f"database: {str(error.orig).strip()}")
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}")
    except UnicodeDecodeError as error:
        _stop(f"got other bytes at {error.start}, want UTF-8")


def _source_of(session: Any, account: bytes, cdn: str) -> Source:
    for source in list_sources(session, account):
        if source.cdn == cdn:
            return source
    raise StoreError(f"cdn: got {cdn}, want one whose log was imported")


def _read_map(name: str) -> FieldMap:
    if name in SHIPPED:
        return load_field_map(name)
    if name.endswith(".toml"):
        path = Path(name)
        return parse_field_map(_read_text(path), name=path.stem)
    raise FieldMapError(f"format: got {name!r}, want {', '.join(SHIPPED)} or a file *.toml")


def _read_time_format(name: str) -> TimeFormat | None:
    names = [time_format.value for time_format in TimeFormat]
    if name and name not in names:
        raise MalformedTimeError(f"time: got {name!r}, want one of {', '.join(names)}")
    return TimeFormat(name) if name else None


def _read_trust(path: Path | None) -> Trust:
    found = need("trust_file", path or load_settings().trust_file)
    with found.open("rb") as file:
        return parse_trust(file.read(TRUST_SIZE_MAX + 1).decode())


def _audit_paths(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if _AUDIT_NAME.fullmatch(path.name)]
    if not paths:
        raise UnprovenFileError(f"{folder}: got no epoch-N.audit, want at least one")
    return sorted(paths, key=lambda path: int(path.stem.partition("-")[2]))


def _read_text(path: Path) -> str:
    return path.read_text("utf-8")


def _say(text: str) -> None:
    print(f"swarmledger reconcile: {text}", file=sys.stderr)


def _stop(reason: str) -> NoReturn:
    _say(reason)
    raise typer.Exit(EXIT_CANNOT_TELL)


if __name__ == "__main__":
    main()
