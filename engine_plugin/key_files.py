"""Private seeds and other small secrets as files that only their owner can read.

A seed file is one line: 64 hexadecimal digits, or a Stellar secret key ("S…", SEP-23). A file
that others can read is refused, because it is no longer a secret. Nothing here prints a seed.
"""

import base64
import binascii
import os
import stat
from pathlib import Path

from engine_plugin.errors import EngineError
from ledger.evidence.keys import SEED_SIZE, generate_seed

_STELLAR_SEED_VERSION = 18 << 3
_STELLAR_SIZE = 1 + SEED_SIZE + 2
_FILE_SIZE_MAX = 1024


class KeyFileError(EngineError):
    """A key file is missing, readable by others, or not a seed; the message names the file."""


def read_seed(path: Path) -> bytes:
    """Return the 32-byte seed of a key file.

    Raises:
        KeyFileError: The file cannot be read, is open to others, or holds no seed.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KeyFileError(f"{path}: got a file others can open, want mode 0600")
            content = file.read(_FILE_SIZE_MAX)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    try:
        text = content.decode("ascii").strip()
        seed = _parse_stellar_secret(text) if text.startswith("S") else bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_SIZE:
        raise KeyFileError(f"{path}: want 64 hexadecimal digits or a Stellar secret key")
    return seed


def write_seed(path: Path, seed: bytes) -> None:
    """Write a new key file with mode 0600; an existing file is never overwritten.

    Raises:
        KeyFileError: The file exists or cannot be written.
    """
    try:
        write_private(path, seed.hex().encode() + b"\n", must_be_new=True)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def load_or_make_seed(path: Path) -> bytes:
    """Return the seed of a key file, making the file with a fresh seed when there is none.

    Raises:
        KeyFileError: As `read_seed` and `write_seed`.
    """
    if not path.exists():
        write_seed(path, generate_seed())
    return read_seed(path)


def write_private(path: Path, content: bytes, *, must_be_new: bool = False) -> None:
    """Write a file with mode 0600 so that it appears whole or not at all, and is on the disk.

    Raises:
        OSError: The file cannot be written, or exists although it must be new.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if must_be_new:
            os.link(draft, path)
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _parse_stellar_secret(text: str) -> bytes:
    try:
        raw = base64.b32decode(text)
    except binascii.Error:
        return b""
    # The checksum is CRC-16/XModem over version and seed, little-endian (SEP-23).
    if len(raw) != _STELLAR_SIZE or raw[0] != _STELLAR_SEED_VERSION:
        return b""
    checksum = binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little")
    return raw[1:-2] if raw[-2:] == checksum else b""
