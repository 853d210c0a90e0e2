"""Where a process has its keys from: files, environment, an external signer, or several of these.

Not here: the forms (`seed_files`), the signer's protocol (`external_signer`).
"""

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ledger.audit.address import parse_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.errors import SeedFileError
from ledger.stellar.external_signer import CommandKeys
from ledger.stellar.seed_files import (
    SEED_PREFIX,
    load_seeds,
    read_seed,
    seeds_of_environment,
)
from ledger.stellar.signing import KeyHolder, SeedKeys, UnsignedTransaction


class JoinedKeys:
    """Several holders as one; the first that holds a key signs with it."""

    def __init__(self, holders: Sequence[KeyHolder]) -> None:
        self._holders = tuple(holders)

    def __repr__(self) -> str:
        return f"JoinedKeys({', '.join(map(repr, self._holders))})"

    @property
    def keys(self) -> frozenset[bytes]:
        """All keys."""
        return frozenset().union(*(holder.keys for holder in self._holders))

    def sign(self, transaction: UnsignedTransaction, key: bytes) -> bytes:
        """Return a key's signature.

        Raises:
            SeedFileError: Nobody holds the key.
            StellarError: Its holder gave no usable answer.
        """
        return self._holder_of(key).sign(transaction, key)

    def sign_message(self, message: bytes, key: bytes) -> bytes:
        """Return a key's signature.

        Raises:
            SeedFileError: Nobody holds the key.
            StellarError: Its holder gave no usable answer.
        """
        return self._holder_of(key).sign_message(message, key)

    def _holder_of(self, key: bytes) -> KeyHolder:
        for holder in self._holders:
            if key in holder.keys:
                return holder
        raise SeedFileError(f"account {key.hex()}: got no seed, want one in the keys")


@lru_cache(maxsize=4)
def _command_keys(command: str) -> CommandKeys:
    """Ask a signer for its keys once a process: workers open their keys each tick."""
    return CommandKeys(command)


def open_operator_keys(keys_dir: Path | None, signer_command: str) -> KeyHolder:
    """Return the holder of all the operator's keys.

    Args:
        keys_dir: Folder of `*.seed` files; None: there is none.
        signer_command: External signer; empty: there is none.

    Raises:
        SeedFileError: There is no key at all, or a file or variable cannot be used.
        ExternalSignerError: The signer gives no usable answer.
    """
    holders: list[KeyHolder] = []
    if keys_dir is not None:
        holders.append(SeedKeys(load_seeds(keys_dir)))
    if seeds := seeds_of_environment():
        holders.append(SeedKeys(seeds))
    if signer_command:
        holders.append(_command_keys(signer_command))
    if not holders:
        raise SeedFileError(
            f"keys: got none, want SWARMLEDGER_KEYS_DIR, {SEED_PREFIX}… or a signer command"
        )
    return holders[0] if len(holders) == 1 else JoinedKeys(holders)


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a command is told its one key."""
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="seed of the key (0600)")
    parser.add_argument("--signer-command", metavar="CMD", help="external signer that holds it")
    parser.add_argument("--key", metavar="G…", help="which of several keys")


def open_key(arguments: argparse.Namespace) -> tuple[KeyHolder, bytes]:
    """Return a holder and the one of its keys that the options mean.

    Raises:
        SeedFileError: There is no such key, or several and none is named.
        ExternalSignerError: The signer gives no usable answer.
    """
    holder: KeyHolder
    if arguments.key_file is not None:
        seed = read_seed(arguments.key_file)
        holder = SeedKeys({public_key_of(seed): seed})
    elif arguments.signer_command:
        holder = CommandKeys(arguments.signer_command)
    else:
        holder = SeedKeys(seeds_of_environment())
    keys = holder.keys
    if arguments.key:
        key = parse_account(arguments.key)
        if key not in keys:
            raise SeedFileError(f"key: got {arguments.key}, want one that is held")
        return holder, key
    if len(keys) != 1:
        raise SeedFileError(f"key: got {len(keys)} keys, want one, or --key")
    return holder, next(iter(keys))
