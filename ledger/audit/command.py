"""The auditor's command: `swarmledger-verify FILE… --trust TRUST`, also `swarmledger audit verify`.

Standard library and PyNaCl only, so that it runs where nothing of the operator is installed. Data
goes to standard output, talk to standard error. Exit codes: 0 proven, 1 disproven, 2 cannot tell.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from io import SEEK_END, TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from ledger.audit.case import check_bundles_in_turn
from ledger.audit.errors import UndecidableError
from ledger.audit.parallel import ParallelChecker
from ledger.audit.trust import TRUST_SIZE_MAX, Trust, parse_trust
from ledger.audit.verify import (
    EXIT_CODES,
    Report,
    Verdict,
    prove_succession,
    verify_audit_file,
)
from ledger.evidence.errors import EvidenceError

_JOBS_MAX = 256
_DESCRIPTION = """\
Recompute one or more epochs from their audit files: signatures, entitlements, caps, lanes, log,
contract, journal, statements, payouts; of several files also that each goes on where the one of
the epoch before ended. Trusts nobody but the keys in your trust file; needs no
network and no database. Network facts are the operator's signed claims.
"""


def main() -> None:
    """Run `swarmledger-verify` and exit with the verdict's code."""
    sys.exit(run(sys.argv[1:], prog="swarmledger-verify"))


def audit_main() -> None:
    """Run `swarmledger audit …` and exit with its code."""
    parser = argparse.ArgumentParser(
        prog="swarmledger audit", description="Work with the audit files of epochs."
    )
    parser.add_argument("action", choices=["verify"], help="verify: recompute epochs from files")
    arguments, rest = parser.parse_known_args(sys.argv[1:2])
    del arguments
    sys.exit(run([*rest, *sys.argv[2:]], prog="swarmledger audit verify"))


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Verify the files named on a command line.

    Args:
        arguments: Command-line arguments without the program's name.
        prog: Name to show in help.

    Returns:
        0 every file proven, 1 one disproven, 2 one undecided and none disproven.
    """
    options = _parser(prog).parse_args(arguments)
    try:
        trust = _read_trust(options.trust)
        reports = [_verify(path, trust, options.jobs) for path in options.files]
    except UndecidableError as error:
        if options.json:
            print(json.dumps({"verdict": Verdict.UNDECIDED, "reason": str(error)}))
        print(f"{prog}: cannot tell: {error}", file=sys.stderr)
        return EXIT_CODES[Verdict.UNDECIDED]
    if len(reports) > 1:
        reports = prove_succession(reports)
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that cannot show a character gets its escape, never a traceback for a verdict.
        sys.stdout.reconfigure(errors="backslashreplace")
    named = list(zip(options.files, reports, strict=True))
    if options.json:
        _print_json(named)
    else:
        for path, report in named:
            _print_text(path, report)
    codes = {EXIT_CODES[report.verdict] for report in reports}
    return 1 if 1 in codes else max(codes)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_DESCRIPTION,
        epilog="exit codes: 0 proven, 1 disproven, 2 cannot tell (for example without --trust)",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="epoch-N.audit")
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="TRUST",
        help="your trust.json: network, log keys, DAO keys, broadcaster, how time is cut",
    )
    parser.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="processes that check signatures"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _JOBS_MAX:
        raise argparse.ArgumentTypeError(f"got {text!r}, want 1 to {_JOBS_MAX}")
    return int(text)


def _read_trust(path: Path | None) -> Trust | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(TRUST_SIZE_MAX + 1)
        return parse_trust(content.decode())
    except OSError as error:
        raise UndecidableError(f"trust file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UndecidableError(f"trust file {path}: got other bytes, want UTF-8") from None
    except EvidenceError as error:
        raise UndecidableError(f"trust file {path}: {error}") from None


class FileSource:
    """An audit file on disk, of which only what is looked at gets read."""

    def __init__(self, file: BinaryIO) -> None:
        """Take an open file; it stays the caller's."""
        self._file = file
        self._size = file.seek(0, SEEK_END)

    @property
    def size(self) -> int:
        """How many bytes the file had when it was opened."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`.

        Raises:
            UndecidableError: The file ends before: somebody is changing it.
        """
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise UndecidableError("audit file: it changed while it was read")
        return data


def _verify(path: Path, trust: Trust | None, jobs: int) -> Report:
    try:
        with path.open("rb") as file:
            check_bundles = ParallelChecker(path, jobs) if jobs > 1 else check_bundles_in_turn
            return verify_audit_file(FileSource(file), trust, check_bundles)
    except OSError as error:
        raise UndecidableError(f"audit file {path}: {error.strerror}") from None
    except MemoryError:
        raise UndecidableError(f"audit file {path}: needs more memory than there is") from None


def _print_text(path: Path, report: Report) -> None:
    epoch = "" if report.epoch is None else f", epoch {report.epoch}"
    print(f"{path}{epoch}")
    words = {Verdict.PROVEN: "OK", Verdict.DISPROVEN: "FAILED", Verdict.UNDECIDED: "CANNOT TELL"}
    for step in report.steps:
        print(f"  {step.number:>2}  {step.name:<15} {words[step.verdict]}  {step.detail}")
    print(f"  verdict: {report.verdict}")


def _print_json(reports: Sequence[tuple[Path, Report]]) -> None:
    documents = [
        {
            "file": str(path),
            "epoch": report.epoch,
            "verdict": report.verdict,
            "failed_step": report.failed_step.name if report.failed_step else None,
            "steps": [
                {
                    "number": step.number,
                    "name": step.name,
                    "verdict": step.verdict,
                    "detail": step.detail,
                }
                for step in report.steps
            ],
        }
        for path, report in reports
    ]
    print(json.dumps(documents, indent=2))


if __name__ == "__main__":
    main()
