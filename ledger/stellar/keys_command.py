"""The command `swarmledger keys`: seed files encrypted, checked, shown.

    swarmledger keys make FILE       a new key, encrypted
    swarmledger keys encrypt FILE…   encrypts plain seed files in place
    swarmledger keys check FILE…     opens them, which shows that the passphrase is the right one
    swarmledger keys show FILE…      public keys; asks for no passphrase

The passphrase comes from `SWARMLEDGER_PASSPHRASE_FILE`, `SWARMLEDGER_PASSPHRASE` or the systemd
credential `swarmledger-passphrase`. No seed and no passphrase is ever printed. Exit 0 done, 1 not.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger.audit.address import format_account
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.stellar.errors import SeedFileError
from ledger.stellar.seed_files import (
    ENCRYPTED,
    encrypt_seed,
    parse_seed,
    public_key_in,
    read_passphrase,
    read_private_text,
    write_secret,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger keys`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        rows = [arguments.run(path) for path in arguments.files]
    except SeedFileError as error:
        print(f"swarmledger keys: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"keys": rows}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger keys", description="Encrypt seed files, check them, show public keys."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("make", _make, "make a new key in an encrypted file"),
        ("encrypt", _encrypt, "encrypt plain seed files in place"),
        ("check", _check, "open seed files"),
        ("show", _show, "show public keys"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("files", nargs="+", type=Path, metavar="FILE")
        command.set_defaults(run=run)
    return parser


def _make(path: Path) -> dict[str, Any]:
    if path.exists():
        raise SeedFileError(f"{path}: got a file, want none: a key is never overwritten")
    seed = generate_seed()
    write_secret(path, encrypt_seed(seed, read_passphrase()))
    return _row(path, public_key_of(seed), is_encrypted=True)


def _encrypt(path: Path) -> dict[str, Any]:
    text = read_private_text(path)
    seed = parse_seed(str(path), text)
    if not text.startswith(ENCRYPTED):
        line = encrypt_seed(seed, read_passphrase())
        # What replaces the only copy is opened first.
        if parse_seed(str(path), line) != seed:
            raise SeedFileError(f"{path}: the encrypted form does not open")
        write_secret(path, line, replaces=True)
    return _row(path, public_key_of(seed), is_encrypted=True)


def _check(path: Path) -> dict[str, Any]:
    text = read_private_text(path)
    seed = parse_seed(str(path), text)
    return _row(path, public_key_of(seed), is_encrypted=text.startswith(ENCRYPTED))


def _show(path: Path) -> dict[str, Any]:
    text = read_private_text(path)
    if text.startswith(ENCRYPTED):
        return _row(path, public_key_in(str(path), text), is_encrypted=True)
    return _row(path, public_key_of(parse_seed(str(path), text)), is_encrypted=False)


def _row(path: Path, key: bytes, *, is_encrypted: bool) -> dict[str, Any]:
    return {
        "file": str(path),
        "account": format_account(key),
        "key": key.hex(),
        "encrypted": is_encrypted,
    }


if __name__ == "__main__":
    sys.exit(main())
