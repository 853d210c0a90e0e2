"""Rotating the log key: the next seed beside the current one, and the trust file that names it.

The operator makes the seed; the broadcaster names its key in terms from the first epoch on; readers
take the new trust file. Nothing is signed with it before: terms say which key signs an epoch.
"""

from dataclasses import replace
from pathlib import Path

from ledger.audit.errors import UndecidableError
from ledger.audit.trust import Trust, TrustedKey
from ledger.evidence.keys import public_key_of
from ledger.sealing.log_seeds import next_seed_file
from ledger.stellar.seed_files import load_or_make_seed, read_seed


def rotate_key(trust: Trust, seed_file: Path, first_epoch: int) -> Trust:
    """Make the next seed, unless it is there, and return the trust that names its key.

    Args:
        trust: The published trust; its last log key is the current one's.
        seed_file: File of the current seed; the next one is made beside it (mode 0600).
        first_epoch: First epoch that the next key signs.

    Raises:
        SeedFileError: A file cannot be made or read.
        UndecidableError: The file is not the current key's, or the epoch is not after its first.
    """
    current = trust.log_keys[-1]
    if public_key_of(read_seed(seed_file)) != current.key:
        raise UndecidableError(
            f"{seed_file}: got another key's seed, want that of {current.key.hex()}"
        )
    if first_epoch <= current.first_epoch:
        raise UndecidableError(
            f"first-epoch: got {first_epoch}, want one after {current.first_epoch}"
        )
    key = public_key_of(load_or_make_seed(next_seed_file(seed_file)))
    added = TrustedKey(key=key, first_epoch=first_epoch)
    return replace(trust, log_keys=(*trust.log_keys, added))
