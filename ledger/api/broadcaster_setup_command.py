"""The commands `swarmledger broadcaster init` and `terms`: what a broadcaster signs and shows.

    init    keys, first terms, binding of the issuing key, deposit link and QR codes, stellar.toml,
            and the settings of the issuing service, all in one private folder
    terms   new terms from old ones: another price, key, channel, window, collector

Operator, escrow, payout and anchor account are the other side's: their addresses are given. What is
wrong in the arguments is said in one line, with exit status 2, before anything is written. Not
here: issuing (`broadcaster_command`), the DAO's activation of the contract.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from contracts.registry import UnknownRuleError, load_standard
from ledger.api.deposit_papers import (
    deposit_link,
    deposit_notes,
    format_stellar_toml,
    show_qr_code,
    write_qr_codes,
)
from ledger.audit.address import format_account, parse_account
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import generate_seed, is_valid_key, network_id_of, public_key_of
from ledger.evidence.terms import (
    ADDRESS_DELAY_S,
    CHALLENGE_WINDOW_S,
    SUSPENSE_REFUND_S,
    Terms,
    parse_terms,
    require_valid_terms,
    sign_terms,
)
from ledger.evidence.units import AMOUNT_MAX, QUANTITY_BYTES, STROOPS_PER_TOKEN, format_stroops
from ledger.stellar.errors import StellarError
from ledger.stellar.seed_files import read_seed

EPOCHS_MAX: Final = (1 << 32) - 1
PRIVATE: Final = 0o700

_FIXED: Final = frozenset(
    {
        "network_id", "broadcaster_account", "genesis_s", "epoch_length_s", "price_version",
        "issuing_key", "channel_accounts", "cdns", "first_epoch", "log_origin", "asset_code",
        "asset_issuer", "escrow_account", "payout_account", "anchor_account", "grace_s",
    }
)  # fmt: skip
"""Fields of terms that `--set` does not reach: they stay, or have an option of their own."""


class WrongInputError(Exception):
    """An argument cannot be; the message is one line."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the fault and exit with 2."""
        print(f"{self.prog}: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2)


# --- init -----------------------------------------------------------------------------------------


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.add_argument("folder", type=Path, help="a new folder, made private")
    parser.add_argument("--passphrase", required=True, help="the Stellar network's")
    parser.add_argument(
        "--account-key", type=Path, metavar="FILE", help="seed of the account; default: a new one"
    )
    for name, text in (
        ("escrow", "holds deposits"),
        ("payout", "pays payees"),
        ("anchor", "anchors checkpoints"),
    ):
        parser.add_argument(f"--{name}", required=True, metavar="G…", help=f"account that {text}")
    parser.add_argument(
        "--channel", action="append", default=[], metavar="G…", help="channel account; 1 to 16"
    )
    parser.add_argument("--fee-account", metavar="G…", help="pays raised bids; default: none")
    parser.add_argument("--asset", required=True, metavar="CODE[:G…]", help="XLM, or code:issuer")
    parser.add_argument("--price", required=True, metavar="AMOUNT", help="of --per, as 0.01")
    parser.add_argument(
        "--per", default="GB", metavar="UNIT", help=f"{', '.join(QUANTITY_BYTES)}, or bytes"
    )
    parser.add_argument("--fee-ppm", type=int, default=0, help="network fee, parts per million")
    parser.add_argument("--rules", default="traffic", help="standard rule set, or its digest")
    parser.add_argument("--log-key", required=True, metavar="HEX", help="the operator's log key")
    parser.add_argument("--log-origin", required=True, metavar="NAME", help="name of the log")
    parser.add_argument("--collector", required=True, metavar="URL", help="where bundles go")
    parser.add_argument("--genesis", required=True, type=int, metavar="UNIX_S")
    parser.add_argument("--epoch-seconds", type=int, default=3_600)
    parser.add_argument("--grace-seconds", type=int, default=300)
    parser.add_argument("--payout-threshold", default="1", metavar="AMOUNT")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="another value of the terms: challenge_window_s=3600, fee_bid_max_stroops=…",
    )
    parser.add_argument("--budget", default="0", metavar="AMOUNT", help="of all entitlements")
    parser.add_argument("--daily-cap", default="0", metavar="AMOUNT", help="of a day's")
    parser.add_argument("--low-balance", default="0", metavar="AMOUNT", help="alarm at this")
    parser.add_argument("--deposit", default="0", metavar="AMOUNT", help="what the link asks for")
    parser.add_argument("--organisation", default="", metavar="NAME", help="for stellar.toml")
    parser.add_argument("--home-url", default="", metavar="URL", help="for stellar.toml")
    parser.add_argument("--web-auth", default="", metavar="URL", help="SEP-10; default: the API's")
    parser.add_argument("--signing-key", metavar="G…", help="of SEP-10; default: the API's")
    parser.add_argument("--no-qr", action="store_true", help="draw no QR code in the terminal")
    parser.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> None:
    account_seed = _seed(arguments.account_key) if arguments.account_key else generate_seed()
    issuing_seed = generate_seed()
    terms = _checked(lambda: _first_terms(arguments, account_seed, issuing_seed))
    changes = _set_fields(arguments.changes, terms)
    terms = _checked(lambda: replace(terms, **changes))
    amounts = {
        name: _amount(name, getattr(arguments, name.replace("-", "_")))
        for name in ("budget", "daily-cap", "low-balance", "deposit")
    }
    signing_key = _account("signing-key", arguments.signing_key) if arguments.signing_key else None
    signed = sign_terms(terms, issuing_seed)
    binding = _bind(terms, account_seed, issuing_seed, serial=1)
    link = deposit_link(terms, arguments.passphrase, amount_stroops=amounts["deposit"])
    toml = format_stellar_toml(
        terms,
        arguments.passphrase,
        organisation=arguments.organisation,
        home_url=arguments.home_url,
        signing_key=signing_key,
        web_auth_endpoint=arguments.web_auth,
    )
    folder = _make_folder(arguments.folder)
    if not arguments.account_key:
        _write(folder / "broadcaster.seed", f"{account_seed.hex()}\n".encode())
    _write(folder / "issuing.seed", f"{issuing_seed.hex()}\n".encode())
    _write(folder / "broadcaster.terms", signed.raw)
    _write(folder / "issuing.binding", binding.raw)
    _write(folder / "stellar.toml", toml.encode())
    png, svg = write_qr_codes(link, folder, "deposit")
    settings = _settings(terms, amounts)
    _write(folder / "broadcaster.json", (json.dumps(settings, indent=2) + "\n").encode())
    muxed = deposit_link(
        terms, arguments.passphrase, amount_stroops=amounts["deposit"], is_muxed=True
    )
    notes = deposit_notes(terms)
    if not arguments.no_qr:
        show_qr_code(link, sys.stderr)
    print(json.dumps(settings | {
        "folder": str(folder),
        "terms_digest": signed.digest.hex(),
        "deposit": {
            "destination": notes.escrow, "memo_id": str(notes.deposit_id),
            "muxed": notes.muxed, "link": link, "link_muxed": muxed,
            "png": str(png), "svg": str(svg),
        },
    }))  # fmt: skip


def _first_terms(arguments: argparse.Namespace, account_seed: bytes, issuing_seed: bytes) -> Terms:
    asset_code, asset_issuer = _asset(arguments.asset)
    fee_account = _account("fee-account", arguments.fee_account) if arguments.fee_account else None
    least = _amount("payout-threshold", arguments.payout_threshold)
    return Terms(
        network_id=network_id_of(arguments.passphrase),
        broadcaster_account=public_key_of(account_seed),
        issuing_key=public_key_of(issuing_seed),
        log_key=_key("log-key", arguments.log_key),
        log_origin=arguments.log_origin,
        collector_url=arguments.collector,
        asset_code=asset_code,
        asset_issuer=asset_issuer,
        escrow_account=_account("escrow", arguments.escrow),
        payout_account=_account("payout", arguments.payout),
        anchor_account=_account("anchor", arguments.anchor),
        rules_digest=_rules(arguments.rules),
        price_version=1,
        price_stroops=_amount("price", arguments.price),
        price_quantity_bytes=_quantity(arguments.per),
        fee_ppm=arguments.fee_ppm,
        genesis_s=arguments.genesis,
        epoch_length_s=arguments.epoch_seconds,
        grace_s=arguments.grace_seconds,
        correction_epochs=24,
        first_epoch=0,
        last_epoch=EPOCHS_MAX,
        payout_threshold_stroops=least,
        fee_bid_stroops=100,
        attempt_window_ledgers=60,
        attempt_window_s=360,
        batch_payments=100,
        fee_account=fee_account or bytes(32),
        fee_bid_max_stroops=10_000,
        challenge_window_s=CHALLENGE_WINDOW_S,
        cash_out_least_stroops=max(1, min(least, STROOPS_PER_TOKEN // 100)),
        address_delay_s=ADDRESS_DELAY_S,
        suspense_refund_s=SUSPENSE_REFUND_S,
        channel_accounts=_channels(_account("channel", text) for text in arguments.channel),
        cdns=(),
    )


def _settings(terms: Terms, amounts: dict[str, int]) -> dict[str, Any]:
    """What `serve` and the operator are to be told; amounts in stroops."""
    return {
        "account": format_account(terms.broadcaster_account),
        "issuing_key": terms.issuing_key.hex(),
        "escrow": format_account(terms.escrow_account),
        "asset": _asset_text(terms),
        "price": f"{format_stroops(terms.price_stroops)} per {terms.price_quantity_bytes} bytes",
        "rules_digest": terms.rules_digest.hex(),
        "budget_stroops": amounts["budget"],
        "daily_stroops": amounts["daily-cap"],
        "low_balance_stroops": amounts["low-balance"],
    }


# --- terms ----------------------------------------------------------------------------------------


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `terms`."""
    parser.add_argument("old", type=Path, help="the terms in force")
    parser.add_argument("--first-epoch", type=int, required=True, help="first one of the new terms")
    parser.add_argument("--issuing-key", type=Path, required=True, metavar="FILE", help="in force")
    parser.add_argument("--price", metavar="AMOUNT", help="raises the price version")
    parser.add_argument("--per", metavar="UNIT", help="what the price is for")
    parser.add_argument(
        "--new-issuing-key", type=Path, metavar="FILE", help="signs from now on; see --binding-out"
    )
    parser.add_argument("--account-key", type=Path, metavar="FILE", help="binds a new issuing key")
    parser.add_argument("--binding-out", type=Path, metavar="FILE", help="a new file")
    parser.add_argument("--add-channel", action="append", default=[], metavar="G…")
    parser.add_argument("--remove-channel", action="append", default=[], metavar="G…")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="another value: attempt_window_s=600, collector_url=…, log_key=HEX, fee_account=G…",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    parser.set_defaults(run=_terms)


def _terms(arguments: argparse.Namespace) -> None:
    old = _read_terms(arguments.old)
    seed = _seed(arguments.issuing_key)
    if public_key_of(seed) != old.value.issuing_key:
        raise WrongInputError(
            f"issuing-key: got the seed of {public_key_of(seed).hex()}, "
            f"want that of the old terms' {old.value.issuing_key.hex()}"
        )
    new_seed = _seed(arguments.new_issuing_key) if arguments.new_issuing_key else None
    account_seed = _account_seed(arguments, old.value) if new_seed else None
    terms = _checked(lambda: _next_terms(arguments, old.value, new_seed))
    signed = sign_terms(terms, new_seed or seed)
    if signed.body == old.body:
        raise WrongInputError("terms: got no change, want one")
    for path in (arguments.out, arguments.binding_out):
        if path is not None and path.exists():
            raise WrongInputError(f"{path}: is there already, want a new file")
    _write(arguments.out, signed.raw)
    if new_seed and account_seed:
        binding = _bind(terms, account_seed, new_seed, serial=1)
        _write(arguments.binding_out, binding.raw)
    changed = {
        name: _shown(getattr(terms, name))
        for name in Terms.__dataclass_fields__
        if getattr(terms, name) != getattr(old.value, name)
    }
    print(json.dumps({"terms_digest": signed.digest.hex(), "changed": changed}))


def _account_seed(arguments: argparse.Namespace, old: Terms) -> bytes:
    if not arguments.account_key or not arguments.binding_out:
        raise WrongInputError(
            "new-issuing-key: got no --account-key or --binding-out, want both: a key counts once "
            "the account has bound it"
        )
    seed = _seed(arguments.account_key)
    if public_key_of(seed) != old.broadcaster_account:
        raise WrongInputError(
            f"account-key: got the seed of {format_account(public_key_of(seed))}, "
            f"want that of {format_account(old.broadcaster_account)}"
        )
    return seed


def _next_terms(arguments: argparse.Namespace, old: Terms, new_seed: bytes | None) -> Terms:
    if not old.first_epoch < arguments.first_epoch <= old.last_epoch:
        raise WrongInputError(
            f"first-epoch: got {arguments.first_epoch}, "
            f"want {old.first_epoch + 1} to {old.last_epoch}"
        )
    changes = {"first_epoch": arguments.first_epoch, **_set_fields(arguments.changes, old)}
    if arguments.price is not None:
        changes["price_stroops"] = _amount("price", arguments.price)
    if arguments.per is not None:
        changes["price_quantity_bytes"] = _quantity(arguments.per)
    prices = ("price_stroops", "price_quantity_bytes", "fee_ppm")
    if any(changes.get(name, getattr(old, name)) != getattr(old, name) for name in prices):
        changes["price_version"] = old.price_version + 1
    if new_seed is not None:
        changes["issuing_key"] = public_key_of(new_seed)
    removed = {_account("remove-channel", text) for text in arguments.remove_channel}
    if unknown := sorted(removed - set(old.channel_accounts)):
        raise WrongInputError(
            f"remove-channel: got {format_account(unknown[0])}, want one of the old terms'"
        )
    added = {_account("add-channel", text) for text in arguments.add_channel}
    changes["channel_accounts"] = _channels((set(old.channel_accounts) - removed) | added)
    return replace(old, **changes)


def _set_fields(texts: Iterable[str], old: Terms) -> dict[str, Any]:
    """Return the fields that `--set FIELD=VALUE` gives, each of the kind that it has."""
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in _FIXED or name not in Terms.__dataclass_fields__:
            raise WrongInputError(f"set: got {text[:80]!r}, want FIELD=VALUE of a field of terms")
        changes[name] = _field(name, value, getattr(old, name))
    return changes


def _field(name: str, text: str, old: Any) -> Any:
    if isinstance(old, int):
        return _whole(name, text)
    if isinstance(old, bytes):
        return _account(name, text) if text.startswith("G") else _key(name, text)
    return text


# --- values ---------------------------------------------------------------------------------------


def _checked(make: Callable[[], Terms]) -> Terms:
    """Return terms that can be written; what is wrong with them is one line."""
    try:
        terms = make()
        parse_terms(sign_terms(terms, bytes(32)).raw)
    except EvidenceError as error:
        raise WrongInputError(str(error)) from None
    return terms


def _read_terms(path: Path) -> Signed[Terms]:
    try:
        signed = parse_terms(path.read_bytes())
        require_valid_terms(signed)
    except (OSError, EvidenceError) as error:
        raise WrongInputError(f"{path}: {error}") from None
    return signed


def _seed(path: Path) -> bytes:
    try:
        return read_seed(path)
    except StellarError as error:
        raise WrongInputError(str(error)) from None


def _account(name: str, text: str) -> bytes:
    try:
        account = parse_account(text)
    except EvidenceError:
        account = b""
    if not is_valid_key(account):
        raise WrongInputError(f"{name}: got {text[:60]!r}, want a Stellar address G…")
    return account


def _key(name: str, text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise WrongInputError(f"{name}: got {text[:80]!r}, want 64 hexadecimal digits")
    return key


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise WrongInputError(f"{name}: got {text[:40]!r}, want a whole number")
    return int(text)


def _amount(name: str, text: str) -> int:
    whole, _, rest = text.partition(".")
    is_number = all(part.isascii() and part.isdigit() for part in (whole or "0", rest or "0"))
    if not is_number or len(rest) > 7 or not text.strip("."):
        raise WrongInputError(f"{name}: got {text[:40]!r}, want an amount such as 12.5")
    stroops = int(whole or "0") * STROOPS_PER_TOKEN + int(f"{rest:0<7}")
    if stroops > AMOUNT_MAX:
        raise WrongInputError(f"{name}: got {text[:40]!r}, want at most {AMOUNT_MAX} stroops")
    return stroops


def _quantity(text: str) -> int:
    if text in QUANTITY_BYTES:
        return QUANTITY_BYTES[text]
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise WrongInputError(
            f"per: got {text[:40]!r}, want {', '.join(QUANTITY_BYTES)}, or a number of bytes"
        )
    return int(text)


def _asset(text: str) -> tuple[str, bytes]:
    code, colon, issuer = text.partition(":")
    if text == "XLM":
        return "XLM", bytes(32)
    if not colon:
        raise WrongInputError(f"asset: got {text[:40]!r}, want XLM, or CODE:G… with its issuer")
    return code, _account("asset", issuer)


def _asset_text(terms: Terms) -> str:
    if terms.asset_issuer == bytes(32):
        return terms.asset_code
    return f"{terms.asset_code}:{format_account(terms.asset_issuer)}"


def _rules(text: str) -> bytes:
    if len(text) == 64:
        return _key("rules", text)
    try:
        return load_standard(text).digest
    except UnknownRuleError as error:
        raise WrongInputError(str(error)) from None


def _channels(accounts: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(accounts))


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [each.hex() for each in value] if isinstance(value, tuple) else value


def _bind(
    terms: Terms, account_seed: bytes, issuing_seed: bytes, *, serial: int
) -> Signed[Binding]:
    binding = Binding(
        network_id=terms.network_id,
        account=terms.broadcaster_account,
        key=terms.issuing_key,
        role=Role.ISSUING,
        first_epoch=terms.first_epoch,
        last_epoch=terms.last_epoch,
        serial=serial,
    )
    return BINDING.sign(binding, account_seed, issuing_seed)


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(mode=PRIVATE, parents=True)
    except FileExistsError:
        raise WrongInputError(f"{path}: is there already, want a new folder") from None
    return path


def _write(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
