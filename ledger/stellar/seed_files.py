"""Seeds of Stellar accounts in files that only their owner can read.

One line: 64 hexadecimal digits or a Stellar secret key ("S…"). A file that others can read is
refused: it is no secret any more. Nothing here prints a seed.
"""

import os
import stat
from pathlib import Path

from ledger.evidence.keys import SEED_SIZE, generate_seed
from ledger.stellar.errors import SeedFileError

_FILE_SIZE_MAX = 1024


def read_seed(path: Path) -> bytes:
    """Return the 32-byte seed of a file.

    Raises:
        SeedFileError: The file cannot be read, is open to others, or holds no seed.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SeedFileError(f"{path}: got a file others can open, want mode 0600")
            content = file.read(_FILE_SIZE_MAX)
    except OSError as error:
        raise SeedFileError(f"{path}: {error.strerror}") from None
    try:
        text = content.decode("ascii").strip()
        seed = _decode_secret(text) if text.startswith("S") else bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_SIZE:
        raise SeedFileError(f"{path}: want 64 hexadecimal digits or a Stellar secret key")
    return seed


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
    except Ed25519SecretSeedInvalidError as error:
        raise ValueError(str(error)) from None


def load_or_make_seed(path: Path) -> bytes:
    """Return the seed of a file, making file (0600) and folders (0700) when there is none.

    Raises:
        SeedFileError: The file cannot be made or read.
    """
    if path.exists():
        return read_seed(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(generate_seed().hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise SeedFileError(f"{path}: {error.strerror}") from None
    return read_seed(path)
