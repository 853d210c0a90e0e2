"""The command `swarmledger report`: bill, statements and books from audit files.

`make` verifies every audit file first and makes nothing of a file that is not proven. Exit status
of `make`: 0 written, 1 an audit file is not proven (the step is named), 2 an input cannot be read.
`check-line` checks the lines of one statement against a trust file; 0 proven, 1 disproven, 2 cannot
tell. Standard output is the result, standard error is talk.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ledger.audit.trust import TRUST_SIZE_MAX, Trust, parse_trust
from ledger.books.errors import BooksError
from ledger.evidence.errors import EvidenceError, MalformedError
from ledger.evidence.units import format_stroops
from ledger.reports.bill import Bill, NothingToReportError
from ledger.reports.figures import UnprovenFileError, read_figures
from ledger.reports.folder import make_reports, write_files
from ledger.reports.inputs import ReportInputError, parse_catalogue, parse_cdn_log
from ledger.reports.line_proof import check_line_proofs
from ledger.reports.statement import Statement

EXIT_UNPROVEN = 1
EXIT_UNREADABLE = 2
_AUDIT_NAME = re.compile(r"epoch-(0|[1-9][0-9]{0,9})\.audit")

app = typer.Typer(
    name="swarmledger report",
    help="Make bills, statements and books from audit files, without trusting the operator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TrustFile = Annotated[Path, typer.Option("--trust", help="Your trust.json.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main() -> None:
    """Entry point of `swarmledger report`."""
    app()


@app.command()
def make(
    *,
    audit: Annotated[Path, typer.Option(help="Folder with epoch-N.audit of consecutive epochs.")],
    trust: TrustFile,
    out: Annotated[Path, typer.Option(help="Folder for the reports; made if missing.")],
    catalogue: Annotated[
        Path | None, typer.Option(help='JSON {"content id in hex": "title"}.')
    ] = None,
    cdn_log: Annotated[
        Path | None,
        typer.Option(help="JSON list of cdn, content_id, requests, body_bytes, aborted_requests."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write bill.html, bill.csv, viewing.csv, one statement per payee, and books.beancount."""
    reader = _read_trust(trust)
    paths = _audit_paths(audit)
    try:
        titles = None if catalogue is None else parse_catalogue(_read_text(catalogue))
        log = None if cdn_log is None else parse_cdn_log(_read_text(cdn_log))
    except ReportInputError as error:
        _stop(EXIT_UNREADABLE, str(error))
    _say(f"verifying {len(paths)} audit files in {audit}")
    try:
        figures = read_figures([_read_bytes(path) for path in paths], reader)
        bill, statements, files = make_reports(figures, reader, titles=titles, cdn_log=log)
    except (UnprovenFileError, BooksError) as error:
        _stop(EXIT_UNPROVEN, f"not proven: {error}")
    except NothingToReportError as error:
        _stop(EXIT_UNREADABLE, str(error))
    try:
        write_files(out, files)
    except OSError as error:
        _stop(EXIT_UNREADABLE, f"{out}: {error.strerror}")
    _say(f"wrote {len(files)} files to {out}")
    _print_made(bill, statements, sorted(files), as_json=as_json)


@app.command()
def check_line(
    proof: Annotated[Path, typer.Argument(help="statement-….proof.json")],
    *,
    trust: TrustFile,
    as_json: Json = False,
) -> None:
    """Check that a statement's lines are in the log that your trust file names."""
    reader = _read_trust(trust)
    text = _read_text(proof)
    try:
        lines = check_line_proofs(text, reader)
    except MalformedError as error:
        _stop(EXIT_UNREADABLE, f"{proof}: {error}")
    except EvidenceError as error:
        _stop(EXIT_UNPROVEN, f"{proof}: not proven: {error}")
    if as_json:
        document = [
            {
                "epoch": line.epoch,
                "credited_bytes": line.credited_bytes,
                "charge_stroops": line.charge_stroops,
                "tree_size": line.tree_size,
            }
            for line in lines
        ]
        print(json.dumps({"verdict": "proven", "lines": document}, indent=2))
        return
    for line in lines:
        print(
            f"epoch {line.epoch}: {line.credited_bytes:,} bytes, charge "
            f"{format_stroops(line.charge_stroops)}: in the log of {line.tree_size:,} leaves"
        )
    print(f"verdict: proven, {len(lines)} lines")


def _print_made(
    bill: Bill, statements: list[Statement], names: list[str], *, as_json: bool
) -> None:
    asset = bill.terms.asset_code
    if as_json:
        document: dict[str, Any] = {
            "bill": bill.number,
            "epochs": [bill.first_epoch, bill.last_epoch],
            "bytes": {
                "billed_p2p": bill.bytes_p2p,
                "billed_cdn": bill.bytes_cdn,
                "uncredited": bill.bytes_uncredited,
            },
            "money": {
                "asset": asset,
                "charged_stroops": bill.charge_stroops,
                "fees_stroops": bill.fee_stroops,
                "due_stroops": bill.due_stroops,
            },
            "viewing": {
                "playing_ms": bill.viewing.total.playing_ms,
                "viewers": bill.viewing.total.viewers,
                "peak_at_once": bill.viewing.total.at_once.viewers,
                "contents": [
                    {
                        "content_id": content.content_id.hex(),
                        "playing_ms": content.playing_ms,
                        "viewers": content.viewers,
                        "peak_at_once": content.at_once.viewers,
                        "peak_at_once_ms": content.at_once.at_ms,
                        "busiest_minute_viewers": content.busiest_minute.viewers,
                        "busiest_minute_ms": content.busiest_minute.at_ms,
                    }
                    for content in bill.viewing.contents
                ],
            },
            "statements": [statement.name for statement in statements],
            "files": names,
        }
        print(json.dumps(document, indent=2))
        return
    print(
        f"bill {bill.number}: {bill.bytes_p2p:,} P2P bytes, {bill.bytes_cdn:,} CDN bytes, "
        f"{format_stroops(bill.charge_stroops)} {asset}; {len(statements)} statements"
    )


def _audit_paths(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if _AUDIT_NAME.fullmatch(path.name)]
    except OSError as error:
        _stop(EXIT_UNREADABLE, f"{folder}: {error.strerror}")
    if not paths:
        _stop(EXIT_UNREADABLE, f"{folder}: got no epoch-N.audit, want at least one")
    return sorted(paths, key=lambda path: int(path.stem.partition("-")[2]))


def _read_trust(path: Path) -> Trust:
    text = _read_text(path, size_max=TRUST_SIZE_MAX)
    try:
        return parse_trust(text)
    except EvidenceError as error:
        _stop(EXIT_UNREADABLE, f"trust file {path}: {error}")


def _read_text(path: Path, size_max: int | None = None) -> str:
    try:
        with path.open("rb") as file:
            content = file.read() if size_max is None else file.read(size_max + 1)
        return content.decode()
    except OSError as error:
        _stop(EXIT_UNREADABLE, f"{path}: {error.strerror}")
    except UnicodeDecodeError:
        _stop(EXIT_UNREADABLE, f"{path}: got other bytes, want UTF-8")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _stop(EXIT_UNREADABLE, f"{path}: {error.strerror}")


def _say(text: str) -> None:
    print(f"swarmledger report: {text}", file=sys.stderr)


def _stop(status: int, reason: str) -> NoReturn:
    _say(reason)
    raise typer.Exit(status)


if __name__ == "__main__":
    main()
