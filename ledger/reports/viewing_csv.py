"""viewing.csv: concurrent viewers, one row a content and minute in which somebody played.

UTF-8, commas, line feeds at line ends; text that a spreadsheet could take for a formula has an
apostrophe in front. A viewer counts in every minute that it played in, once.
"""

import csv
import io
from typing import Final

from ledger.books.concurrency import MINUTE_MS
from ledger.reports.bill_csv import disarm_cell
from ledger.reports.viewing import Viewing
from ledger.reports.wording import format_iso

COLUMNS: Final = ("minute_utc", "content_id", "content", "viewers")


def format_viewing_csv(viewing: Viewing) -> str:
    """Return the text of viewing.csv, by content and minute."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for content in viewing.contents:
        for run in content.per_minute:
            for minute in range(run.first_minute, run.last_minute_exclusive):
                writer.writerow(
                    (
                        format_iso(minute * MINUTE_MS // 1000),
                        content.content_id.hex(),
                        disarm_cell(content.title),
                        run.viewers,
                    )
                )
    return text.getvalue()
