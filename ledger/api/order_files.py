"""Orders for entitlements in files: CSV with a header line, or JSON lines.

Both have the fields of a player back end's orders. A wrong line is named with its number, and
nothing of the file is used then. Not here: issuing (`issuer`).
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger.api.issuer import Caps, Order, parse_order
from ledger.evidence.errors import MalformedRecordError

FILE_SIZE_MAX = 256 << 20
_Row = tuple[int, dict[str, Any]]
"""Line number, fields."""


class OrderFileError(Exception):
    """A file of orders cannot be used; the message names the line."""


def read_orders(name: str, defaults: Caps) -> list[Order]:
    """Return the orders in a file.

    Args:
        name: Path; "-" is standard input. What begins with "{" is JSON lines, all else CSV.
        defaults: Caps that an order does not state itself.

    Raises:
        OrderFileError: A line is wrong, or the file cannot be read or holds no order.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OrderFileError(f"{name}: {error}") from None
    if len(text) > FILE_SIZE_MAX:
        raise OrderFileError(f"{name}: got {len(text)} characters, want ≤ {FILE_SIZE_MAX}")
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text)
    orders = [_parse_row(name, line, row, defaults) for line, row in _numbered(name, rows)]
    if not orders:
        raise OrderFileError(f"{name}: got no order, want at least one")
    return orders


def _parse_row(name: str, line: int, row: dict[str, Any], defaults: Caps) -> Order:
    try:
        return parse_order(row, defaults)
    except (MalformedRecordError, TypeError, AttributeError) as error:
        raise OrderFileError(f"{name}: line {line}: {error}") from None


def _numbered(name: str, rows: Iterator[_Row]) -> Iterator[_Row]:
    number = 0
    try:
        for row in rows:
            number = row[0]
            yield row
    except (ValueError, csv.Error) as error:
        raise OrderFileError(f"{name}: after line {number}: {error}") from None


def _json_rows(text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, json.loads(line)


def _csv_rows(text: str) -> Iterator[_Row]:
    reader = csv.DictReader(text.splitlines(), restkey="more fields than the header", strict=True)
    for row in reader:
        yield reader.line_num, row
