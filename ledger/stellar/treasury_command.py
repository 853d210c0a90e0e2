"""`swarmledger stellar signers|rotate|sign|submit`: who signs for accounts, and changing that.

`signers` compares the chain with what is wanted; `rotate` proposes the transaction that makes it
so, into a file; each holder of a key looks at it and adds a signature with `sign`; `submit` sends
it once enough have, and looks at the chain again. Registered by `ledger.stellar.command`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ledger.audit.address import format_account, parse_account
from ledger.evidence.terms import parse_terms
from ledger.stellar.errors import NotSubmittedError, TreasuryError
from ledger.stellar.gateway import Gateway
from ledger.stellar.key_sources import add_key_options, open_key
from ledger.stellar.treasury import (
    SignerSet,
    Treasury,
    describe_differences,
    read_signers,
    treasury_of_accounts,
)

if TYPE_CHECKING:
    from ledger.stellar.rotation import Cosigned

VALID_S = 86_400
_POLL_S = 0.2
_FILE_SIZE_MAX = 1 << 20

Run = Callable[[Gateway, argparse.Namespace], dict[str, Any]]


class _Commands(Protocol):
    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_treasury_commands(commands: _Commands, common: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    signers = commands.add_parser(
        "signers", parents=[common], help="who signs for the accounts, and what differs"
    )
    _add_wanted(signers)
    signers.set_defaults(run=_run_signers)
    rotate = commands.add_parser(
        "rotate", parents=[common], help="propose the transaction that makes signers as wanted"
    )
    _add_wanted(rotate)
    rotate.add_argument("--out", required=True, type=Path, metavar="FILE", help="where it goes")
    rotate.add_argument("--valid-seconds", type=int, default=VALID_S, help="to gather signatures")
    rotate.set_defaults(run=_run_rotate)
    sign = commands.add_parser("sign", parents=[common], help="look at a proposal and sign it")
    sign.add_argument("file", type=Path, metavar="FILE")
    add_key_options(sign)
    sign.set_defaults(run=_run_sign)
    submit = commands.add_parser("submit", parents=[common], help="send a proposal that is signed")
    submit.add_argument("file", type=Path, metavar="FILE")
    submit.set_defaults(run=_run_submit)


def add_settler_options(parser: argparse.ArgumentParser, *, is_needed: bool) -> None:
    """Add the options of who the settlers are and how many must agree."""
    parser.add_argument(
        "--settlers", nargs="+", metavar="G…", required=is_needed, help="the settlers' keys"
    )
    parser.add_argument(
        "--threshold", type=int, metavar="M", required=is_needed, help="how many must agree"
    )


def _add_wanted(parser: argparse.ArgumentParser) -> None:
    add_settler_options(parser, is_needed=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--terms", type=Path, metavar="FILE", help="signed terms: whose accounts")
    source.add_argument(
        "--accounts", type=Path, metavar="FILE", help="or what `stellar setup` printed"
    )
    parser.add_argument(
        "--operator-key",
        action="append",
        default=[],
        metavar="ACCOUNT=KEY",
        help="the operator's key for an account, where it is not the account's own",
    )


def wanted_treasury(arguments: argparse.Namespace) -> tuple[Treasury, bytes | None]:
    """Return the treasury that the options want, and the fee account if there is one.

    Raises:
        TreasuryError: They cannot be.
        EvidenceError: A file or address is malformed.
        OSError: A file cannot be read.
    """
    operator_keys = {}
    for pair in arguments.operator_key:
        account, _, key = pair.partition("=")
        operator_keys[parse_account(account)] = parse_account(key)
    if arguments.terms is not None:
        terms = parse_terms(arguments.terms.read_bytes()).value
        cold = (terms.escrow_account, terms.payout_account)
        fee = None if terms.fee_account == bytes(32) else terms.fee_account
        hot = (*terms.channel_accounts, terms.anchor_account)
    else:
        with arguments.accounts.open("rb") as file:
            accounts: Mapping[str, Any] = json.loads(file.read(_FILE_SIZE_MAX))["accounts"]
        cold = (parse_account(accounts["escrow"]), parse_account(accounts["payout"]))
        fee = parse_account(accounts["fee"]) if accounts.get("fee") else None
        hot = (*map(parse_account, accounts["channels"]), parse_account(accounts["anchor"]))
    treasury = treasury_of_accounts(
        cold,
        hot if fee is None else (*hot, fee),
        settlers=map(parse_account, arguments.settlers),
        threshold=arguments.threshold,
        operator_keys=operator_keys,
    )
    return treasury, fee


def describe_treasury(treasury: Treasury, found: Mapping[bytes, SignerSet]) -> dict[str, Any]:
    """Return the signers of all accounts and what differs, as a JSON object."""
    differences = describe_differences(treasury, found)
    return {
        "accounts": {
            format_account(account): {
                "kind": "cold" if account in treasury.cold else "hot",
                "thresholds": list(found[account].thresholds) if account in found else None,
                "signers": {
                    format_account(key): weight
                    for key, weight in sorted(found[account].weights.items())
                }
                if account in found
                else {},
                "differs": list(differences.get(account, ())),
            }
            for account in treasury.accounts
        },
        "is_as_wanted": not differences,
    }


def _run_signers(gateway: Gateway, arguments: argparse.Namespace) -> dict[str, Any]:
    treasury, _fee = wanted_treasury(arguments)
    return describe_treasury(treasury, read_signers(gateway, treasury.accounts))


def _run_rotate(gateway: Gateway, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar.rotation import propose_rotation, write_cosigned  # noqa: PLC0415

    treasury, fee = wanted_treasury(arguments)
    proposed = propose_rotation(
        gateway,
        treasury,
        arguments.passphrase,
        fee_account=fee,
        valid_s=arguments.valid_seconds,
    )
    if proposed is None:
        return {"file": None, "does": [], "tx": None, "signed_by": []}
    write_cosigned(arguments.out, proposed)
    return {"file": str(arguments.out), **describe_cosigned(proposed)}


def describe_cosigned(cosigned: "Cosigned") -> dict[str, Any]:
    """Return what a proposal does and who has signed it, as a JSON object."""
    from ledger.stellar.envelopes import unsigned_transaction  # noqa: PLC0415
    from ledger.stellar.rotation import describe_rotation  # noqa: PLC0415

    transaction = unsigned_transaction(cosigned.transaction())
    return {
        "tx": transaction.tx_hash.hex(),
        "does": describe_rotation(cosigned),
        "signed_by": [format_account(one.key) for one in cosigned.signatures],
    }


def _run_sign(gateway: Gateway, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar.rotation import (  # noqa: PLC0415
        add_signature,
        read_cosigned,
        require_unused,
        write_cosigned,
    )

    cosigned = read_cosigned(arguments.file)
    if cosigned.passphrase != arguments.passphrase:
        raise TreasuryError("passphrase: got another network's file, want the configured one's")
    require_unused(gateway, cosigned)
    holder, key = open_key(arguments)
    signed = add_signature(cosigned, holder, key)
    write_cosigned(arguments.file, signed)
    return {"file": str(arguments.file), **describe_cosigned(signed)}


def _run_submit(gateway: Gateway, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.audit.stellar_xdr import read_transaction  # noqa: PLC0415
    from ledger.stellar.rotation import assemble, read_cosigned, require_unused  # noqa: PLC0415

    cosigned = read_cosigned(arguments.file)
    told = describe_cosigned(cosigned)
    fact = gateway.transaction(bytes.fromhex(told["tx"]))
    if fact is None:
        require_unused(gateway, cosigned)
        envelope = assemble(gateway, cosigned)
        sent_sequence = 0
        while fact is None:
            latest = gateway.latest_ledger()
            if envelope.bounds.passed_by(latest):
                raise NotSubmittedError("rotation: in no ledger up to its bounds")
            if latest.sequence > sent_sequence:
                answer = gateway.submit(envelope.envelope)
                sent_sequence = latest.sequence
                is_refused = answer.status == "rejected"
                if is_refused and gateway.transaction(envelope.tx_hash) is None:
                    raise NotSubmittedError(f"rotation: refused with {answer.code}")
            time.sleep(_POLL_S)
            fact = gateway.transaction(envelope.tx_hash)
    if not read_transaction(fact).succeeded:
        raise NotSubmittedError(f"rotation: {told['tx']} failed in {fact.ledger_sequence}")
    return {**told, "ledger": fact.ledger_sequence}
