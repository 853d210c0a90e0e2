"""The command `swarmledger broadcaster`: first and next terms; entitlements; revocation.

    init      keys, first terms, deposit link, stellar.toml (`broadcaster_setup_command`)
    terms     new terms from old ones (likewise)
    entitle   one session key, or a batch of orders (CSV or JSON lines) to JSON lines
    serve     the HTTP endpoint for players and, with a bearer token, for a player back end
    revoke    a newer binding of the issuing key that ends with an epoch

Standard output carries results, standard error progress and faults. Exit 0 done, 1 refused or
failed, 2 the arguments are wrong. The issuing key and the file of what was issued belong to one
process at a time.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ledger.api.answers import RefusedError
from ledger.api.broadcaster_setup_command import (
    OneLineParser,
    WrongInputError,
    add_init,
    add_terms,
)
from ledger.api.issuer import (
    ORDERS_MAX,
    Caps,
    IssuedFile,
    IssuedFileError,
    Issuer,
    Order,
    describe_entitlement,
    make_issuer_app,
)
from ledger.api.issuer_pace import Pace
from ledger.api.issuing_budget import CoverageSource, IssuingBudget, Limits
from ledger.api.limits import limits_of
from ledger.api.order_files import OrderFileError, read_orders
from ledger.api.signed_clock import SignedClock
from ledger.config import ConfigError, load_settings
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError, MalformedRecordError
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms
from ledger.logs import configure_logs
from ledger.serving import ListenError, bind, serve
from ledger.stellar.errors import StellarError
from ledger.stellar.seed_files import read_seed

DEFAULT_LISTEN = "127.0.0.1:8090"
TOKEN_LENGTH_MIN = 16
_FAILURES = (
    ConfigError,
    EvidenceError,
    IssuedFileError,
    ListenError,
    OrderFileError,
    OSError,
    RefusedError,
    StellarError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger broadcaster`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except WrongInputError as error:
        print(f"swarmledger broadcaster {arguments.name}: {error}", file=sys.stderr)
        return 2
    except _FAILURES as error:
        print(f"swarmledger broadcaster {arguments.name}: {error}", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = OneLineParser(
        prog="swarmledger broadcaster",
        description="Sign terms, give entitlements to session keys, take an issuing key back.",
    )
    commands = parser.add_subparsers(required=True, dest="name", metavar="COMMAND")
    issuing = OneLineParser(add_help=False)
    issuing.add_argument("--issuing-key", type=Path, required=True, metavar="FILE")
    issuing.add_argument("--terms", type=Path, required=True, metavar="FILE")
    issuing.add_argument(
        "--issued", type=Path, required=True, metavar="FILE", help="what was issued, and will be"
    )
    issuing.add_argument("--max-bytes", type=int, default=0, help="cap of bytes; 0: none")
    issuing.add_argument("--max-media-ms", type=int, default=0, help="cap of media time; 0: none")
    issuing.add_argument("--max-rate-kbps", type=int, default=0, help="cap of the rate; 0: none")
    issuing.add_argument("--valid-seconds", type=int, default=86_400)
    issuing.add_argument(
        "--budget-stroops", type=int, default=0, help="most that all may cost together; 0: any"
    )
    issuing.add_argument(
        "--daily-stroops", type=int, default=0, help="most that a UTC day's may cost; 0: any"
    )
    issuing.add_argument(
        "--daily-bytes", type=int, default=0, help="most bytes of a UTC day's caps; 0: any"
    )
    issuing.add_argument(
        "--ignore-coverage",
        action="store_true",
        help="issue without asking the collector what the deposits cover",
    )
    add_init(commands.add_parser("init", help="keys, first terms, deposit link, stellar.toml"))
    add_terms(commands.add_parser("terms", help="new terms from old ones"))
    _add_entitle(commands.add_parser("entitle", parents=[issuing], help="one key, or a batch"))
    _add_serve(commands.add_parser("serve", parents=[issuing], help="the HTTP endpoint"))
    _add_revoke(commands.add_parser("revoke", help="end an issuing key with an epoch"))
    return parser


def _add_entitle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--content", metavar="HEX", help="content or stream id")
    parser.add_argument("--session-key", metavar="HEX", help="the viewer's session key")
    parser.add_argument("--country", default="", help="ISO 3166 code")
    parser.add_argument("--request-id", default="", help="makes a second one for key and content")
    parser.add_argument(
        "--batch",
        metavar="FILE",
        help="CSV with a header, or JSON lines: session_key, content_id, and any of max_bytes, "
        'max_media_ms, max_rate_kbps, valid_s, country, request_id; "-": standard input',
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="one: the record itself, in a new file; batch: JSON lines (default: standard output)",
    )
    parser.add_argument(
        "--now",
        type=int,
        metavar="UNIX_S",
        help="ledger time to issue by; default: the collector's signed clock",
    )
    parser.set_defaults(run=_entitle)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT")
    parser.add_argument("--ready-file", type=Path, metavar="FILE")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="bearer token of the player back end, mode 0600; default: no such door",
    )
    parser.add_argument(
        "--total-bytes",
        type=int,
        default=0,
        help="most bytes a session key gets for a content by asking itself; 0: any number",
    )
    parser.set_defaults(run=_serve)


def _add_revoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--account-key", type=Path, required=True, metavar="FILE")
    parser.add_argument("--issuing-key", type=Path, required=True, metavar="FILE")
    parser.add_argument("--binding", type=Path, required=True, metavar="FILE", help="the newest")
    parser.add_argument(
        "--last-epoch", type=int, required=True, help="the last one it issues for; not a past one"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    parser.set_defaults(run=_revoke)


def _entitle(arguments: argparse.Namespace) -> None:
    caps = _caps_of(arguments)
    with _issuer_of(arguments, caps, now_s=arguments.now) as issuer:
        if arguments.batch is not None:
            orders = read_orders(arguments.batch, caps)
            with _open_output(arguments.out) as stream:
                issue_batch(issuer, orders, stream)
            return
        for name in ("content", "session_key"):
            if getattr(arguments, name) is None:
                option = name.replace("_", "-")
                raise ConfigError(f"{option}: got none, want one, or a --batch")
        order = Order(
            session_key=_hex("session-key", arguments.session_key),
            content_id=_hex("content", arguments.content),
            caps=caps,
            request_id=arguments.request_id,
        )
        (signed,) = issuer.issue_orders([order])
    if arguments.out is not None:
        with Path(arguments.out).open("xb") as file:
            file.write(signed.raw)
    print(json.dumps(describe_entitlement(signed)))


def issue_batch(issuer: Issuer, orders: Sequence[Order], stream: TextIO) -> None:
    """Issue a batch and write one JSON line per order, in order.

    What a batch that was broken off had issued is answered again by the next run, not issued anew.

    Raises:
        RefusedError: Ledger time is not known, or an order contradicts an earlier one.
    """
    columns = (TextColumn("entitlements"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("entitlements", total=len(orders))
        for begin in range(0, len(orders), ORDERS_MAX):
            chunk = orders[begin : begin + ORDERS_MAX]
            stream.writelines(
                json.dumps(describe_entitlement(signed)) + "\n"
                for signed in issuer.issue_orders(chunk)
            )
            stream.flush()
            progress.advance(task, len(chunk))


def _serve(arguments: argparse.Namespace) -> None:
    configure_logs(process="broadcaster-serve")
    token = None if arguments.token_file is None else read_token(arguments.token_file)
    if arguments.total_bytes < 0:
        raise ConfigError(f"total-bytes: got {arguments.total_bytes}, want ≥ 0")
    with _issuer_of(
        arguments, _caps_of(arguments), now_s=None, total_bytes=arguments.total_bytes
    ) as issuer:
        app = make_issuer_app(issuer, token=token, pace=Pace(limits_of(load_settings())))
        serve(app, bind(arguments.listen), arguments.ready_file)


def _revoke(arguments: argparse.Namespace) -> None:
    account_seed, issuing_seed = read_seed(arguments.account_key), read_seed(arguments.issuing_key)
    known = BINDING.parse(arguments.binding.read_bytes())
    signed = revoke(known, arguments.last_epoch, account_seed, issuing_seed)
    with arguments.out.open("xb") as file:
        file.write(signed.raw)
    value = signed.value
    print(json.dumps({
        "account": value.account.hex(), "key": value.key.hex(), "serial": value.serial,
        "first_epoch": value.first_epoch, "last_epoch": value.last_epoch,
    }))  # fmt: skip


def revoke(
    known: Signed[Binding], last_epoch: int, account_seed: bytes, issuing_seed: bytes
) -> Signed[Binding]:
    """Return a newer binding of an issuing key that ends with an epoch.

    Raises:
        MalformedRecordError: The binding is not these two keys', not an issuing key's, not signed
            by both, or the epoch would not end it earlier.
    """
    binding = known.value
    for field, got, want in (
        ("account", binding.account, public_key_of(account_seed)),
        ("key", binding.key, public_key_of(issuing_seed)),
    ):
        if got != want:
            raise MalformedRecordError(f"binding.{field}", got=got, want=want.hex())
    if binding.role != Role.ISSUING or not is_valid_binding(known):
        raise MalformedRecordError(
            "binding", got="another", want="the newest of an issuing key, signed by both"
        )
    if not 0 <= last_epoch < binding.last_epoch:
        raise MalformedRecordError(
            "last_epoch", got=last_epoch, want=f"0 to {binding.last_epoch - 1}"
        )
    newer = Binding(
        network_id=binding.network_id,
        account=binding.account,
        key=binding.key,
        role=Role.ISSUING,
        first_epoch=binding.first_epoch,
        last_epoch=last_epoch,
        serial=max(binding.serial + 1, time.time_ns() // 10**9),
    )
    return BINDING.sign(newer, account_seed, issuing_seed)


def read_token(path: Path) -> str:
    """Return the bearer token in a private file.

    Raises:
        ConfigError: The file is open to others, or the token is short or not printable ASCII.
    """
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: got a file others can open, want mode 0600")
    token = path.read_text().strip()
    if len(token) < TOKEN_LENGTH_MIN or not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{path}: want at least {TOKEN_LENGTH_MIN} printable characters")
    return token


def _caps_of(arguments: argparse.Namespace) -> Caps:
    return Caps(
        max_bytes=arguments.max_bytes,
        max_media_ms=arguments.max_media_ms,
        max_rate_kbps=arguments.max_rate_kbps,
        valid_s=arguments.valid_seconds,
        country=getattr(arguments, "country", ""),
    )


def _limits_of(arguments: argparse.Namespace) -> Limits:
    try:
        return Limits(
            budget_stroops=arguments.budget_stroops,
            daily_stroops=arguments.daily_stroops,
            daily_bytes=arguments.daily_bytes,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def _issuer_of(
    arguments: argparse.Namespace, caps: Caps, *, now_s: int | None, total_bytes: int = 0
) -> Iterator[Issuer]:
    terms = _read_terms(arguments.terms)
    seed = read_seed(arguments.issuing_key)
    if public_key_of(seed) != terms.value.issuing_key:
        raise ConfigError(
            f"issuing-key: got the seed of {public_key_of(seed).hex()}, "
            f"want that of the terms' issuing key {terms.value.issuing_key.hex()}"
        )
    limits = _limits_of(arguments)
    issued = IssuedFile(arguments.issued)
    clock = SignedClock(terms.value)
    coverage = CoverageSource(terms.value.collector_url, terms.value.broadcaster_account)
    # With a time of its own, a command is meant to need nobody.
    asks_collector = now_s is None and not arguments.ignore_coverage
    budget = IssuingBudget(
        terms.value,
        limits,
        read_free=coverage.read_free if asks_collector else None,
    )
    read_time: Callable[[], int] = clock.now_s if now_s is None else lambda: now_s
    try:
        yield Issuer(
            terms=terms,
            issuing_seed=seed,
            caps=caps,
            issued=issued,
            now_s=read_time,
            total_bytes=total_bytes,
            budget=budget,
        )
    finally:
        coverage.close()
        clock.close()
        issued.close()


def _read_terms(path: Path) -> Signed[Terms]:
    terms = parse_terms(path.read_bytes())
    require_valid_terms(terms)
    return terms


@contextmanager
def _open_output(name: str | None) -> Iterator[TextIO]:
    if name in {None, "-"}:
        yield sys.stdout
        return
    with Path(str(name)).open("w") as stream:
        yield stream


def _hex(field: str, text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise ConfigError(f"{field}: got {text[:80]!r}, want 64 hexadecimal digits")
    return value
