"""Copies of whole databases: how a simulation takes a backup and comes back from one.

A copy is made by the server from a template database to which nobody is connected. For operators'
backups see docs/operator.md: they use Postgres' own tools.
"""

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
