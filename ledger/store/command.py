"""The command `swarmledger db`: make the schema, compare it, register, erase viewer material.

Exit 0 done or equal, 1 not done or different; `erase` also 1 as long as epochs that name the viewer
may not be erased yet.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ledger.audit.trust import parse_trust
from ledger.config import ConfigError, load_settings, need
from ledger.evidence.errors import EvidenceError
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.erasing import Erased, erase_older, erase_viewer
from ledger.store.errors import StoreError
from ledger.store.migrate import describe_drift, upgrade
from ledger.store.shard_store import Shard, find_shard, parse_registration, register


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger db`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        done: bool = arguments.run(arguments)
    except (ConfigError, EvidenceError, OSError, SQLAlchemyError, StoreError) as error:
        print(f"swarmledger db: {error}", file=sys.stderr)
        return 1
    return 0 if done else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger db", description="Make the schema, compare it, register, erase."
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
    erasing = commands.add_parser("erase", help="erase what names a viewer, as far as it is due")
    erasing.add_argument("--viewer", required=True, metavar="KEY",
                         help="session key, 64 hexadecimal digits")  # fmt: skip
    erasing.set_defaults(run=_erase)
    keeping = commands.add_parser("retention", help="erase viewer material of old epochs")
    keeping.add_argument("--keep-epochs", type=int, required=True, metavar="N",
                         help="settled epochs that keep theirs")  # fmt: skip
    keeping.set_defaults(run=_keep)
    for command in (erasing, keeping):
        command.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _upgrade(_arguments: argparse.Namespace) -> bool:
    upgrade(need("database_url", load_settings().database_url))
    return True


def _check(_arguments: argparse.Namespace) -> bool:
    drift = describe_drift(need("database_url", load_settings().database_url))
    print(drift or "tables and schema agree")
    return not drift


def _erase(arguments: argparse.Namespace) -> bool:
    key = parse_key(arguments.viewer)
    return _report(
        arguments, lambda sessions, shard, folder: erase_viewer(sessions, shard, key, folder)
    )


def _keep(arguments: argparse.Namespace) -> bool:
    keep_epochs = arguments.keep_epochs
    if keep_epochs < 0:
        raise ConfigError(f"keep-epochs: got {keep_epochs}, want 0 or more")
    return _report(
        arguments,
        lambda sessions, shard, folder: erase_older(sessions, shard, keep_epochs, folder),
    )


def parse_key(text: str) -> bytes:
    """Return a key from 64 hexadecimal digits.

    Raises:
        ConfigError: They are not that.
    """
    try:
        key = bytes.fromhex(text) if len(text) == 64 else b""
    except ValueError:
        key = b""
    if not key:
        raise ConfigError(f"viewer: got {text!r}, want 64 hexadecimal digits")
    return key


def _report(
    arguments: argparse.Namespace, erase: Callable[[SessionFactory, Shard, Path | None], Erased]
) -> bool:
    """Erase for the broadcaster of the trust file, whose audit files stand in the folder."""
    settings = load_settings()
    trust = parse_trust(need("trust_file", settings.trust_file).read_text(encoding="utf-8"))
    engine = open_engine(need("database_url", settings.database_url))
    try:
        sessions = make_session_factory(engine)
        with sessions.begin() as session:
            shard = find_shard(session, trust.broadcaster_account)
        done = erase(sessions, shard, settings.audit_dir)
    finally:
        engine.dispose()
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(
            f"erased epochs {list(done.epochs)}: {done.bundles} bundles, "
            f"{len(done.audit_files)} audit files, {done.passing_rows} rows in passing"
        )
        if done.waiting:
            print(f"not due yet: epochs {list(done.waiting)}; run again later")
    return not done.waiting


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
