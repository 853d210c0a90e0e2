"""The command `swarmledger db`: make the schema, compare it, register a broadcaster.

Exit 0 done or equal, 1 not done or different.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ledger.config import ConfigError, load_settings, need
from ledger.evidence.errors import EvidenceError
from ledger.store.engine import make_session_factory, open_engine
from ledger.store.migrate import describe_drift, upgrade
from ledger.store.shard_store import parse_registration, register


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger db`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        done: bool = arguments.run(arguments)
    except (ConfigError, EvidenceError, OSError, SQLAlchemyError) as error:
        print(f"swarmledger db: {error}", file=sys.stderr)
        return 1
    return 0 if done else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger db", description="Make the schema, compare it, register a broadcaster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("upgrade", help="apply all migrations").set_defaults(run=_upgrade)
    commands.add_parser("check", help="compare tables and schema").set_defaults(run=_check)
    registering = commands.add_parser("register", help="add a broadcaster, its terms and contract")
    for name in ("terms", "binding", "activation"):
        registering.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"default: SWARMLEDGER_{name.upper()}_FILE"
        )
    registering.set_defaults(run=_register)
    return parser


def _upgrade(_arguments: argparse.Namespace) -> bool:
    upgrade(need("database_url", load_settings().database_url))
    return True


def _check(_arguments: argparse.Namespace) -> bool:
    drift = describe_drift(need("database_url", load_settings().database_url))
    print(drift or "tables and schema agree")
    return not drift


def _register(arguments: argparse.Namespace) -> bool:
    settings = load_settings()
    registration = parse_registration(
        terms=need("terms_file", arguments.terms or settings.terms_file).read_bytes(),
        binding=need("binding_file", arguments.binding or settings.binding_file).read_bytes(),
        activation=need(
            "activation_file", arguments.activation or settings.activation_file
        ).read_bytes(),
    )
    engine = open_engine(need("database_url", settings.database_url))
    try:
        with make_session_factory(engine).begin() as session:
            shard = register(session, registration)
    finally:
        engine.dispose()
    print(shard.account.hex())
    return True
