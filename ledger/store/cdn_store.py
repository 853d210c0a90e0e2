"""CDN logs and invoices in the database: imported once, deduplicated for ever, added up in SQL.

A file is one transaction: its lines go into a temporary table by COPY and from there, in sets,
into their place; a process that is killed leaves nothing, and importing a file again changes
nothing. The verdict on a line is that of `ledger.cdnlogs.tally`, which does the same in memory.
Days can be closed (later lines are corrections) and forgotten (their lines become totals).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.books.invoices import Basis, Invoice
from ledger.cdnlogs.contents import Contents
from ledger.cdnlogs.lines import ContentDigest
from ledger.cdnlogs.reading import Job
from ledger.cdnlogs.rows import (
    FAULTS_KEPT_MAX,
    Counters,
    ExcludedLine,
    Exclusion,
    Fault,
    LogRow,
    MalformedLine,
    Outcome,
    figures_of,
)
from ledger.cdnlogs.tally import GroupKey, GroupTotals
from ledger.cdnlogs.timestamps import TimeFormat, day_of
from ledger.store.cdn_sql import (
    COPY_STAGED,
    COUNT_LINES,
    COUNT_TOTALS,
    CREATE_STAGED,
    DELETE_FOLDED,
    FOLD_LINES,
    GROUPS,
    MARK_CONFLICTS,
    MERGE_KEYLESS,
    MERGE_LINES,
    SUM_COLUMNS,
)
from ledger.store.cdn_tables import (
    CdnFaultRow,
    CdnFileCountRow,
    CdnFileRow,
    CdnInvoiceRow,
    CdnSourceRow,
)
from ledger.store.errors import StoreError

ROWS_PER_COPY: Final = 50_000
_MALFORMED: Final = "malformed"
_FETCH_ROWS: Final = 10_000


class OtherFormatError(StoreError):
    """One CDN's requests in two formats, or with two sampling rates, would count twice."""


class InvoiceConflictError(StoreError):
    """An invoice of this CDN and number is stored with other content."""


class DayError(StoreError):
    """A day cannot be opened or remembered again, nor be forgotten before it is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One CDN's log, as one broadcaster gets it."""

    id: int
    account: bytes
    """The broadcaster's; 32 bytes."""

    cdn: str
    format: str
    time_format: TimeFormat | None
    sampled_one_in: int
    closed_through_day: int
    """UTC days since 1970-01-01; -1: none is closed."""

    forgotten_through_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedFile:
    """What became of one file."""

    is_known: bool
    """Imported before, under any name: nothing was changed."""

    lines: int
    excluded: Counter[str]
    malformed: int
    faults: tuple[Fault, ...]


def open_source(
    session: Session, *, account: bytes, cdn: str, format_name: str, sampled_one_in: int
) -> Source:
    """Return a CDN's source, made if it is missing, locked until the transaction's end.

    Raises:
        OtherFormatError: It has another format or sampling rate.
    """
    session.execute(
        insert(CdnSourceRow)
        .values(account=account, cdn=cdn, format=format_name, sampled_one_in=sampled_one_in)
        .on_conflict_do_nothing()
    )
    row = session.scalars(
        select(CdnSourceRow)
        .where(CdnSourceRow.account == account, CdnSourceRow.cdn == cdn)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    for name, got, want in (
        ("format", format_name, row.format),
        ("sampling rate", sampled_one_in, row.sampled_one_in),
    ):
        if got != want:
            raise OtherFormatError(f"{cdn}: {name}: got {got}, want {want} as before")
    return _source(row)


def list_sources(session: Session, account: bytes) -> list[Source]:
    """Return a broadcaster's sources by CDN."""
    rows = session.scalars(
        select(CdnSourceRow).where(CdnSourceRow.account == account).order_by(CdnSourceRow.cdn)
    )
    return [_source(row) for row in rows]


def _source(row: CdnSourceRow) -> Source:
    return Source(
        id=row.id,
        account=row.account,
        cdn=row.cdn,
        format=row.format,
        time_format=None if row.time_format is None else TimeFormat(row.time_format),
        sampled_one_in=row.sampled_one_in,
        closed_through_day=row.closed_through_day,
        forgotten_through_day=row.forgotten_through_day,
    )


def import_file(
    session: Session,
    source: Source,
    name: str,
    outcomes: Iterable[Outcome],
    *,
    job: Job,
    contents: Contents,
    content: ContentDigest,
) -> ImportedFile:
    """Store the outcomes of one file, unless its content was imported before.

    Args:
        session: In a transaction in which the source was opened.
        source: Of `open_source`.
        name: For people; the content decides whether the file is known.
        outcomes: Of `read_log`, which fills `content` as it is consumed.
        job: The job that reads it; its time format is kept with the source.
        contents: Which content a path belongs to.
        content: Digest of the uncompressed content.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("DROP TABLE IF EXISTS cdn_staged"))
    session.execute(text(CREATE_STAGED))
    counts = _FileCounts()
    rows = counts.take(outcomes, source, job.weight, contents)
    while batch := list(islice(rows, ROWS_PER_COPY)):
        _copy(session, batch)
    digest = content.digest()
    known = select(CdnFileRow.id).where(
        CdnFileRow.source_id == source.id, CdnFileRow.content_digest == digest
    )
    is_known = session.scalar(known) is not None
    if not is_known:
        _merge(session, source)
        _store_file(session, source, name, digest, counts)
        if source.time_format is None and job.time_format is not None:
            session.execute(
                update(CdnSourceRow)
                .where(CdnSourceRow.id == source.id)
                .values(time_format=job.time_format.value)
            )
    session.execute(text("DROP TABLE cdn_staged"))
    return ImportedFile(
        is_known=is_known,
        lines=counts.lines,
        excluded=counts.excluded,
        malformed=counts.malformed,
        faults=tuple(Fault(file=name, line=line, reason=why) for line, why in counts.faults),
    )


class _FileCounts:
    """Counts what is no delivery while the deliveries pass."""

    def __init__(self) -> None:
        self.lines = 0
        self.excluded: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self.malformed = 0
        self.faults: list[tuple[int, str]] = []

    def take(
        self, outcomes: Iterable[Outcome], source: Source, weight: int, contents: Contents
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows to stage."""
        for outcome in outcomes:
            self.lines += 1
            if isinstance(outcome, MalformedLine):
                self.malformed += 1
                if len(self.faults) < FAULTS_KEPT_MAX:
                    self.faults.append((outcome.line, outcome.reason))
            elif isinstance(outcome, ExcludedLine):
                self._exclude(outcome)
            else:
                day = day_of(outcome.time_ms)
                if day <= source.forgotten_through_day:
                    sent_bytes = outcome.total_bytes or outcome.body_bytes or 0
                    self._exclude(ExcludedLine(outcome.line, Exclusion.FORGOTTEN, sent_bytes))
                else:
                    yield _staged(outcome, day, source, weight, contents)

    def _exclude(self, line: ExcludedLine) -> None:
        self.excluded[line.reason.value] += 1
        self.sent_bytes[line.reason.value] += line.sent_bytes


def _staged(
    row: LogRow, day: int, source: Source, weight: int, contents: Contents
) -> tuple[Any, ...]:
    figures = figures_of(row, weight)
    return (
        row.key or None,
        row.digest,
        day,
        contents.find(row.path),
        row.session_id,
        figures.body_bytes,
        figures.total_bytes,
        figures.header_bytes,
        figures.payload_bytes,
        figures.has_body,
        figures.has_total,
        figures.is_aborted,
        day <= source.closed_through_day,
    )


_STAGED_TYPES: Final = ("bytea",) * 2 + ("int8",) + ("bytea",) * 2 + ("int8",) * 4 + ("bool",) * 4


def _copy(session: Session, rows: list[tuple[Any, ...]]) -> None:
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(COPY_STAGED) as copy:
        copy.set_types(_STAGED_TYPES)
        for row in rows:
            copy.write_row(row)


def _merge(session: Session, source: Source) -> None:
    for statement in (MERGE_LINES, MARK_CONFLICTS, MERGE_KEYLESS):
        session.execute(text(statement), {"source": source.id})


def _store_file(
    session: Session, source: Source, name: str, digest: bytes, counts: _FileCounts
) -> None:
    file_id = session.execute(
        insert(CdnFileRow)
        .values(source_id=source.id, content_digest=digest, name=name, lines=counts.lines)
        .returning(CdnFileRow.id)
    ).scalar_one()
    reasons = [
        {"reason": reason, "lines": lines, "sent_bytes": counts.sent_bytes[reason]}
        for reason, lines in counts.excluded.items()
    ]
    if counts.malformed:
        reasons.append({"reason": _MALFORMED, "lines": counts.malformed, "sent_bytes": 0})
    if reasons:
        session.execute(insert(CdnFileCountRow), [{"file_id": file_id, **row} for row in reasons])
    if counts.faults:
        session.execute(
            insert(CdnFaultRow),
            [
                # Postgres text holds no NUL.
                {"file_id": file_id, "line": line, "reason": reason.replace("\0", "\\0")}
                for line, reason in counts.faults
            ],
        )


def stream_groups(
    session: Session, source: Source, *, first_day: int, last_day: int
) -> Iterator[tuple[GroupKey, GroupTotals]]:
    """Yield a source's totals of some days; one group may come in several parts.

    Args:
        session: Read until the end before anything else is asked of it.
        source: The source.
        first_day: UTC days since 1970-01-01.
        last_day: Inclusive.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))
    parameters = {"source": source.id, "first": first_day, "last": last_day}
    statement = text(GROUPS).execution_options(stream_results=True, yield_per=_FETCH_ROWS)
    for content_id, session_id, day, *sums in session.execute(statement, parameters):
        totals = dict(zip(SUM_COLUMNS, map(int, sums), strict=True))
        yield GroupKey(bytes(content_id), bytes(session_id), day), GroupTotals(**totals)


def count_lines(session: Session, source: Source) -> Counters:
    """Return what became of all lines of a source's files; the sum of counters is their number."""
    counters = Counters()
    for statement in (COUNT_LINES, COUNT_TOTALS):
        accepted, late, duplicate, conflict = session.execute(
            text(statement), {"source": source.id}
        ).one()
        counters.accepted += int(accepted)
        counters.late += int(late)
        counters.duplicate += int(duplicate)
        counters.conflict += int(conflict)
    _count_others(session, source, counters)
    return counters


def _count_others(session: Session, source: Source, counters: Counters) -> None:
    of_source = CdnFileRow.source_id == source.id
    counters.lines = int(
        session.scalar(select(func.coalesce(func.sum(CdnFileRow.lines), 0)).where(of_source)) or 0
    )
    reasons = session.execute(
        select(
            CdnFileCountRow.reason,
            func.sum(CdnFileCountRow.lines),
            func.sum(CdnFileCountRow.sent_bytes),
        )
        .join(CdnFileRow, CdnFileRow.id == CdnFileCountRow.file_id)
        .where(of_source)
        .group_by(CdnFileCountRow.reason)
    )
    for reason, number, sent_bytes in reasons:
        if reason == _MALFORMED:
            counters.malformed = int(number)
        else:
            counters.excluded[reason] = int(number)
            counters.excluded_bytes[reason] = int(sent_bytes)
    faults = session.execute(
        select(CdnFileRow.name, CdnFaultRow.line, CdnFaultRow.reason)
        .join(CdnFileRow, CdnFileRow.id == CdnFaultRow.file_id)
        .where(of_source)
        .order_by(CdnFileRow.name, CdnFaultRow.line)
        .limit(FAULTS_KEPT_MAX)
    )
    counters.faults = [Fault(file=name, line=line, reason=why) for name, line, why in faults]


def close_days(session: Session, source: Source, through_day: int) -> None:
    """Close a source's days: lines of them that come later are corrections.

    Raises:
        DayError: A later day is closed already.
    """
    if through_day < source.closed_through_day:
        raise DayError(f"day: got {through_day}, want ≥ {source.closed_through_day}: no reopening")
    session.execute(
        update(CdnSourceRow)
        .where(CdnSourceRow.id == source.id)
        .values(closed_through_day=through_day)
    )


def forget_days(session: Session, source: Source, through_day: int) -> int:
    """Fold lines of days long closed into totals; later lines of those days are excluded.

    Returns:
        How many lines' request ids were forgotten.

    Raises:
        DayError: A day is not closed, or a later one is forgotten already.
    """
    if through_day > source.closed_through_day:
        raise DayError(f"day: got {through_day}, want ≤ {source.closed_through_day}: closed first")
    if through_day < source.forgotten_through_day:
        # Lines of the days between would be taken again: what they repeat is not known any more.
        known = source.forgotten_through_day
        raise DayError(f"day: got {through_day}, want ≥ {known}: forgotten already")
    session.execute(text("SET LOCAL statement_timeout = 0"))
    parameters = {"source": source.id, "first": 0, "last": through_day}
    session.execute(text(FOLD_LINES), parameters)
    deleted: Any = session.execute(text(DELETE_FOLDED), {"source": source.id, "last": through_day})
    session.execute(
        update(CdnSourceRow)
        .where(CdnSourceRow.id == source.id)
        .values(forgotten_through_day=through_day)
    )
    return int(deleted.rowcount)


def store_invoice(session: Session, account: bytes, invoice: Invoice) -> bool:
    """Store an invoice; the same one again changes nothing.

    Returns:
        Whether it is new.

    Raises:
        InvoiceConflictError: Its number is taken by another one.
    """
    inserted = session.execute(
        insert(CdnInvoiceRow)
        .values(account=account, **_invoice_values(invoice))
        .on_conflict_do_nothing()
        .returning(CdnInvoiceRow.number)
    ).scalar()
    if inserted is not None:
        return True
    for stored in load_invoices(session, account):
        if (stored.cdn, stored.number) == (invoice.cdn, invoice.number) and stored != invoice:
            raise InvoiceConflictError(
                f"invoice {invoice.number} of {invoice.cdn}: got other content, want what is stored"
            )
    return False


def load_invoices(session: Session, account: bytes) -> list[Invoice]:
    """Return a broadcaster's invoices by CDN, first day and number."""
    rows = session.scalars(
        select(CdnInvoiceRow)
        .where(CdnInvoiceRow.account == account)
        .order_by(CdnInvoiceRow.cdn, CdnInvoiceRow.first_day, CdnInvoiceRow.number)
    )
    return [
        Invoice(
            cdn=row.cdn,
            number=row.number,
            first_day=row.first_day,
            last_day=row.last_day,
            quantity=row.quantity,
            unit=row.unit,
            basis=Basis(row.basis),
            content_id=row.content_id,
        )
        for row in rows
    ]


def _invoice_values(invoice: Invoice) -> dict[str, Any]:
    return {
        "cdn": invoice.cdn,
        "number": invoice.number,
        "first_day": invoice.first_day,
        "last_day": invoice.last_day,
        "quantity": invoice.quantity,
        "unit": invoice.unit,
        "basis": invoice.basis.value,
        "content_id": invoice.content_id,
    }
