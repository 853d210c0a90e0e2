"""Databases of a test's own, beside the one that `database_url` gives."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ledger.embedded.postgres import PostgresCluster

# Half the time of the server's default, which writes all pages to its log.
COPY_DATABASE = "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY"


@contextmanager
def copied_database(cluster: PostgresCluster, template: str) -> Iterator[str]:
    """Copy a database; it is dropped at the end, whoever is still connected.

    Yields:
        Its SQLAlchemy URL.
    """
    name = f"copy_{uuid.uuid4().hex}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        names = map(sql.Identifier, (name, template))
        connection.execute(sql.SQL(COPY_DATABASE).format(*names))
    try:
        yield cluster.url(name)
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))
