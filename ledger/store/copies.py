"""Copies of databases: how a simulation takes a backup and comes back from one.

A copy of a whole database is made by the server from a template to which nobody is connected;
`RowCopies` copies the rows only, which takes a few milliseconds. For operators' backups see
docs/operator.md: they use Postgres' own tools.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from ledger.store.engine import libpq_conninfo


def copy_database(server_url: str, template: str, name: str) -> None:
    """Make a database as an exact copy of another; nobody may be connected to that one.

    Args:
        server_url: A database of the same server to connect to meanwhile.
        template: Name of the database to copy.
        name: Name of the copy; it must not exist.

    Raises:
        psycopg.Error: The server refused.
    """
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    _run(server_url, statement.format(sql.Identifier(name), sql.Identifier(template)))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database if it is there, whoever is still connected.

    Raises:
        psycopg.Error: The server refused.
    """
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    _run(server_url, statement.format(sql.Identifier(name)))


def _run(server_url: str, statement: sql.Composed) -> None:
    with psycopg.connect(libpq_conninfo(server_url), autocommit=True) as connection:
        connection.execute(statement)


_TABLES = """
    SELECT format('%I.%I', nspname, relname) FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND relname <> 'alembic_version'
      AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY 1
"""
_SEQUENCES = """
    SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences
    WHERE last_value IS NOT NULL ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """All rows of a database, and how far its sequences are."""

    tables: Mapping[str, bytes]
    """Table that has rows → its rows as COPY writes them, binary."""

    sequences: Mapping[str, int]
    """Sequence that was used → the number it gave last."""


class RowCopies:
    """Takes all rows of one database, and puts them back; nobody else writes meanwhile.

    Triggers and foreign keys do not act while rows are put back, as with `pg_restore`. The schema
    stays: with a partition more or less, rows cannot be put back.
    """

    def __init__(self, database_url: str) -> None:
        """Connect to a migrated database, as a superuser.

        Raises:
            psycopg.Error: The server refused.
        """
        self._connection = psycopg.connect(libpq_conninfo(database_url), autocommit=True)
        self._tables = self._names()

    def take(self) -> Rows:
        """Return a copy of all rows.

        Raises:
            ValueError: There are other tables than at the beginning.
            psycopg.Error: The server refused.
        """
        with self._connection.transaction():
            if self._names() != self._tables:
                raise ValueError("tables: got others than at the beginning, want the same")
            filled = self._filled()
            return Rows(
                tables={table: self._read(table) for table in filled},
                sequences=dict(self._fetch(_SEQUENCES)),
            )

    def put_back(self, rows: Rows) -> None:
        """Replace all rows by those of a copy.

        Raises:
            psycopg.Error: The server refused.
        """
        with self._connection.transaction():
            self._connection.execute("SET LOCAL session_replication_role = replica")
            for table in self._filled():
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - likewise
            for table, content in rows.tables.items():
                with self._connection.cursor().copy(
                    f"COPY {table} FROM STDIN (FORMAT binary)"
                ) as copy:
                    copy.write(content)
            for name, _ in self._fetch(_SEQUENCES):
                if name not in rows.sequences:
                    self._connection.execute(f"ALTER SEQUENCE {name} RESTART")
            for name, last in rows.sequences.items():
                self._connection.execute("SELECT setval(%s, %s)", (name, last))

    def clear(self) -> None:
        """Delete all rows, and let all sequences begin anew.

        Raises:
            psycopg.Error: The server refused.
        """
        with self._connection.transaction():
            self._connection.execute("SET LOCAL session_replication_role = replica")
            # The others would take time too: an empty table's files are made anew as well.
            tables = ", ".join(self._filled())
            if tables:
                self._connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _names(self) -> list[str]:
        return [name for (name,) in self._fetch(_TABLES)]

    def _filled(self) -> list[str]:
        questions = " UNION ALL ".join(
            f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})"  # noqa: S608 - names of our own
            for table in self._tables
        )
        return [name for (name,) in self._fetch(questions)]

    def _read(self, table: str) -> bytes:
        with self._connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)") as copy:
            return b"".join(bytes(block) for block in copy)

    def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()
