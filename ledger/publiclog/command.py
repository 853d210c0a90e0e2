"""The command `swarmledger log`: mirror, verify and watch a public log; find what is missing.

Exit status: 0 proven or consistent, 1 disproven (a fork's evidence is saved), 2 cannot tell. Needs
the verifier's installation only. Standard output is the result, standard error is talk.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from ledger.audit.address import parse_account
from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import TRUST_SIZE_MAX, Trust, format_trust, parse_trust
from ledger.evidence.errors import EvidenceError
from ledger.evidence.note import format_verifier_key
from ledger.evidence.tile_proofs import TileReader
from ledger.evidence.units import format_stroops
from ledger.publiclog.collector_answers import CollectorAnswers
from ledger.publiclog.complaint import COMPLAINT_CHARACTERS_MAX, check_complaint
from ledger.publiclog.epoch_document import format_epoch_document, read_epoch_leaves
from ledger.publiclog.errors import ForkError
from ledger.publiclog.evidence_folder import save_fork
from ledger.publiclog.folder import MirrorFolder
from ledger.publiclog.line_file import LINE_CHARACTERS_MAX, check_line_file
from ledger.publiclog.line_request import fetch_line
from ledger.publiclog.log_keys import LogKeys, keys_of_texts, keys_of_trust
from ledger.publiclog.mirror import BYTES_MAX, mirror_log
from ledger.publiclog.missing import BROKEN, Findings, find_missing
from ledger.publiclog.monitoring import look_once
from ledger.publiclog.rotation import rotate_key
from ledger.publiclog.source import open_source
from ledger.publiclog.spool_file import read_spool_file
from ledger.publiclog.verification import verify_folder
from ledger.sealing.files import write_file
from ledger.stellar.errors import SeedFileError
from ledger.stellar.seed_files import read_seed

EXIT_PROVEN: Final = 0
EXIT_DISPROVEN: Final = 1
EXIT_UNDECIDED: Final = 2
INTERVAL_S: Final = 60
_PROGRAM: Final = "swarmledger log"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger log`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except ForkError as fork:
        return _report_fork(arguments, fork)
    except DisprovenError as error:
        return _report(arguments, "disproven", str(error), EXIT_DISPROVEN)
    except (UndecidableError, EvidenceError, SeedFileError) as error:
        return _report(arguments, "cannot tell", str(error), EXIT_UNDECIDED)
    except OSError as error:
        return _report(arguments, "cannot tell", str(error), EXIT_UNDECIDED)
    except KeyboardInterrupt:
        return EXIT_PROVEN
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Mirror, verify and watch a public log without trusting its operator.",
        epilog="exit codes: 0 proven or consistent, 1 disproven or forked, 2 cannot tell",
    )
    commands = parser.add_subparsers(required=True, dest="name", metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--trust", type=Path, metavar="FILE", help="your trust.json")
    common.add_argument("--json", action="store_true", help="print JSON, one document a line")
    keyed = argparse.ArgumentParser(add_help=False, parents=[common])
    keyed.add_argument("--vkey", action="append", default=[], metavar="NAME+ID+KEY",
                       help="a verifier key instead of a trust file; repeatable")  # fmt: skip
    keyed.add_argument("--evidence", type=Path, metavar="DIR",
                       help="where a fork's checkpoints are saved")  # fmt: skip
    mirror = commands.add_parser("mirror", parents=[keyed], help="copy a log, all of it proven")
    mirror.add_argument("url", metavar="URL", help="a log's base URL, or a folder")
    mirror.add_argument("folder", type=Path, metavar="DIR")
    mirror.add_argument("--max-bytes", type=int, default=BYTES_MAX, metavar="N",
                        help="most bytes of one run; the next run goes on")  # fmt: skip
    mirror.set_defaults(run=_mirror)
    verify = commands.add_parser("verify", parents=[keyed], help="verify a log's folder off-line")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.set_defaults(run=_verify)
    monitor = commands.add_parser("monitor", parents=[keyed], help="watch a log for forks")
    monitor.add_argument("url", metavar="URL")
    monitor.add_argument("--state", type=Path, required=True, metavar="FILE",
                         help="the last checkpoint that was believed")  # fmt: skip
    monitor.add_argument("--once", action="store_true", help="look once and exit")
    monitor.add_argument("--interval", type=float, default=INTERVAL_S, metavar="SECONDS")
    monitor.set_defaults(run=_monitor)
    _add_party_commands(commands, common)
    return parser


def _add_party_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    missing = commands.add_parser(
        "find-missing", parents=[common], help="promised bundles that a seal does not hold"
    )
    missing.add_argument("--mine", type=Path, required=True, metavar="SPOOL",
                         help="spool.sqlite of your engine's state folder")  # fmt: skip
    missing.add_argument("--log", required=True, metavar="URL|DIR", help="the log, or its mirror")
    missing.add_argument("--collector", metavar="URL", help="ask it for codes too")
    missing.add_argument("--out", type=Path, metavar="DIR", help="where complaints are written")
    missing.set_defaults(run=_find_missing)
    complaint = commands.add_parser(
        "check-complaint", parents=[common], help="check a complaint off-line"
    )
    complaint.add_argument("file", type=Path, metavar="FILE")
    complaint.set_defaults(run=_check_complaint)
    epoch = commands.add_parser(
        "epoch", parents=[common], help="print an epoch's document out of a mirror"
    )
    epoch.add_argument("folder", type=Path, metavar="DIR")
    epoch.add_argument("number", type=int, metavar="N")
    epoch.set_defaults(run=_epoch)
    line = commands.add_parser("check-line", parents=[common], help="check a line's .tlog-proof")
    line.add_argument("file", type=Path, metavar="FILE")
    line.set_defaults(run=_check_line)
    mine = commands.add_parser(
        "my-line", parents=[common], help="fetch and check your own line of an epoch"
    )
    mine.add_argument("url", metavar="URL", help="base URL of the operator's API")
    mine.add_argument("--epoch", type=int, required=True, metavar="N")
    mine.add_argument("--account", required=True, metavar="G…")
    mine.add_argument("--key-file", type=Path, required=True, metavar="FILE",
                      help="seed of the account, or of a session key bound to it")  # fmt: skip
    mine.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .tlog-proof")
    mine.set_defaults(run=_my_line)
    rotate = commands.add_parser(
        "rotate", parents=[common], help="operator: make the next log key and the trust file for it"
    )
    rotate.add_argument("--log-key-file", type=Path, required=True, metavar="FILE",
                        help="the current seed; the next is made beside it")  # fmt: skip
    rotate.add_argument("--first-epoch", type=int, required=True, metavar="N")
    rotate.add_argument("--out", type=Path, required=True, metavar="FILE", help="new trust.json")
    rotate.set_defaults(run=_rotate)


def _mirror(arguments: argparse.Namespace) -> int:
    keys = _read_keys(arguments)
    with closing(open_source(arguments.url)) as source:
        done = mirror_log(source, arguments.folder, keys, bytes_max=arguments.max_bytes)
    _print(
        arguments,
        f"mirrored {done.old_size:,} → {done.new_size:,} leaves up to epoch {done.epoch}: "
        f"{done.files_written:,} files, {done.bytes_fetched:,} bytes fetched",
        old_size=done.old_size,
        tree_size=done.new_size,
        epoch=done.epoch,
        files_written=done.files_written,
        bytes_fetched=done.bytes_fetched,
    )
    return EXIT_PROVEN


def _verify(arguments: argparse.Namespace) -> int:
    found = verify_folder(arguments.folder, _read_keys(arguments))
    _print(
        arguments,
        f"proven: {found.origin}, {found.tree_size:,} leaves, epochs {found.first_epoch} to "
        f"{found.last_epoch}, root {found.root.hex()}; {found.files:,} files, {found.kept:,} "
        "earlier checkpoints",
        origin=found.origin,
        tree_size=found.tree_size,
        root=found.root.hex(),
        first_epoch=found.first_epoch,
        last_epoch=found.last_epoch,
        files=found.files,
        kept=found.kept,
    )
    return EXIT_PROVEN


def _monitor(arguments: argparse.Namespace) -> int:
    keys = _read_keys(arguments)
    with closing(open_source(arguments.url)) as source:
        while True:
            status = EXIT_PROVEN
            try:
                look = look_once(source, arguments.state, keys)
            except UndecidableError as error:
                if arguments.once:
                    raise
                # A log that cannot be reached now may be later; only a finding ends the watch.
                status = _report(arguments, "cannot tell", str(error), EXIT_UNDECIDED)
            else:
                _print(
                    arguments,
                    f"consistent: {look.old_size} → {look.tree_size} leaves, epoch {look.epoch}, "
                    f"root {look.root.hex()}",
                    old_size=look.old_size,
                    tree_size=look.tree_size,
                    epoch=look.epoch,
                    root=look.root.hex(),
                )
            if arguments.once:
                return status
            time.sleep(arguments.interval)


def _find_missing(arguments: argparse.Namespace) -> int:
    trust = _need_trust(arguments)
    spool = read_spool_file(arguments.mine)
    answers = None if arguments.collector is None else CollectorAnswers(arguments.collector)
    try:
        with closing(open_source(arguments.log)) as source:
            findings = find_missing(spool, source, trust, answers)
    finally:
        if answers is not None:
            answers.close()
    written = _write_complaints(arguments, findings)
    for finding in findings.bundles:
        bundle = finding.bundle
        _print(
            arguments,
            f"{bundle.digest.hex()} epoch {bundle.epoch} {bundle.kind.name.lower()} "
            f"{bundle.number}: {finding.fate.value}"
            + (f" ({finding.detail})" if finding.detail else ""),
            verdict=finding.fate.value,
            digest=bundle.digest.hex(),
            epoch=bundle.epoch,
            kind=bundle.kind.name.lower(),
            number=bundle.number,
            detail=finding.detail,
            complaint=written.get(bundle.digest),
        )
    for epoch, count in findings.never_sent.items():
        _print(
            arguments,
            f"epoch {epoch}: {count} receipts were never sent, and the epoch is sealed",
            verdict="never sent",
            epoch=epoch,
            receipts=count,
        )
    is_broken = any(finding.fate in BROKEN for finding in findings.bundles)
    return EXIT_DISPROVEN if is_broken else EXIT_PROVEN


def _write_complaints(arguments: argparse.Namespace, findings: Findings) -> dict[bytes, str]:
    written: dict[bytes, str] = {}
    for finding in findings.bundles:
        if finding.complaint:
            digest = finding.bundle.digest
            folder = arguments.out or Path()
            path = folder / f"complaint-{digest.hex()[:16]}.json"
            write_file(path, finding.complaint.encode())
            written[digest] = str(path)
    return written


def _check_complaint(arguments: argparse.Namespace) -> int:
    trust = _need_trust(arguments)
    proven = check_complaint(_read_text(arguments.file, COMPLAINT_CHARACTERS_MAX), trust)
    promise = proven.promise
    _print(
        arguments,
        f"proven: bundle {promise.bundle_digest.hex()} was promised for the seal of epoch "
        f"{promise.sealing_epoch}, which holds {proven.bundle_count} bundles and not this one",
        verdict="proven",
        bundle_digest=promise.bundle_digest.hex(),
        submitter_key=promise.submitter_key.hex(),
        epoch=promise.epoch,
        sealing_epoch=promise.sealing_epoch,
        bundle_count=proven.bundle_count,
        tree_size=proven.tree_size,
    )
    return EXIT_PROVEN


def _epoch(arguments: argparse.Namespace) -> int:
    trust = _need_trust(arguments)
    keys, folder = keys_of_trust(trust), MirrorFolder(arguments.folder)
    head = folder.head(keys)
    if head is None:
        raise UndecidableError(f"{arguments.folder}: got no checkpoint, want a signed one")
    reader = TileReader(head.checkpoint.tree_size, folder.source.read)
    found = read_epoch_leaves(reader, arguments.number)
    if found is None:
        raise UndecidableError(f"epoch {arguments.number}: not computed in this log")
    end = found.first_index + len(found.leaves)
    for kept in (*folder.kept(keys), head):
        if kept.checkpoint.tree_size == end:
            document = format_epoch_document(
                found, broadcaster=trust.broadcaster_account, note=kept.note
            )
            sys.stdout.write(document.decode("ascii"))
            return EXIT_PROVEN
    raise UndecidableError(
        f"epoch {arguments.number}: its checkpoint of {end} leaves was not kept; mirror more often"
    )


def _my_line(arguments: argparse.Namespace) -> int:
    trust = _need_trust(arguments)
    content = fetch_line(
        arguments.url,
        trust,
        account=parse_account(arguments.account),
        epoch=arguments.epoch,
        seed=read_seed(arguments.key_file),
    )
    status = _report_line(arguments, content, trust)
    write_file(arguments.out, content)
    return status


def _check_line(arguments: argparse.Namespace) -> int:
    trust = _need_trust(arguments)
    content = _read_text(arguments.file, LINE_CHARACTERS_MAX).encode()
    return _report_line(arguments, content, trust)


def _report_line(arguments: argparse.Namespace, content: bytes, trust: Trust) -> int:
    proven = check_line_file(content, trust)
    _print(
        arguments,
        f"proven: epoch {proven.epoch}, {proven.line.credited_bytes:,} bytes, charge "
        f"{format_stroops(proven.line.amount_stroops)}, of {proven.total_bytes:,} bytes in all; in "
        f"the log of {proven.tree_size:,} leaves",
        epoch=proven.epoch,
        subject=proven.line.subject.hex(),
        credited_bytes=proven.line.credited_bytes,
        charge_stroops=proven.line.amount_stroops,
        tree_size=proven.tree_size,
    )
    return EXIT_PROVEN


def _rotate(arguments: argparse.Namespace) -> int:
    trust = rotate_key(_need_trust(arguments), arguments.log_key_file, arguments.first_epoch)
    write_file(arguments.out, format_trust(trust).encode())
    key = trust.log_verifier_keys()[-1]
    _print(
        arguments,
        f"log key from epoch {arguments.first_epoch}: {key.public_key.hex()}\n"
        f"verifier key: {format_verifier_key(key)}",
        log_key=key.public_key.hex(),
        vkey=format_verifier_key(key),
        first_epoch=arguments.first_epoch,
    )
    return EXIT_PROVEN


def _read_keys(arguments: argparse.Namespace) -> LogKeys:
    if arguments.trust is not None and arguments.vkey:
        raise UndecidableError("keys: got a trust file and verifier keys, want one of them")
    if arguments.trust is not None:
        return keys_of_trust(_read_trust(arguments.trust))
    return keys_of_texts(arguments.vkey)


def _need_trust(arguments: argparse.Namespace) -> Trust:
    if arguments.trust is None:
        raise UndecidableError("trust: got no file, want your trust.json (--trust)")
    return _read_trust(arguments.trust)


def _read_trust(path: Path) -> Trust:
    try:
        return parse_trust(_read_text(path, TRUST_SIZE_MAX))
    except EvidenceError as error:
        raise UndecidableError(f"trust file {path}: {error}") from error


def _read_text(path: Path, characters_max: int) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read(characters_max + 1)
    except OSError as error:
        raise UndecidableError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UndecidableError(f"{path}: got other bytes, want UTF-8") from None


def _report_fork(arguments: argparse.Namespace, fork: ForkError) -> int:
    places: tuple[Callable[[], Path | None], ...] = (
        lambda: arguments.evidence,
        lambda: arguments.state.parent if "state" in arguments else None,
        lambda: arguments.folder if "folder" in arguments else None,
    )
    folder = next((found for place in places if (found := place()) is not None), Path())
    saved = save_fork(folder, fork)
    return _report(arguments, "fork", f"{fork}; evidence in {saved}", EXIT_DISPROVEN)


def _report(arguments: argparse.Namespace, verdict: str, reason: str, status: int) -> int:
    if arguments.json:
        print(json.dumps({"verdict": verdict, "reason": reason}), flush=True)
    print(f"{_PROGRAM} {arguments.name}: {verdict}: {reason}", file=sys.stderr, flush=True)
    return status


def _print(arguments: argparse.Namespace, text: str, **values: Any) -> None:
    if arguments.json:
        print(json.dumps({"verdict": "proven", **values}), flush=True)
    else:
        print(text, flush=True)
