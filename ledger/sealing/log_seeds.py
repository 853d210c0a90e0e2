"""The log key's seeds: the one that signs, and during a rotation the one that comes next.

Which of the two signs is nobody's choice: terms name the log key of their epochs, so a checkpoint,
an audit file and the mark on a verdict are made with the key of the epoch they belong to, a promise
with that of its bundle's epoch, which the sender knows from its own terms. Both seeds are there
from before the first epoch of the next one until the last late bundle of the old one is sealed, as
one that other terms do not count.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.evidence.keys import public_key_of
from ledger.stellar.seed_files import read_seed

NEXT_SUFFIX: Final = ".next"
"""The next seed's file stands beside the current one's, with this after its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSeeds:
    """Seeds of the log's keys."""

    current: bytes = field(repr=False)
    """32 bytes."""

    next: bytes | None = field(default=None, repr=False)
    """Seed of the key that later terms name; None: no rotation is going on."""

    def of_key(self, log_key: bytes) -> bytes:
        """Return the seed of a log key, the current one if neither is its.

        Whoever signs what must be right compares the key; a signature with the current seed under
        another key's name is refused by everybody else.
        """
        if self.next is not None and public_key_of(self.next) == log_key:
            return self.next
        return self.current


def next_seed_file(path: Path) -> Path:
    """Return where the next seed stands."""
    return path.with_name(path.name + NEXT_SUFFIX)


def read_log_seeds(path: Path) -> LogSeeds:
    """Read the log key's seed, and the next one's if there is a file beside it.

    Raises:
        SeedFileError: A file cannot be used.
    """
    following = next_seed_file(path)
    return LogSeeds(
        current=read_seed(path), next=read_seed(following) if following.exists() else None
    )
