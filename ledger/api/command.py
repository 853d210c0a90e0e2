"""The command `swarmledger api`: `serve` for the operator, `issuer` for a broadcaster.

Standard error has the logs, the ready file the base URL. Exit 0 after SIGINT or SIGTERM, 1 when the
configuration does not allow a start.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger.api.app import ApiParts, make_app
from ledger.api.issuer import Caps, IssuedFile, IssuedFileError, Issuer, make_issuer_app
from ledger.api.issuer_pace import Pace
from ledger.api.issuing_budget import IssuingBudget, Limits
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import limits_of
from ledger.api.signed_clock import SignedClock
from ledger.config import ConfigError, load_settings, need
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import parse_terms, require_valid_terms
from ledger.logs import configure_logs
from ledger.sealing.log_seeds import read_log_seeds
from ledger.serving import ListenError, bind, serve
from ledger.stellar.errors import StellarError
from ledger.stellar.seed_files import read_seed
from ledger.stellar.sources import open_source
from ledger.stellar.web_auth import WebAuth, web_auth_seed
from ledger.store.engine import open_sessions

DEFAULT_LISTEN = "127.0.0.1:8080"
_CANNOT_START = (ConfigError, EvidenceError, IssuedFileError, ListenError, OSError, StellarError)
THREADS = 40
"""Requests that the server works on at once; each may hold one database connection."""

POOL_TIMEOUT_S = 5.0
"""A request that finds no connection is answered 503 after this time, while its sender listens."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger api`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    configure_logs(process=f"api-{arguments.name}")
    try:
        arguments.run(arguments)
    except _CANNOT_START as error:
        print(f"swarmledger api {arguments.name}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger api", description="Serve the operator's or the broadcaster's HTTP API."
    )
    commands = parser.add_subparsers(required=True, dest="name", metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="port 0 takes a free one"
    )
    common.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help='gets {"url", "pid"} as JSON once it answers',
    )
    api = commands.add_parser(
        "serve", parents=[common], help="the operator: collector, clock, public log, epochs"
    )
    api.set_defaults(run=_serve)
    issuer = commands.add_parser(
        "issuer", parents=[common], help="a broadcaster's back end: entitlements"
    )
    issuer.add_argument("--issuing-key", type=Path, required=True, metavar="FILE")
    issuer.add_argument("--terms", type=Path, required=True, metavar="FILE")
    issuer.add_argument("--issued", type=Path, required=True, metavar="FILE",
                        help="where issued entitlements are kept")  # fmt: skip
    issuer.add_argument("--max-bytes", type=int, default=0, help="cap per entitlement; 0: none")
    issuer.add_argument("--valid-seconds", type=int, default=86_400)
    issuer.add_argument("--daily-bytes", type=int, default=0,
                        help="most bytes that a UTC day's caps come to; 0: any")  # fmt: skip
    issuer.add_argument("--daily-stroops", type=int, default=0,
                        help="most that a UTC day's may cost; 0: any")  # fmt: skip
    issuer.add_argument("--budget-stroops", type=int, default=0,
                        help="most that all may cost together; 0: any")  # fmt: skip
    issuer.set_defaults(run=_issue)
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    need("gateway_url", settings.gateway_url)
    passphrase = need("network_passphrase", settings.network_passphrase)
    gateway = open_source(settings.gateway_urls[0], passphrase)
    seeds = read_log_seeds(need("log_key_file", settings.log_key_file))
    parts = ApiParts(
        sessions=open_sessions(
            need("database_url", settings.database_url),
            pool_size=THREADS // 2,
            pool_timeout_s=POOL_TIMEOUT_S,
        ),
        ledger_time=LedgerTimeSource(
            gateway, interval_s=settings.clock_interval_s, stale_s=settings.clock_stale_s
        ),
        log_seed=seeds.current,
        next_log_seed=seeds.next,
        log_dir=need("log_dir", settings.log_dir),
        audit_dir=settings.audit_dir,
        web_auth=WebAuth(
            seed=web_auth_seed(seeds.current),
            home_domain=settings.home_domain,
            web_auth_domain=settings.web_auth_domain or settings.home_domain,
            passphrase=passphrase,
            gateway=gateway,
        ),
        limits=limits_of(settings),
        low_balance_stroops=settings.low_balance_stroops,
        stellar_toml=settings.stellar_toml,
    )
    serve(make_app(parts), bind(arguments.listen), arguments.ready_file)
    gateway.close()


def _issue(arguments: argparse.Namespace) -> None:
    terms = parse_terms(arguments.terms.read_bytes())
    require_valid_terms(terms)
    seed = read_seed(arguments.issuing_key)
    if public_key_of(seed) != terms.value.issuing_key:
        raise ConfigError(
            f"issuing-key: got the seed of {public_key_of(seed).hex()}, "
            f"want that of the terms' issuing key {terms.value.issuing_key.hex()}"
        )
    if arguments.valid_seconds < 1 or arguments.max_bytes < 0:
        raise ConfigError("got valid-seconds or max-bytes out of range, want ≥ 1 and ≥ 0")
    try:
        bounds = Limits(
            budget_stroops=arguments.budget_stroops,
            daily_stroops=arguments.daily_stroops,
            daily_bytes=arguments.daily_bytes,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    pace = Pace(limits_of(load_settings()))
    clock = SignedClock(terms.value)
    issuer = Issuer(
        terms=terms,
        issuing_seed=seed,
        caps=Caps(max_bytes=arguments.max_bytes, valid_s=arguments.valid_seconds),
        issued=IssuedFile(arguments.issued),
        now_s=clock.now_s,
        budget=IssuingBudget(terms.value, bounds),
    )
    serve(make_issuer_app(issuer, pace=pace), bind(arguments.listen), arguments.ready_file)
    clock.close()
