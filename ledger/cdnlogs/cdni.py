"""Export as CDNI logging files: record type `cdni_http_request_v1` of RFC 7937.

What was accepted of any format can be handed on in the IETF's own, and reads back with the map
`cdni`. A field that the source did not state is "-". Source: RFC 7937 §3.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

from ledger.cdnlogs.rows import LogRow
from ledger.cdnlogs.timestamps import DAY_MS

FIELDS: Final = (
    "date",
    "time",
    "cs-method",
    "u-uri",
    "sc-status",
    "sc-total-bytes",
    "sc-entity-bytes",
    "s-hostname",
    "s-sid",
)
_DAYS_PER_400_YEARS: Final = 146_097


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Return year, month and day of days since 1970-01-01 (proleptic Gregorian calendar)."""
    # The year begins with March here, so that the leap day is its last.
    era, day_of_era = divmod(days + 719_468, _DAYS_PER_400_YEARS)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return era * 400 + year_of_era + (month <= 2), month, day


def format_day(day: int) -> str:
    """Write a UTC day: "2026-01-31"."""
    year, month, of_month = civil_from_days(day)
    return f"{year:04d}-{month:02d}-{of_month:02d}"


def format_cdni_log(rows: Iterable[LogRow], *, uuid: str, origin: str) -> Iterator[bytes]:
    """Yield the lines of a CDNI logging file, hash directive last.

    Args:
        rows: Deliveries.
        uuid: `urn:uuid:…` of this file.
        origin: Who says so: the CDN's host.
    """
    hashed = hashlib.sha256()
    head = [
        "#version:\tcdni/1.0",
        f"#UUID:\t{uuid}",
        f"#claimed-origin:\t{origin}",
        "#record-type:\tcdni_http_request_v1",
        "#fields:\t" + "\t".join(FIELDS),
    ]
    for text in head:
        line = f"{text}\r\n".encode()
        hashed.update(line)
        yield line
    for row in rows:
        line = (_format_row(row) + "\r\n").encode()
        hashed.update(line)
        yield line
    yield f"#SHA256-hash:\t{hashed.hexdigest()}\r\n".encode()


def _format_row(row: LogRow) -> str:
    day, rest_ms = divmod(row.time_ms, DAY_MS)
    seconds, milliseconds = divmod(rest_ms, 1000)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{milliseconds:03d}"
    path, host = _escape(row.path, "/:@!$&'()*+,;=~-._"), _escape(row.host, ":[]-._")
    return "\t".join(
        [
            format_day(day),
            clock,
            _escape(row.method, "-") or "-",
            f"http://{host}{path}" if host else path,
            f"{row.status:03d}",
            "-" if row.total_bytes is None else str(row.total_bytes),
            "-" if row.body_bytes is None else str(row.body_bytes),
            host or "-",
            row.session_id.hex() or "-",
        ]
    )


def _escape(text: str, safe: str) -> str:
    """Percent-encode what a line cannot hold; a client may have sent bytes that are no text."""
    try:
        return quote(text, safe, errors="surrogateescape")
    except UnicodeEncodeError:
        # Half a character, as JSON can state it.
        return quote(text, safe, errors="surrogatepass")
