"""bill.csv: the bill's lines, one per epoch, content and carrier, for machines.

UTF-8, commas, line feeds at line ends, quoted only where RFC 4180 needs it. Amounts have seven
decimals, GB (10⁹ bytes) nine, both exact; every row states what its price is for, in bytes. A text
cell that a spreadsheet could take for a formula has an apostrophe in front. The reader accepts
exactly what the writer prints. CDN bytes have rows even where the contract charges nothing.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ledger.evidence.units import AMOUNT_MAX, format_stroops, parse_stroops
from ledger.reports.wording import format_gb, format_iso

COLUMNS = (
    "epoch",
    "period_start_utc",
    "period_end_utc",
    "content_id",
    "content",
    "source",
    "bytes",
    "quantity_gb",
    "price_stroops",
    "price_quantity_bytes",
    "amount",
    "currency",
    "cdn",
)
SOURCE_P2P, SOURCE_CDN = "p2p", "cdn"
# What starts a formula in one spreadsheet or another, and the apostrophe that disarms it.
_FORMULA_STARTS = frozenset("=+-@＝＋－＠\t\r\n'")


class BillCsvError(Exception):
    """Text that is not a bill.csv: says line, field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillRow:
    """One row of bill.csv."""

    epoch: int
    period_start_s: int
    """Start of the epoch, Unix seconds, inclusive."""

    period_end_s: int
    """End of the epoch, Unix seconds, exclusive."""

    content_id: bytes
    """32 bytes."""

    content: str
    """Title; empty where the catalogue has none."""

    source: str
    """`SOURCE_P2P` or `SOURCE_CDN`."""

    bytes_credited: int
    price_stroops: int
    """Price of `price_quantity_bytes`; 0 where the contract charges nothing."""

    price_quantity_bytes: int
    charge_stroops: int
    currency: str
    """Code of the priced asset."""

    cdn: str
    """The CDN's host; empty for peers."""


def format_bill_csv(rows: Iterable[BillRow]) -> str:
    """Return the text of a bill.csv."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in rows)
    return output.getvalue()


def _cells(row: BillRow) -> list[str]:
    return [
        str(row.epoch),
        format_iso(row.period_start_s),
        format_iso(row.period_end_s),
        row.content_id.hex(),
        disarm_cell(row.content),
        row.source,
        str(row.bytes_credited),
        format_gb(row.bytes_credited),
        str(row.price_stroops),
        str(row.price_quantity_bytes),
        format_stroops(row.charge_stroops),
        disarm_cell(row.currency),
        disarm_cell(row.cdn),
    ]


def disarm_cell(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in _FORMULA_STARTS and text else text


def read_bill_csv(text: str) -> list[BillRow]:
    """Return the rows of a bill.csv.

    Raises:
        BillCsvError: Anything that would not print back identically.
    """
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise BillCsvError(f"bill.csv: got {error}, want comma-separated rows") from None
    if not table or tuple(table[0]) != COLUMNS:
        raise BillCsvError(f"bill.csv: got columns {table[:1]}, want {','.join(COLUMNS)}")
    rows = [_read_row(number, cells) for number, cells in enumerate(table[1:], start=2)]
    if format_bill_csv(rows) != text:
        raise BillCsvError("bill.csv: got another spelling, want what the report prints")
    return rows


def _read_row(number: int, cells: list[str]) -> BillRow:
    if len(cells) != len(COLUMNS):
        raise BillCsvError(f"line {number}: got {len(cells)} cells, want {len(COLUMNS)}")
    named = dict(zip(COLUMNS, cells, strict=True))
    if named["source"] not in {SOURCE_P2P, SOURCE_CDN}:
        raise BillCsvError(f"line {number}, source: got {named['source']!r}, want p2p or cdn")
    try:
        row = BillRow(
            epoch=_read_integer(named, "epoch"),
            period_start_s=_read_time(named, "period_start_utc"),
            period_end_s=_read_time(named, "period_end_utc"),
            content_id=bytes.fromhex(named["content_id"]),
            content=named["content"].removeprefix("'"),
            source=named["source"],
            bytes_credited=_read_integer(named, "bytes"),
            price_stroops=_read_integer(named, "price_stroops"),
            price_quantity_bytes=_read_integer(named, "price_quantity_bytes"),
            charge_stroops=parse_stroops(named["amount"]),
            currency=named["currency"].removeprefix("'"),
            cdn=named["cdn"].removeprefix("'"),
        )
    except ValueError as error:
        raise BillCsvError(f"line {number}: {error}") from None
    printed = dict(zip(COLUMNS, _cells(row), strict=True))
    for column in COLUMNS:
        if printed[column] != named[column]:
            raise BillCsvError(
                f"line {number}, {column}: got {named[column]!r}, want {printed[column]!r}"
            )
    if row.charge_stroops < 0 or len(row.content_id) != 32:
        raise BillCsvError(f"line {number}: got {cells}, want an amount ≥ 0 and a 32-byte id")
    if bool(row.cdn) != (row.source == SOURCE_CDN):
        raise BillCsvError(f"line {number}, cdn: got {row.cdn!r}, want a host exactly for cdn rows")
    return row


def _read_integer(named: dict[str, str], column: str) -> int:
    text = named[column]
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > AMOUNT_MAX:
        raise ValueError(f"{column}: got {text[:40]!r}, want 0..2**63-1")
    return int(text)


def _read_time(named: dict[str, str], column: str) -> int:
    moment = datetime.strptime(named[column], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int(moment.timestamp())
