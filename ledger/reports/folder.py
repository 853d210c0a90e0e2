"""Output folder: every report of a run of epochs as named files, written whole or not at all.

All files are made in memory first and written beside their place under a temporary name; only when
every one of them is on disk do they take their names. Not here: what stands in them.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ledger.audit.trust import Trust
from ledger.reports.beancount import format_beancount
from ledger.reports.bill import Bill, make_bill
from ledger.reports.bill_csv import format_bill_csv
from ledger.reports.figures import EpochFigures
from ledger.reports.inputs import CdnLogRow
from ledger.reports.line_proof import format_line_files, format_line_proofs
from ledger.reports.pages import render_bill, render_statement
from ledger.reports.statement import Statement, format_statement_csv, make_statements
from ledger.reports.viewing_csv import format_viewing_csv

BILL_HTML, BILL_CSV, BOOKS = "bill.html", "bill.csv", "books.beancount"
VIEWING_CSV = "viewing.csv"


def make_reports(
    figures: Sequence[EpochFigures],
    trust: Trust,
    *,
    titles: Mapping[bytes, str] | None = None,
    cdn_log: Sequence[CdnLogRow] | None = None,
) -> tuple[Bill, list[Statement], dict[str, str]]:
    """Return the bill, the statements, and the text of every file by its name.

    Raises:
        NothingToReportError: No epoch was given.
        ConservationError: The parts of a report do not add up to the books.
    """
    bill = make_bill(figures, trust, titles=titles, cdn_log=cdn_log)
    statements = make_statements(figures)
    files = {
        BILL_HTML: render_bill(bill),
        BILL_CSV: format_bill_csv(bill.rows),
        BOOKS: format_beancount(figures),
        VIEWING_CSV: format_viewing_csv(bill.viewing),
    }
    for statement in statements:
        files[f"{statement.name}.html"] = render_statement(statement)
        files[f"{statement.name}.csv"] = format_statement_csv(statement)
        files[f"{statement.name}.proof.json"] = format_line_proofs(figures, statement.subject)
        for epoch, proof in format_line_files(figures, statement.subject).items():
            files[f"{statement.name}.epoch-{epoch}.tlog-proof"] = proof
    return bill, statements, files


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files into a folder, which is made if it is missing; each replaces its namesake.

    Raises:
        OSError: The folder cannot be made or written; then no file has been replaced, unless
            taking the final names itself failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as staging:
        for name, text in files.items():
            with (Path(staging) / name).open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            (Path(staging) / name).replace(folder / name)
