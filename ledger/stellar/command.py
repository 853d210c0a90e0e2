"""The command `swarmledger stellar`: set up a settlement domain on a test network, deposit, look.

Standard output is data (`--json`: one object), standard error is talk. Exit 0 done, 1 not done.
Keys are files below `--keys-dir`, mode 0600; none is ever printed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.audit.address import format_account, parse_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import NetworkFact
from ledger.evidence.errors import EvidenceError
from ledger.evidence.units import format_stroops, parse_stroops
from ledger.stellar.errors import StellarError
from ledger.stellar.gateway import START, Gateway
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.seed_files import read_seed
from ledger.stellar.treasury import treasury_of_accounts
from ledger.stellar.treasury_command import (
    add_settler_options,
    add_treasury_commands,
    describe_treasury,
)

if TYPE_CHECKING:
    from ledger.stellar.domain import DomainKeys, SetUp


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger stellar`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    gateway = HorizonGateway(arguments.gateway, arguments.passphrase)
    try:
        gateway.require_network()
        result: dict[str, Any] = arguments.run(gateway, arguments)
    except (StellarError, EvidenceError, ValueError, OSError) as error:
        print(f"swarmledger stellar: {error}", file=sys.stderr)
        return 1
    finally:
        gateway.close()
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger stellar",
        description="Set up a settlement domain on a test network, deposit, and look at accounts.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--gateway", required=True, metavar="URL", help="Horizon's base URL")
    common.add_argument("--passphrase", required=True, help="the network's passphrase")
    common.add_argument("--json", action="store_true", help="print JSON on one line")

    setup = commands.add_parser(
        "setup", parents=[common], help="create accounts, trustlines and the asset; deposit"
    )
    setup.add_argument("--keys-dir", required=True, type=Path, help="folder of the seed files")
    setup.add_argument("--channels", type=int, default=2, help="channel accounts, 1 to 16")
    setup.add_argument(
        "--payees",
        default="0",
        metavar="FILE|N",
        help="a file with one name a line, or a number of payees",
    )
    setup.add_argument("--deposit", default="0", metavar="AMOUNT", help="first deposit, as 12.5")
    setup.add_argument(
        "--asset",
        default="USD",
        metavar="CODE[:G…]",
        help="code of an asset to issue; or code and issuer of one that is there",
    )
    setup.add_argument("--fee-account", action="store_true", help="make a fee account too")
    add_settler_options(setup, is_needed=False)
    setup.set_defaults(run=_run_setup)
    add_treasury_commands(commands, common)

    pay_in = commands.add_parser("deposit", parents=[common], help="pay from broadcaster to escrow")
    pay_in.add_argument("--seed-file", required=True, type=Path, help="the broadcaster's seed")
    pay_in.add_argument("--escrow", required=True, metavar="G…", help="the escrow account")
    pay_in.add_argument("--issuer", required=True, metavar="G…", help="the asset's issuer")
    pay_in.add_argument("--asset", default="USD", metavar="CODE", help="code of the asset")
    pay_in.add_argument("--amount", required=True, metavar="AMOUNT", help="as 12.5")
    pay_in.set_defaults(run=_run_deposit)

    balances = commands.add_parser("balances", parents=[common], help="balances of accounts")
    balances.add_argument("accounts", nargs="+", metavar="G…")
    balances.set_defaults(run=_run_balances)

    payments = commands.add_parser(
        "payments", parents=[common], help="payments out of an account, as the network has them"
    )
    payments.add_argument("--account", required=True, metavar="G…", help="for example payout's")
    payments.set_defaults(run=_run_payments)
    return parser


def _run_setup(gateway: HorizonGateway, arguments: argparse.Namespace) -> dict[str, Any]:
    # Loaded here, as below: who only looks at accounts need not wait for the SDK.
    from ledger.stellar.domain import DomainKeys, set_up_domain  # noqa: PLC0415

    names = _payee_names(arguments.payees)
    code, _, issuer = arguments.asset.partition(":")
    keys = DomainKeys.load_or_make(
        arguments.keys_dir, arguments.channels, names, with_fee=arguments.fee_account
    )
    made = set_up_domain(
        gateway,
        arguments.passphrase,
        keys,
        asset_code=code,
        asset_issuer=parse_account(issuer) if issuer else None,
        deposit_stroops=_amount(arguments.deposit),
    )
    treasury = _hand_over(gateway, arguments, keys, made) if arguments.settlers else {}
    return {
        "passphrase": arguments.passphrase,
        "asset": {"code": made.asset_code, "issuer": format_account(made.issuer)},
        "accounts": _accounts_of(made),
        "treasury": treasury,
        "operator_keys_dir": str(arguments.keys_dir / "operator"),
        "deposited_stroops": _amount(arguments.deposit),
        "deposit_tx": made.deposit_tx.hex() if made.deposit_tx else None,
        "ledger": gateway.latest_ledger().sequence,
    }


def _hand_over(
    gateway: Gateway, arguments: argparse.Namespace, keys: "DomainKeys", made: "SetUp"
) -> dict[str, Any]:
    """Give the accounts their settlers, and say what the chain has afterwards."""
    from ledger.stellar.treasury_setup import set_up_signers  # noqa: PLC0415

    fee = () if made.fee is None else (made.fee,)
    treasury = treasury_of_accounts(
        (made.escrow, made.payout),
        (*made.channels, made.anchor, *fee),
        settlers=map(parse_account, arguments.settlers),
        threshold=arguments.threshold or 0,
    )
    found = set_up_signers(
        gateway,
        arguments.passphrase,
        treasury,
        payer_seed=keys.issuer,
        account_seeds=keys.operator_seeds,
    )
    return describe_treasury(treasury, found)


def _accounts_of(made: "SetUp") -> dict[str, Any]:
    single = ("issuer", "broadcaster", "escrow", "payout", "anchor")
    accounts: dict[str, Any] = {name: format_account(getattr(made, name)) for name in single}
    accounts["fee"] = None if made.fee is None else format_account(made.fee)
    accounts["channels"] = [format_account(channel) for channel in made.channels]
    accounts["payees"] = {name: format_account(key) for name, key in made.payees.items()}
    return accounts


def _run_deposit(gateway: HorizonGateway, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar.domain import deposit  # noqa: PLC0415

    amount_stroops = _amount(arguments.amount)
    tx_hash = deposit(
        gateway,
        arguments.passphrase,
        read_seed(arguments.seed_file),
        escrow=parse_account(arguments.escrow),
        asset=(arguments.asset, parse_account(arguments.issuer)),
        amount_stroops=amount_stroops,
    )
    return {"tx": tx_hash.hex(), "stroops": amount_stroops}


def _run_balances(gateway: HorizonGateway, arguments: argparse.Namespace) -> dict[str, Any]:
    return {"accounts": {text: _balances(gateway, text) for text in arguments.accounts}}


def _balances(gateway: Gateway, text: str) -> Mapping[str, int] | None:
    view = gateway.account(parse_account(text))
    if view is None:
        return None
    return {
        code if issuer == bytes(32) else f"{code}:{format_account(issuer)}": stroops
        for (code, issuer), stroops in view.balances.items()
    }


def _run_payments(gateway: HorizonGateway, arguments: argparse.Namespace) -> dict[str, Any]:
    account = parse_account(arguments.account)
    payments: list[dict[str, Any]] = []
    totals: dict[str, int] = {}
    for fact in all_transactions_of(gateway, account):
        transaction = read_transaction(fact)
        for movement in transaction.movements:
            moves_out = movement.source == account and movement.destination != account
            if not (moves_out and movement.is_exact):
                continue
            issuer = "" if movement.is_native else format_account(movement.asset_issuer)
            asset = f"{movement.asset_code}:{issuer}".rstrip(":")
            totals[asset] = totals.get(asset, 0) + movement.amount_stroops
            payments.append(
                {
                    "account": format_account(movement.destination),
                    "stroops": movement.amount_stroops,
                    "amount": format_stroops(movement.amount_stroops),
                    "asset": asset,
                    "tx": transaction.tx_hash.hex(),
                    "ledger": fact.ledger_sequence,
                }
            )
    return {"account": arguments.account, "totals_stroops": totals, "payments": payments}


def all_transactions_of(gateway: Gateway, account: bytes) -> list[NetworkFact]:
    """Return every transaction of an account, oldest first.

    Raises:
        GatewayError: The network gave no usable answer.
    """
    facts: list[NetworkFact] = []
    place = START
    while True:
        page = gateway.transactions_of(account, after=place)
        facts.extend(page.facts)
        place = max(place, page.through)
        if page.is_last:
            return facts


def _payee_names(text: str) -> list[str]:
    if text.isascii() and text.isdigit():
        return [f"payee-{number}" for number in range(int(text))]
    names = [line.strip() for line in Path(text).read_text("utf-8").splitlines() if line.strip()]
    if len(set(names)) != len(names):
        raise ValueError(f"payees: got a name twice in {text}, want each once")
    return names


def _amount(text: str) -> int:
    """Read an amount with up to seven decimals into stroops."""
    whole, _, rest = text.partition(".")
    stroops = parse_stroops(f"{whole or '0'}.{rest:0<7}")
    if stroops < 0:
        raise ValueError(f"amount: got {stroops}, want 0 or more")
    return stroops


if __name__ == "__main__":
    sys.exit(main())
