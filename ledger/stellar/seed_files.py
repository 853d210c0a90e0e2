"""Seeds in files that only their owner can read, encrypted under a passphrase or plain.

A plain file is one line: 64 hexadecimal digits or a Stellar secret key ("S…"). An encrypted one is
one line too (FORMATS.md), made by `swarmledger keys encrypt`; its passphrase comes from a file, the
environment or a systemd credential. A file that others can read is refused: it is no secret any
more. Plain files are taken silently, with a warning, or not, as `SWARMLEDGER_PLAIN_KEYS` says.
Nothing here prints a seed or a passphrase, and no error quotes a file's content.
"""

import logging
import os
import stat
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from ledger.evidence.errors import BadSealError
from ledger.evidence.keys import (
    KEY_SIZE,
    PASSPHRASE_SALT_SIZE,
    SEAL_SIZE,
    SEED_SIZE,
    derive_key,
    generate_seed,
    lock,
    public_key_of,
    unlock,
)
from ledger.stellar.errors import SeedFileError

PLAIN_KEYS: Final = "SWARMLEDGER_PLAIN_KEYS"
"""Variable that says what becomes of plain files: `warn` (the default), `allow` or `refuse`."""

VARIABLE: Final = "SWARMLEDGER_PASSPHRASE"
FILE_VARIABLE: Final = f"{VARIABLE}_FILE"
CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
CREDENTIAL: Final = "swarmledger-passphrase"
"""Name of the systemd credential (`LoadCredential=`)."""

SEED_PREFIX: Final = "SWARMLEDGER_SEED_"
"""Variables that hold one seed each, in either form: `SWARMLEDGER_SEED_ANCHOR`."""

ENCRYPTED: Final = "swarmledger-seed-1"
PASSES: Final = 3
MEMORY_KIB: Final = 256 * 1024
"""Argon2id's cost: libsodium's "moderate"."""

_PASSES_MAX: Final = 10
_MEMORY_KIB_MIN: Final = 8
_MEMORY_KIB_MAX: Final = 1024 * 1024
_FILE_SIZE_MAX: Final = 1024
_WORDS: Final = 7

_log = logging.getLogger(__name__)


class PlainKeys(StrEnum):
    """What becomes of a plain seed file."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


def read_seed(path: Path) -> bytes:
    """Return the 32-byte seed of a file; asks for the passphrase if it is encrypted.

    Raises:
        SeedFileError: The file cannot be read, is open to others, holds no seed, is plain where
            that is refused, or its passphrase is missing or another.
    """
    text = read_private_text(path)
    if not text.startswith(ENCRYPTED):
        _judge_plain(str(path))
    return parse_seed(str(path), text)


def read_private_text(path: Path) -> str:
    """Return a private file's text without white space around it.

    Raises:
        SeedFileError: The file cannot be read or is open to others.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SeedFileError(f"{path}: got a file others can open, want mode 0600")
            content = file.read(_FILE_SIZE_MAX)
    except OSError as error:
        raise SeedFileError(f"{path}: {error.strerror}") from None
    return content.decode("utf-8", "replace").strip()


def _judge_plain(name: str) -> None:
    word = os.environ.get(PLAIN_KEYS, PlainKeys.WARN)
    if word not in set(PlainKeys):
        raise SeedFileError(f"{PLAIN_KEYS}: got another word, want {', '.join(PlainKeys)}")
    if word == PlainKeys.REFUSE:
        raise SeedFileError(f"{name}: got a plain seed, want an encrypted one")
    if word == PlainKeys.WARN:
        _warn_plain(name)


@lru_cache(maxsize=1024)
def _warn_plain(name: str) -> None:
    """Warn of a plain seed, once a process."""
    _log.warning("%s: the seed is not encrypted (swarmledger keys encrypt)", name)


def parse_seed(name: str, text: str) -> bytes:
    """Return the seed that a text holds, in any of the forms; the text is never quoted.

    Args:
        name: Where the text stands, for errors.
        text: 64 hexadecimal digits, a Stellar secret key, or an encrypted seed.

    Raises:
        SeedFileError: It holds none, or its passphrase is missing or another.
    """
    if text.startswith(ENCRYPTED):
        return decrypt_seed(name, text, read_passphrase())
    try:
        seed = _decode_secret(text) if text.startswith("S") else bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_SIZE:
        raise SeedFileError(f"{name}: want 64 hexadecimal digits or a Stellar secret key")
    return seed


def read_passphrase() -> bytes:
    """Return the passphrase of encrypted seeds: from a file, the environment, or systemd.

    Raises:
        SeedFileError: There is none, or its file cannot be used.
    """
    if path := os.environ.get(FILE_VARIABLE):
        text = read_private_text(Path(path))
    elif value := os.environ.get(VARIABLE):
        text = value.strip()
    elif folder := os.environ.get(CREDENTIALS_DIRECTORY):
        credential = Path(folder) / CREDENTIAL
        try:
            text = credential.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise SeedFileError(f"{credential}: want the passphrase of the keys") from None
    else:
        text = ""
    if not text:
        raise SeedFileError(
            f"passphrase: got none, want {FILE_VARIABLE}, {VARIABLE} or the credential {CREDENTIAL}"
        )
    return text.encode()


def encrypt_seed(
    seed: bytes, passphrase: bytes, *, passes: int = PASSES, memory_kib: int = MEMORY_KIB
) -> str:
    """Return the line of an encrypted seed file.

    Args:
        seed: 32 bytes.
        passphrase: At least one byte; what a dictionary has protects nothing.
        passes: Argon2id's time cost.
        memory_kib: Its memory.
    """
    salt = os.urandom(PASSPHRASE_SALT_SIZE)
    key = derive_key(passphrase, salt, passes=passes, memory_bytes=memory_kib << 10)
    public_key = public_key_of(seed)
    locked = lock(key, seed)
    words = (ENCRYPTED, "argon2id", passes, memory_kib, salt.hex(), public_key.hex(), locked.hex())
    return " ".join(map(str, words))


def public_key_in(name: str, text: str) -> bytes:
    """Return the public key that an encrypted seed's line states; it is not proven.

    Raises:
        SeedFileError: The line is not of the form.
    """
    return _parse_encrypted(name, text)[3]


def decrypt_seed(name: str, text: str, passphrase: bytes) -> bytes:
    """Return the seed of an encrypted line.

    Raises:
        SeedFileError: The line is not of the form, or the passphrase is another.
    """
    passes, memory_kib, salt, public_key, locked = _parse_encrypted(name, text)
    try:
        seed = _unlock(passphrase, salt, passes, memory_kib, locked)
    except BadSealError:
        raise SeedFileError(f"{name}: got another passphrase, or a changed file") from None
    if len(seed) != SEED_SIZE or public_key_of(seed) != public_key:
        raise SeedFileError(f"{name}: got a seed of another key than the file says")
    return seed


@lru_cache(maxsize=64)
def _unlock(passphrase: bytes, salt: bytes, passes: int, memory_kib: int, locked: bytes) -> bytes:
    """Remembered: a worker reads its keys each tick, and each costs a second and 256 MiB."""
    key = derive_key(passphrase, salt, passes=passes, memory_bytes=memory_kib << 10)
    return unlock(key, locked)


def _parse_encrypted(name: str, text: str) -> tuple[int, int, bytes, bytes, bytes]:
    words = text.split(" ")
    if len(words) != _WORDS or words[:2] != [ENCRYPTED, "argon2id"]:
        raise SeedFileError(f"{name}: got no encrypted seed of this version")
    try:
        passes, memory_kib = int(words[2]), int(words[3])
        salt, public_key, locked = (bytes.fromhex(word) for word in words[4:])
    except ValueError:
        raise SeedFileError(f"{name}: got no encrypted seed of this version") from None
    if not (1 <= passes <= _PASSES_MAX and _MEMORY_KIB_MIN <= memory_kib <= _MEMORY_KIB_MAX):
        raise SeedFileError(f"{name}: got a cost out of range, want at most 1 GiB and 10 passes")
    sizes = (len(salt), len(public_key), len(locked))
    if sizes != (PASSPHRASE_SALT_SIZE, KEY_SIZE, SEAL_SIZE + SEED_SIZE):
        raise SeedFileError(f"{name}: got parts of other sizes, want an encrypted seed")
    return passes, memory_kib, salt, public_key, locked


def seeds_of_environment() -> dict[bytes, bytes]:
    """Return public key → seed of every variable `SWARMLEDGER_SEED_…`.

    Raises:
        SeedFileError: A variable holds no seed.
    """
    found = [
        parse_seed(name, value.strip())
        for name, value in sorted(os.environ.items())
        if name.startswith(SEED_PREFIX) and value.strip()
    ]
    return {public_key_of(seed): seed for seed in found}


def load_seeds(operator_dir: Path) -> dict[bytes, bytes]:
    """Return account key → seed of every `*.seed` file in the operator's folder.

    Raises:
        SeedFileError: The folder or a file in it cannot be used.
    """
    paths = sorted(operator_dir.glob("*.seed"))
    if not paths:
        raise SeedFileError(f"{operator_dir}: got no seed file, want escrow.seed and others")
    seeds = [read_seed(path) for path in paths]
    return {public_key_of(seed): seed for seed in seeds}


def _decode_secret(text: str) -> bytes:
    """Return the seed of a Stellar secret key.

    Raises:
        ValueError: It is none.
    """
    # Loaded here: the SDK takes seconds of CPU, and seeds are hexadecimal as a rule.
    from stellar_sdk import StrKey  # noqa: PLC0415
    from stellar_sdk.exceptions import Ed25519SecretSeedInvalidError  # noqa: PLC0415

    try:
        return bytes(StrKey.decode_ed25519_secret_seed(text))
    except Ed25519SecretSeedInvalidError:
        raise ValueError("no Stellar secret key") from None


def load_or_make_seed(path: Path) -> bytes:
    """Return the seed of a file, making file (0600) and folders (0700) when there is none.

    Raises:
        SeedFileError: The file cannot be made or read.
    """
    if not path.exists():
        write_secret(path, generate_seed().hex())
    return parse_seed(str(path), read_private_text(path))


def write_secret(path: Path, text: str, *, replaces: bool = False) -> None:
    """Write a private file (0600) in one step, making folders (0700).

    Args:
        path: Where; an existing file is left alone unless it is to be replaced.
        text: One line.
        replaces: Whether an existing file is replaced.

    Raises:
        SeedFileError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            if replaces:
                draft.replace(path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise SeedFileError(f"{path}: {error.strerror}") from None
