"""Invoice files: what a CDN billed, as a broadcaster writes it down; TOML.

    [[invoice]]
    cdn = "cdn.example"            # host, as in the terms
    number = "2026-01-4711"        # the vendor's
    first_day = 2026-01-01         # UTC
    last_day = 2026-01-31          # inclusive
    quantity = "12345.678"         # as printed, in quotes
    unit = "GB"                    # B, MB, GB, TB, MiB, GiB, TiB; by definition
    basis = "total"                # headers included (the default), or "body"
    content = "<64 hex digits>"    # only for a line that bills one content

Not here: amounts of money, taxes, what a price book says.
"""

import tomllib
from datetime import date, datetime
from typing import Any, Final

from ledger.books.invoices import Basis, Invoice, InvoiceError
from ledger.cdnlogs.timestamps import MalformedTimeError, days_from_civil

INVOICE_CHARACTERS_MAX: Final = 4 << 20
_KEYS: Final = {
    "cdn", "number", "first_day", "last_day", "quantity", "unit", "basis", "content",
}  # fmt: skip
_NEEDED: Final = _KEYS - {"basis", "content"}


def parse_invoices(text: str) -> list[Invoice]:
    """Read an invoice file.

    Raises:
        InvoiceError: Not such a document, or an invoice that cannot be.
    """
    if len(text) > INVOICE_CHARACTERS_MAX:
        raise InvoiceError(f"invoices: got {len(text)} characters, want ≤ 4 MiB")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvoiceError(f"invoices: {error}") from None
    lines = document.get("invoice")
    if set(document) != {"invoice"} or not isinstance(lines, list) or not lines:
        raise InvoiceError("invoices: want tables [[invoice]] and nothing else")
    return [_invoice(place, line) for place, line in enumerate(lines)]


def parse_day(text: str) -> int:
    """Return a UTC day, "2026-01-31", as days since 1970-01-01.

    Raises:
        MalformedTimeError: Not such a date.
    """
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise MalformedTimeError(f"day: got {text!r}, want YYYY-MM-DD") from None
    return days_from_civil(found.year, found.month, found.day)


def _invoice(place: int, line: Any) -> Invoice:
    name = f"invoice[{place}]"
    if not isinstance(line, dict) or set(line) - _KEYS or _NEEDED - set(line):
        raise InvoiceError(f"{name}: got {sorted(line)}, want {', '.join(sorted(_NEEDED))}")
    for field in ("cdn", "number", "quantity", "unit"):
        if not isinstance(line[field], str):
            raise InvoiceError(f"{name}.{field}: got {line[field]!r}, want text in quotes")
    basis = line.get("basis", Basis.TOTAL.value)
    if basis not in {kind.value for kind in Basis}:
        raise InvoiceError(f"{name}.basis: got {basis!r}, want total or body")
    return Invoice(
        cdn=line["cdn"].lower(),
        number=line["number"],
        first_day=_day(f"{name}.first_day", line["first_day"]),
        last_day=_day(f"{name}.last_day", line["last_day"]),
        quantity=line["quantity"],
        unit=line["unit"],
        basis=Basis(basis),
        content_id=_content(f"{name}.content", line.get("content", "")),
    )


def _day(name: str, found: Any) -> int:
    if not isinstance(found, date) or isinstance(found, datetime):
        raise InvoiceError(f"{name}: got {found!r}, want a date such as 2026-01-31")
    return days_from_civil(found.year, found.month, found.day)


def _content(name: str, found: Any) -> bytes:
    try:
        content = bytes.fromhex(found)
    except (TypeError, ValueError):
        raise InvoiceError(f"{name}: got {found!r}, want 64 hex digits") from None
    if len(content) not in {0, 32}:
        raise InvoiceError(f"{name}: got {len(content)} bytes, want 32")
    return content
