"""Whether an SQLite file of ours is damaged, and how it is put aside: renamed, never changed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from engine_plugin.errors import EngineError

SIDE_FILES = ("", "-wal", "-shm")
"""Suffixes of the files that make up one database."""

_ASIDE_MAX = 1000

LookFurther = Callable[[sqlite3.Connection], str | None]
"""Looks for damage that SQLite cannot see; returns what is wrong, or None."""


class AsideError(EngineError):
    """A damaged file cannot be looked at or put aside: locked, no permission, disk full."""


def find_damage(path: Path, look_further: LookFurther | None = None) -> str | None:
    """Return what is wrong with a database; None if nothing is, or there is none.

    Raises:
        AsideError: It cannot be opened now; it may be well.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        # Not read-only: what is left in the write-ahead log is part of it.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            rows = connection.execute("PRAGMA integrity_check(1)").fetchall()
            said = str(rows[0][0]) if rows else "no answer"
            if said != "ok":
                return said.splitlines()[0]
            return None if look_further is None else look_further(connection)
    except sqlite3.OperationalError as error:
        raise AsideError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        return str(error)
    except UnicodeDecodeError:
        # SQLite quotes the damage in its message, and Python cannot read it.
        return "malformed"


def choose_aside(path: Path) -> Path:
    """Return a name beside a path that is not taken: "NAME.damaged-1", "…-2" and so on.

    Raises:
        AsideError: A thousand are taken.
    """
    for number in range(1, _ASIDE_MAX):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            return aside
    raise AsideError(f"{path}: got {_ASIDE_MAX} damaged files beside it")


def move_database(path: Path, to: Path) -> None:
    """Rename a database with its side files.

    Raises:
        AsideError: The system refused.
    """
    try:
        for suffix in SIDE_FILES:
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(to.with_name(to.name + suffix))
    except OSError as error:
        raise AsideError(f"{path}: damaged, and cannot be put aside: {error.strerror}") from error
