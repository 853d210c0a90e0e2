"""The command `swarmledger settler`: run a settler, look at its folder, accept, cancel.

    swarmledger settler run --api URL --gateway SOURCE --trust FILE --key-file FILE --state DIR
    swarmledger settler together --audit-dir DIR --exchange DIR …   without the operator
    swarmledger settler status --state DIR --trust FILE
    swarmledger settler accept --state DIR TX --note TEXT
    swarmledger settler cancel --state DIR --trust FILE --key-file FILE --out DIR BATCH

Standard output has one JSON line a round that changed something, standard error is talk. Exit 0
after SIGINT or SIGTERM, 1 when the settler cannot start, 3 after `--once` when it refuses anything.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.audit.trust import TRUST_SIZE_MAX, Trust, parse_trust
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import payout_hash
from ledger.logs import configure_logs
from ledger.stellar.cancel_orders import SUFFIX, require_order, sign_order
from ledger.stellar.errors import GatewayError, SettlerError, StellarError
from ledger.stellar.key_sources import add_key_options, open_key
from ledger.stellar.settler import Finding, Settler
from ledger.stellar.settler_bumps import DAY_MAX_STROOPS, SettlerBumps
from ledger.stellar.settler_chain import OwnChain
from ledger.stellar.settler_client import OperatorClient
from ledger.stellar.settler_process import Round, SettlerRounds
from ledger.stellar.settler_records import SettlerFolder, write_whole
from ledger.stellar.settler_together import ExchangeFolder, TogetherRounds, fetch_from
from ledger.stellar.sources import open_source

EXIT_REFUSED = 3
_CANNOT_START = (StellarError, EvidenceError, ValueError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger settler`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    configure_logs(process="settler")
    try:
        code: int = arguments.run(arguments)
    except _CANNOT_START as error:
        print(f"swarmledger settler: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger settler",
        description="Recompute what the operator wants to pay, and sign that or nothing.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", required=True, type=Path, metavar="DIR", help="its own folder")
    run = commands.add_parser("run", parents=[common], help="sign what the operator wants signed")
    run.add_argument("--api", required=True, metavar="URL", help="base URL of the operator's API")
    _add_round_options(run)
    run.set_defaults(run=_run)
    together = commands.add_parser(
        "together", parents=[common], help="pay what the log has planned, without the operator"
    )
    together.add_argument(
        "--audit-dir", required=True, type=Path, metavar="DIR", help="files epoch-N.audit"
    )
    together.add_argument(
        "--exchange", required=True, type=Path, metavar="DIR", help="shared with other settlers"
    )
    together.add_argument(
        "--fee-day-max-stroops",
        type=int,
        default=DAY_MAX_STROOPS,
        metavar="N",
        help="most that raised bids may cost in a day",
    )
    _add_round_options(together)
    together.set_defaults(run=_run_together)
    status = commands.add_parser("status", parents=[common], help="what the folder says")
    status.add_argument("--trust", required=True, type=Path, metavar="FILE", help="own trust.json")
    status.set_defaults(run=_status)
    accept = commands.add_parser(
        "accept", parents=[common], help="say that a transaction of our accounts is known"
    )
    accept.add_argument("tx", metavar="TX", help="its hash, 64 hexadecimal digits")
    accept.add_argument("--note", required=True, help="why; kept with it")
    accept.set_defaults(run=_accept)
    cancel = commands.add_parser(
        "cancel", parents=[common], help="order, as the DAO or the operator, that a batch be burned"
    )
    cancel.add_argument("batch", type=int, metavar="BATCH", help="number of a planned batch")
    cancel.add_argument("--trust", required=True, type=Path, metavar="FILE", help="own trust.json")
    cancel.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the order")
    add_key_options(cancel)
    cancel.set_defaults(run=_cancel)
    return parser


def _add_round_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gateway",
        required=True,
        metavar="SOURCE[,SOURCE]",
        help="own sources of the chain, horizon:URL or rpc:URL; all must agree",
    )
    parser.add_argument("--trust", required=True, type=Path, metavar="FILE", help="own trust.json")
    add_key_options(parser)
    parser.add_argument("--margin-ledgers", type=int, default=2, help="how far sources may lag")
    parser.add_argument("--poll-seconds", type=float, default=2.0, help="between two rounds")
    parser.add_argument("--once", action="store_true", help="one round")


def read_trust(path: Path) -> Trust:
    """Return a trust file.

    Raises:
        OSError: It cannot be read.
        EvidenceError: It is malformed.
    """
    with path.open("rb") as file:
        return parse_trust(file.read(TRUST_SIZE_MAX + 1).decode())


def _run(arguments: argparse.Namespace) -> int:
    trust = read_trust(arguments.trust)
    holder, key = open_key(arguments)
    client = OperatorClient(arguments.api, trust, key, holder)
    with _sources(arguments, trust) as chain:
        settler = Settler(
            trust=trust,
            key=key,
            holder=holder,
            chain=chain,
            folder=SettlerFolder(arguments.state),
            fetch_audit=client.fetch_audit,
        )
        rounds = SettlerRounds(settler, client, trust.network_id)
        last = _repeat(arguments, lambda: describe_round(rounds.run()))
    client.close()
    is_clean = not (last["refused"] or last["halt"] or last["problem"])
    return 0 if is_clean or not arguments.once else EXIT_REFUSED


def _run_together(arguments: argparse.Namespace) -> int:
    trust = read_trust(arguments.trust)
    holder, key = open_key(arguments)
    folder = SettlerFolder(arguments.state)
    with _sources(arguments, trust) as chain:
        settler = Settler(
            trust=trust,
            key=key,
            holder=holder,
            chain=chain,
            folder=folder,
            fetch_audit=fetch_from(arguments.audit_dir),
            orders=[arguments.exchange],
        )
        exchange = ExchangeFolder(arguments.exchange)
        passphrase = trust.network_passphrase
        day_max_stroops = arguments.fee_day_max_stroops
        bumps = SettlerBumps(settler, chain, folder, passphrase, day_max_stroops=day_max_stroops)
        rounds = TogetherRounds(settler, chain, exchange, passphrase, bumps)
        last = _repeat(arguments, lambda: _together(rounds))
    is_clean = not (last["refused"] or last["halt"] or last["problem"])
    return 0 if is_clean or not arguments.once else EXIT_REFUSED


def _together(rounds: TogetherRounds) -> dict[str, Any]:
    try:
        made = rounds.run()
    except GatewayError as error:
        return {"refused": {}, "halt": None, "problem": str(error)}
    return {
        "verified_through": made.verified_through,
        "open_batches": made.open_batches,
        "signed": made.signed,
        "refused": {
            str(number): {"reason": finding.reason, "detail": finding.detail}
            for number, finding in made.refused.items()
        },
        "halt": _describe_halt(made.halt),
        "problem": "",
    }


@contextmanager
def _sources(arguments: argparse.Namespace, trust: Trust) -> Iterator[OwnChain]:
    sources = [
        open_source(text.strip(), trust.network_passphrase)
        for text in arguments.gateway.split(",")
        if text.strip()
    ]
    try:
        yield OwnChain(sources, margin_ledgers=arguments.margin_ledgers)
    finally:
        for source in sources:
            source.close()


def _repeat(
    arguments: argparse.Namespace, make_round: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Do rounds until a signal comes, telling what changed; returns the last one."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    told: dict[str, Any] = {}
    while True:
        document = make_round()
        if document != told:
            print(json.dumps(document), flush=True)
            told = document
        if arguments.once or stop.wait(arguments.poll_seconds):
            return document


def describe_round(made: Round) -> dict[str, Any]:
    """Return a round as a JSON object."""
    return {
        "verified_through": made.verified_through,
        "signed": [tx_hash.hex() for tx_hash in made.signed],
        "refused": {
            tx_hash.hex(): {"reason": finding.reason, "detail": finding.detail}
            for tx_hash, finding in made.refused.items()
        },
        "halt": _describe_halt(made.halt),
        "problem": made.problem,
    }


def _describe_halt(halt: Finding | None) -> dict[str, str] | None:
    return None if halt is None else {"reason": halt.reason, "detail": halt.detail}


def _status(arguments: argparse.Namespace) -> int:
    folder = SettlerFolder(arguments.state)
    epochs = folder.load_epochs(read_trust(arguments.trust).first_epoch)
    document = {
        "verified_through": epochs[-1].epoch if epochs else None,
        "tree_size": epochs[-1].checkpoint.tree_size if epochs else 0,
        "batches": sum(len(epoch.payouts) for epoch in epochs),
        "unexplained": {key.hex(): text for key, text in folder.load_unexplained().items()},
        "accepted": sorted(tx_hash.hex() for tx_hash in folder.load_accepted()),
    }
    print(json.dumps(document))
    return EXIT_REFUSED if document["unexplained"] else 0


def _accept(arguments: argparse.Namespace) -> int:
    tx_hash = bytes.fromhex(arguments.tx)
    if len(tx_hash) != 32:
        raise ValueError(f"tx: got {len(tx_hash)} bytes, want 32")
    SettlerFolder(arguments.state).accept(tx_hash, arguments.note)
    print(json.dumps({"accepted": tx_hash.hex()}))
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    trust = read_trust(arguments.trust)
    holder, key = open_key(arguments)
    epochs = SettlerFolder(arguments.state).load_epochs(trust.first_epoch)
    leaves = [leaf for epoch in epochs for leaf in epoch.payouts]
    leaf = next((one for one in leaves if one.batch_number == arguments.batch), None)
    if leaf is None:
        raise SettlerError(f"batch: got {arguments.batch}, want one of {len(leaves)} planned")
    order = sign_order(holder, key, trust, leaf)
    require_order(order, trust, leaf, epoch=trust.first_epoch + len(epochs))
    path = arguments.out / f"{payout_hash(leaf).hex()}{SUFFIX}"
    write_whole(path, [order])
    print(json.dumps({"cancelled": arguments.batch, "file": str(path)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
