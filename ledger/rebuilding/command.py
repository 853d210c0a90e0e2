"""The command `swarmledger rebuild`: books, slots and payouts again, without their operator.

    swarmledger rebuild --mirror DIR --spools DIR… --terms FILE… --binding FILE… \
        --gateway SOURCE[,SOURCE] --trust FILE [--database URL] [--settler DIR] [--json]

Exit status: 0 rebuilt, every root as the log says; 1 something came out otherwise; 2 cannot tell,
for example because evidence is missing. Standard output is the result, standard error is talk.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import TRUST_SIZE_MAX, Trust, parse_trust
from ledger.books.errors import BooksError
from ledger.evidence.errors import EvidenceError
from ledger.evidence.units import format_stroops
from ledger.rebuilding.checking import cores
from ledger.rebuilding.errors import EvidenceMissingError, RebuildError
from ledger.rebuilding.rebuild import Rebuilding, Rebuilt, gather_evidence, read_domain_facts
from ledger.rebuilding.replay import RebuiltEpoch
from ledger.rebuilding.restore import open_restoring
from ledger.rebuilding.settler_archive import SettlerArchive
from ledger.stellar.errors import StellarError
from ledger.stellar.gateway import Gateway
from ledger.stellar.settler_records import SettlerFolder
from ledger.stellar.sources import open_source
from ledger.store.engine import DatabaseUnavailableError
from ledger.store.errors import StoreError
from ledger.store.migrate import upgrade

EXIT_REBUILT: Final = 0
EXIT_DIFFERS: Final = 1
EXIT_UNDECIDED: Final = 2
_PROGRAM: Final = "swarmledger rebuild"
_BAR_CHARACTERS: Final = 30
_JOBS_MAX: Final = 256
_CANNOT_TELL: Final = (
    UndecidableError,
    EvidenceError,
    EvidenceMissingError,
    StellarError,
    StoreError,
    DatabaseUnavailableError,
    OSError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger rebuild`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except _CANNOT_TELL as error:
        return _fail(arguments, "cannot tell", str(error), EXIT_UNDECIDED)
    except (DisprovenError, RebuildError, BooksError) as error:
        return _fail(arguments, "disproven", str(error), EXIT_DIFFERS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Compute every epoch again from log, parties' spools and chain.",
        epilog="exit codes: 0 rebuilt and identical, 1 something differs, 2 cannot tell",
    )
    parser.add_argument("--mirror", type=Path, required=True, metavar="DIR",
                        help="what `swarmledger log mirror` made")  # fmt: skip
    parser.add_argument("--spools", type=Path, nargs="+", default=[], metavar="DIR",
                        help="folders with spool.sqlite files somewhere below")  # fmt: skip
    parser.add_argument("--terms", type=Path, nargs="+", required=True, metavar="FILE",
                        help="signed terms, all that the log names")  # fmt: skip
    parser.add_argument("--binding", type=Path, nargs="+", required=True, metavar="FILE",
                        help="bindings of the issuing keys")  # fmt: skip
    parser.add_argument("--gateway", required=True, metavar="SOURCE[,SOURCE]",
                        help="sources of the chain, horizon:URL or rpc:URL")  # fmt: skip
    parser.add_argument("--trust", type=Path, required=True, metavar="FILE", help="your trust.json")
    parser.add_argument("--database", metavar="URL",
                        help="an empty database to restore into; the schema is made")  # fmt: skip
    parser.add_argument("--settler", type=Path, action="append", default=[], metavar="DIR",
                        help="a settler's folder that learns the epochs; repeatable")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N",
                        choices=range(1, _JOBS_MAX + 1),
                        help="processes that check bundles; default: all cores")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    started_s = time.monotonic()
    trust = read_trust(arguments.trust)
    evidence = gather_evidence(
        trust.broadcaster_account,
        spools=arguments.spools,
        terms=arguments.terms,
        bindings=arguments.binding,
    )
    with open_gateways(arguments.gateway, trust) as gateways:
        facts = read_domain_facts(gateways, evidence)
    rebuilding = Rebuilding(arguments.mirror, trust, evidence, facts)
    archives = [SettlerArchive(SettlerFolder(path), rebuilding) for path in arguments.settler]
    take: list[Callable[[RebuiltEpoch], None]] = [archive.take for archive in archives]
    if arguments.database is None:
        rebuilt = rebuilding.run(take, show_progress, jobs=arguments.jobs)
    else:
        upgrade(arguments.database)
        with open_restoring(arguments.database, rebuilding) as restoring:
            rebuilt = rebuilding.run([*take, restoring.take], show_progress, jobs=arguments.jobs)
            restoring.finish()
    seconds = time.monotonic() - started_s
    document = describe(rebuilt, seconds)
    document["restored"] = arguments.database is not None
    _print(arguments, rebuilt, document)
    return EXIT_REBUILT


def read_trust(path: Path) -> Trust:
    """Return a trust file.

    Raises:
        OSError: It cannot be read.
        EvidenceError: It is malformed.
    """
    with path.open("rb") as file:
        return parse_trust(file.read(TRUST_SIZE_MAX + 1).decode())


@contextmanager
def open_gateways(text: str, trust: Trust) -> Iterator[list[Gateway]]:
    """Open sources named in one text, comma between them.

    Raises:
        StellarError: One is no source, or of another network.
    """
    sources = [open_source(one, trust.network_passphrase) for one in text.split(",")]
    try:
        for source in sources:
            source.require_network()
        yield list(sources)
    finally:
        for source in sources:
            source.close()


def describe(rebuilt: Rebuilt, seconds: float) -> dict[str, Any]:
    """Return what `--json` prints; amounts in stroops."""
    return {
        "verdict": "rebuilt",
        "first_epoch": rebuilt.first_epoch,
        "last_epoch": rebuilt.last_epoch,
        "epochs": rebuilt.epochs,
        "bundles": rebuilt.bundles,
        "batches": rebuilt.batches,
        "payouts": rebuilt.payouts,
        "planned_stroops": rebuilt.planned_stroops,
        "open_batches": rebuilt.open_batches,
        "open_stroops": rebuilt.open_stroops,
        "unanchored_epochs": rebuilt.unanchored,
        "state_hash": rebuilt.state_root.hex(),
        "identical_state_hash": True,
        "seconds": round(seconds, 3),
    }


def show_progress(done: int, count: int, text: str) -> None:
    """Show a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return
    filled = _BAR_CHARACTERS * done // count
    bar = "█" * filled + "░" * (_BAR_CHARACTERS - filled)
    end = "\n" if done == count else ""
    print(f"\r{bar} {done}/{count} {text}\x1b[K", end=end, file=sys.stderr, flush=True)


def _print(arguments: argparse.Namespace, rebuilt: Rebuilt, document: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(document))
        return
    print(
        f"rebuilt: epochs {rebuilt.first_epoch} to {rebuilt.last_epoch}, {rebuilt.bundles:,} "
        f"bundles, {rebuilt.payouts:,} payouts of {format_stroops(rebuilt.planned_stroops)} in "
        f"{rebuilt.batches:,} batches\n"
        f"open: {rebuilt.open_batches:,} batches, payees are to get "
        f"{format_stroops(rebuilt.open_stroops)}; {rebuilt.unanchored} epochs not anchored\n"
        f"state hash: {rebuilt.state_root.hex()}, identical to the log's\n"
        f"took {document['seconds']} s" + ("; restored" if document["restored"] else "")
    )


def _fail(arguments: argparse.Namespace, verdict: str, reason: str, status: int) -> int:
    if arguments.json:
        print(json.dumps({"verdict": verdict, "reason": reason}))
    print(f"{_PROGRAM}: {verdict}: {reason}", file=sys.stderr)
    return status
