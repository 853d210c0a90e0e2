"""The command `swarmledger settlement`: look at payouts, cancel, go on after a halt, tend accounts.

    swarmledger settlement status
    swarmledger settlement cancel BATCH --why TEXT [--alone]
    swarmledger settlement resume STOP --why TEXT
    swarmledger settlement claim --out FILE | --keys-dir DIR
    swarmledger settlement give-back --to G… --amount-stroops N --out FILE
    swarmledger settlement preflight
    swarmledger settlement sponsor --funder-seed-file FILE --budget XLM [ACCOUNT…]
    swarmledger settlement channels list|create|fund|retire

Database, sources, passphrase and log key are the worker's settings. Standard output is one JSON
object, standard error is talk. Exit 0 done, 1 not done, 3 from `status` if something stands still.
"""

import argparse
import base64
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.audit.address import format_account, parse_account
from ledger.books.deposits import rank_offers
from ledger.books.errors import BooksError
from ledger.config import ConfigError, Settings, load_settings, need
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction import Readiness
from ledger.evidence.terms import Terms
from ledger.stellar.book_watch import booked_escrow
from ledger.stellar.errors import StellarError
from ledger.stellar.gateway import NATIVE, Gateway
from ledger.stellar.preflight import (
    ACCOUNTS_MAX,
    Preflight,
    candidates_of,
    entry_keys_of,
    readiness_of,
)
from ledger.stellar.seed_files import read_seed
from ledger.stellar.settlement_status import describe_money, list_next_steps
from ledger.stellar.sources import Source, open_source
from ledger.store import halt_store, source_store, stop_store
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory, close_sessions, open_sessions
from ledger.store.epoch_store import load_closing_state
from ledger.store.errors import StoreError
from ledger.store.halt_store import Halt
from ledger.store.instruction_store import newest_computed_epoch
from ledger.store.settlement_states import UNDECIDED, SettlementState
from ledger.store.shard_store import authentic_terms, find_shard, list_shards
from ledger.store.stop_store import Stop

EXIT_STOPPED = 3
XLM_STROOPS = 10_000_000
_CANNOT = (ConfigError, StellarError, EvidenceError, StoreError, BooksError, ValueError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """What the commands work with."""

    settings: Settings
    sessions: SessionFactory
    terms: Terms
    sources: tuple[Source, ...]

    @property
    def gateway(self) -> Gateway:
        return self.sources[0]

    @property
    def passphrase(self) -> str:
        return need("network_passphrase", self.settings.network_passphrase)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger settlement`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        desk = _open_desk(arguments.broadcaster)
        try:
            result: dict[str, Any] = arguments.run(desk, arguments)
        finally:
            for source in desk.sources:
                source.close()
            close_sessions(desk.sessions)
    except _CANNOT as error:
        print(f"swarmledger settlement: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=None if arguments.json else 2))
    return EXIT_STOPPED if arguments.run is _status and result["stops"] else 0


def _open_desk(broadcaster: str | None) -> _Desk:
    settings = load_settings()
    passphrase = need("network_passphrase", settings.network_passphrase)
    need("gateway_url", settings.gateway_url)
    sessions = open_sessions(need("database_url", settings.database_url), pool_size=2)
    with sessions.begin() as session:
        accounts = [shard.account for shard in list_shards(session)]
        wanted = accounts if broadcaster is None else [parse_account(broadcaster)]
        if len(wanted) != 1:
            raise ConfigError(f"--broadcaster: got {len(wanted)} registered, want it named")
        terms = authentic_terms(session, find_shard(session, wanted[0])).value
    sources = tuple(open_source(url, passphrase) for url in settings.gateway_urls)
    return _Desk(settings=settings, sessions=sessions, terms=terms, sources=sources)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger settlement",
        description="Look at payouts, cancel, go on after a halt, tend the accounts.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--broadcaster", metavar="G…", help="whose; default: the only one")
    common.add_argument("--json", action="store_true", help="print JSON on one line")

    def command(name: str, run: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=text)
        made.set_defaults(run=run)
        return made

    command("status", _status, "what is open, what stands still and why")
    cancel = command("cancel", _cancel, "use a batch's slot up, so that it never pays")
    cancel.add_argument("batch", type=int, metavar="BATCH", help="number of an undecided batch")
    cancel.add_argument("--why", required=True, metavar="TEXT", help="what people read")
    cancel.add_argument("--alone", action="store_true", help="owe each of its payees alone")
    resume = command("resume", _resume, "lift a halt after a person has looked")
    resume.add_argument("stop", type=int, metavar="STOP", help="number of a stop, see status")
    resume.add_argument("--why", required=True, metavar="TEXT", help="what was found")
    claim = command("claim", _claim, "claim balances that wait for escrow")
    way = claim.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=Path, metavar="FILE", help="for `stellar sign` and `submit`")
    way.add_argument("--keys-dir", type=Path, metavar="DIR", help="claim at once, these seeds sign")
    claim.add_argument("--valid-seconds", type=int, default=86_400, help="to gather signatures")
    back = command("give-back", _give_back, "return a surplus that no epoch can book")
    back.add_argument("--to", required=True, metavar="G…", help="whose deposit it was")
    back.add_argument("--amount-stroops", required=True, type=int, metavar="N")
    back.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="for `stellar sign` and `submit`"
    )
    back.add_argument("--valid-seconds", type=int, default=86_400, help="to gather signatures")
    command("preflight", _preflight, "look whether payees can be paid; keep what changed")
    sponsor = command("sponsor", _sponsor, "create payees' accounts; offer them trustlines")
    _add_funder(sponsor)
    sponsor.add_argument("--budget", required=True, type=int, metavar="XLM", help="whole XLM")
    sponsor.add_argument("accounts", nargs="*", metavar="G…", help="default: those not ready")
    _add_channels(command("channels", _channels, "channel accounts"))
    return parser


def _add_channels(channels: argparse.ArgumentParser) -> None:
    channels.add_argument("action", choices=["list", "create", "fund", "retire"])
    channels.add_argument("--xlm", type=int, default=20, help="XLM that each one should hold")
    channels.add_argument("--seed-file", type=Path, metavar="FILE", help="retire: the channel's")
    channels.add_argument("--to", metavar="G…", help="retire: who gets its XLM")
    channels.add_argument("--funder-seed-file", type=Path, metavar="FILE", help="who pays the XLM")


def _add_funder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--funder-seed-file", required=True, type=Path, metavar="FILE", help="who pays the XLM"
    )


def _status(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    del arguments
    broadcaster = desk.terms.broadcaster_account
    with desk.sessions() as session:
        batches = store.load_batches(session, broadcaster)
        stops = stop_store.load_stops(session, broadcaster)
        halts = halt_store.load_halts(session, broadcaster)
        marks = source_store.load_marks(session, broadcaster)
        looks = source_store.load_looks(session, broadcaster)
        anchors = store.load_undecided_anchors(session, broadcaster)
        money = describe_money(
            session,
            find_shard(session, broadcaster),
            desk.terms,
            low_balance_stroops=desk.settings.low_balance_stroops,
        )
        next_steps = list_next_steps(session, broadcaster, money)
    counts = {str(state): 0 for state in SettlementState}
    for batch in batches:
        counts[str(batch.state)] += 1
    return {
        "batches": counts,
        "undecided": [
            {
                "batch": batch.leaf.batch_number,
                "state": str(batch.state),
                "attempt": batch.attempt,
                "stroops": batch.leaf.total_stroops,
                "payments": len(batch.leaf.payments),
                "channel": format_account(batch.leaf.channel_account),
                "sequence": batch.leaf.channel_sequence,
                "reason": batch.reason,
            }
            for batch in batches
            if batch.state in UNDECIDED
        ],
        "stops": _stops_of(stops, halts),
        "money": money,
        "anchors": [
            {"epoch": anchor.epoch, "state": str(anchor.state), "attempt": anchor.attempt}
            for anchor in anchors
        ],
        "next_steps": next_steps,
        "sources": [
            {
                "source": name,
                "ledger": mark.sequence,
                "closed_at_s": mark.close_time_s,
                "looks_since": looks.get(name, 0),
            }
            for name, mark in sorted(marks.items())
        ],
    }


def _stops_of(stops: Sequence[Stop], halts: Sequence[Halt]) -> list[dict[str, Any]]:
    """Return what stands still: by a stop that has a number, or for a named reason."""
    return [
        *(
            {
                "stop": stop.id,
                "what": "halt" if stop.is_halt else "pause",
                "where": _where(stop.account),
                "cause": stop.cause,
                "reason": stop.reason,
                "since_ledger": stop.since_ledger,
            }
            for stop in stops
        ),
        *(
            {
                "stop": None,
                "what": "halt",
                "where": "everything",
                "cause": str(halt.name),
                "reason": halt.detail,
                "since_ledger": halt.opened_ledger,
            }
            for halt in halts
        ),
    ]


def _where(account: bytes) -> str:
    return "everything" if account == stop_store.DOMAIN else format_account(account)


def _cancel(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    broadcaster = desk.terms.broadcaster_account
    with desk.sessions.begin() as session:
        batch = store.load_batch(session, broadcaster, arguments.batch)
        if batch is None or batch.state not in UNDECIDED:
            state = "none" if batch is None else str(batch.state)
            raise ValueError(f"batch {arguments.batch}: got {state}, want an undecided one")
        if batch.state != SettlementState.BURNING:
            store.move_batch(
                session,
                broadcaster,
                batch,
                SettlementState.BURNING,
                reason=arguments.why,
                isolates=arguments.alone,
            )
    return {
        "batch": arguments.batch,
        "state": str(SettlementState.BURNING),
        "note": "a ledger decides: paid, or burned and owed again",
    }


def _resume(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    broadcaster = desk.terms.broadcaster_account
    with desk.sessions.begin() as session:
        point = store.fact_progress(session, broadcaster)
        is_lifted = stop_store.lift_stop(
            session,
            broadcaster,
            arguments.stop,
            ledger_sequence=0 if point is None else point.sequence,
            why=arguments.why,
        )
    if not is_lifted:
        raise ValueError(f"stop {arguments.stop}: got none that is open, want one of status")
    return {"stop": arguments.stop, "lifted": True}


def _claim(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar import claiming  # noqa: PLC0415 - loads the SDK
    from ledger.stellar.rotation import describe_rotation, write_cosigned  # noqa: PLC0415

    with desk.sessions.begin() as session:
        shard = find_shard(session, desk.terms.broadcaster_account)
        epoch = newest_computed_epoch(session, shard)
        state = None if epoch is None else load_closing_state(session, shard, epoch)
    offers = {} if state is None else state.claimable
    ranked = rank_offers(offers, desk.terms.broadcaster_account)[: claiming.CLAIMS_MAX]
    balance_ids = [balance_id for balance_id, _ in ranked]
    told: dict[str, Any] = {"claims": [balance_id.hex() for balance_id in balance_ids]}
    if not balance_ids:
        return told
    if arguments.out is not None:
        proposed = claiming.propose_claims(
            desk.gateway,
            desk.terms,
            desk.passphrase,
            balance_ids,
            valid_s=arguments.valid_seconds,
        )
        write_cosigned(arguments.out, proposed)
        return told | {"file": str(arguments.out), "does": describe_rotation(proposed)}
    accounts = (desk.terms.anchor_account, desk.terms.escrow_account)
    seeds = claiming.seeds_of(arguments.keys_dir, accounts)
    tx_hash = claiming.claim(desk.gateway, desk.terms, desk.passphrase, balance_ids, seeds)
    return told | {"tx": tx_hash.hex()}


def _give_back(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar import claiming  # noqa: PLC0415 - loads the SDK
    from ledger.stellar.rotation import describe_rotation, write_cosigned  # noqa: PLC0415

    terms, amount_stroops = desk.terms, arguments.amount_stroops
    asset = (terms.asset_code, terms.asset_issuer)
    view = desk.gateway.account(terms.escrow_account, assets=(asset,))
    with desk.sessions.begin() as session:
        shard = find_shard(session, terms.broadcaster_account)
        epoch = newest_computed_epoch(session, shard)
        state = None if epoch is None else load_closing_state(session, shard, epoch)
        progress = store.fact_progress(session, terms.broadcaster_account)
        if state is None or progress is None:
            raise ValueError("give-back: got no computed epoch, want one to compare with")
        booked = booked_escrow(session, terms, state, progress.sequence)
    surplus = (0 if view is None else view.balances.get(asset, 0)) - booked
    if not 0 < amount_stroops <= surplus:
        raise ValueError(
            f"amount-stroops: got {amount_stroops}, want 1 to {max(0, surplus)}, what escrow "
            f"holds above the books' {booked}"
        )
    proposed = claiming.propose_return(
        desk.gateway,
        terms,
        desk.passphrase,
        parse_account(arguments.to),
        amount_stroops,
        valid_s=arguments.valid_seconds,
    )
    write_cosigned(arguments.out, proposed)
    return {
        "surplus_stroops": surplus,
        "file": str(arguments.out),
        "does": describe_rotation(proposed),
        "then": "the DAO rules `ignore` on its hash, and settlers accept it",
    }


def _preflight(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    del arguments
    log_seed = read_seed(need("log_key_file", desk.settings.log_key_file))
    with desk.sessions.begin() as session:
        shard = find_shard(session, desk.terms.broadcaster_account)
    kept = Preflight(desk.sessions).look(shard, desk.terms, desk.gateway, log_seed)
    not_ready = _not_ready(desk)
    return {
        "notes": kept,
        "not_ready": {
            format_account(account): readiness.name.lower()
            for account, readiness in not_ready.items()
        },
    }


def _not_ready(desk: _Desk) -> dict[bytes, Readiness]:
    """Return who may be paid next and cannot take it now, and why."""
    with desk.sessions.begin() as session:
        shard = find_shard(session, desk.terms.broadcaster_account)
        epoch = newest_computed_epoch(session, shard)
        state = None if epoch is None else load_closing_state(session, shard, epoch)
    if state is None:
        return {}
    seen: dict[bytes, Readiness] = {}
    for candidate in candidates_of(state, desk.terms)[:ACCOUNTS_MAX]:
        keys = entry_keys_of(candidate.account, desk.terms)
        readiness, _ = readiness_of(candidate.account, desk.terms, desk.gateway.entries(keys))
        if readiness != Readiness.READY:
            seen[candidate.account] = Readiness(readiness)
    return seen


def _sponsor(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar.sponsoring import create_accounts, offer_trustline  # noqa: PLC0415

    seed = read_seed(arguments.funder_seed_file)
    chosen = [parse_account(text) for text in arguments.accounts] or list(_not_ready(desk))
    done = create_accounts(
        desk.gateway,
        desk.passphrase,
        chosen,
        seed,
        budget_stroops=arguments.budget * XLM_STROOPS,
    )
    asset = (desk.terms.asset_code, desk.terms.asset_issuer)
    views = {account: desk.gateway.account(account, assets=(asset,)) for account in chosen}
    lines = [
        account
        for account, view in views.items()
        if view is not None and asset not in view.balances and asset != NATIVE
    ]
    return {
        "created": [format_account(account) for account in done.created],
        "left_out": [format_account(account) for account in done.left_out],
        "spent_stroops": done.spent_stroops,
        "trustlines_to_sign": {
            format_account(account): base64.b64encode(
                offer_trustline(desk.gateway, desk.passphrase, desk.terms, account, seed)
            ).decode()
            for account in lines
        },
    }


def _channels(desk: _Desk, arguments: argparse.Namespace) -> dict[str, Any]:
    from ledger.stellar import channels  # noqa: PLC0415 - loads the SDK

    if arguments.action == "list":
        return {
            "channels": [
                {
                    "account": format_account(channel.account),
                    "in_terms": channel.is_in_terms,
                    "xlm_stroops": channel.xlm_stroops,
                    "sequence": channel.sequence,
                    "open_batches": list(channel.open_batches),
                }
                for channel in channels.list_channels(desk.sessions, desk.gateway, desk.terms)
            ]
        }
    if arguments.action == "retire":
        if arguments.seed_file is None or arguments.to is None:
            raise ValueError("retire: got no --seed-file or no --to, want both")
        tx_hash = channels.retire_channel(
            desk.sessions,
            desk.gateway,
            desk.passphrase,
            desk.terms,
            read_seed(arguments.seed_file),
            destination=parse_account(arguments.to),
        )
        return {"tx": tx_hash.hex()}
    if arguments.funder_seed_file is None:
        raise ValueError(f"{arguments.action}: got no --funder-seed-file, want one")
    seed, stroops = read_seed(arguments.funder_seed_file), arguments.xlm * XLM_STROOPS
    if arguments.action == "create":
        return _create_channels(desk, seed, stroops)
    given = channels.fund_channels(
        desk.gateway,
        desk.passphrase,
        desk.terms.channel_accounts,
        seed,
        least_stroops=stroops,
    )
    return {"given_stroops": {format_account(account): n for account, n in given.items()}}


def _create_channels(desk: _Desk, seed: bytes, stroops: int) -> dict[str, Any]:
    """Create the channels that lack; open those that somebody else created first."""
    from ledger.stellar import channels  # noqa: PLC0415 - loads the SDK
    from ledger.stellar.key_sources import open_operator_keys  # noqa: PLC0415
    from ledger.stellar.signing import AccountSigner  # noqa: PLC0415

    gateway, passphrase, terms = desk.gateway, desk.passphrase, desk.terms
    made = channels.create_channels(gateway, passphrase, terms, seed, xlm_stroops=stroops)
    told: dict[str, Any] = {"created": [format_account(account) for account in made]}
    found, others = channels.unopened_channels(desk.sessions, gateway, terms)
    if others:
        told["not_ours"] = [format_account(account) for account in others]
        told["note"] = (
            "other keys sign for them: new terms name other channels "
            "(swarmledger broadcaster terms --add-channel NEW --remove-channel OLD)"
        )
    found = tuple(account for account in found if account not in made)
    if found:
        settings = desk.settings
        keys = open_operator_keys(settings.keys_dir, settings.signer_command)
        channels.fund_channels(gateway, passphrase, found, seed, least_stroops=stroops)
        channels.open_channels(gateway, passphrase, terms, found, AccountSigner(keys))
        told["opened"] = [format_account(account) for account in found]
    return told


if __name__ == "__main__":
    sys.exit(main())
