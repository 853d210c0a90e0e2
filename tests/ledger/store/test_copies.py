"""Row copies: what comes back is what was there, whatever was written since."""

from collections.abc import Iterator

import psycopg
import pytest

from ledger.embedded.postgres import PostgresCluster
from ledger.store.copies import RowCopies, copy_database, drop_database
from ledger.store.engine import libpq_conninfo

pytestmark = pytest.mark.postgres

ADD = "INSERT INTO broadcasters (account, network_id, binding) VALUES (%s, %s, %s) RETURNING id"


@pytest.fixture
def url(postgres_cluster: PostgresCluster, template_database: str) -> Iterator[str]:
    copy_database(postgres_cluster.url(), template_database, "row_copies")
    yield postgres_cluster.url("row_copies")
    drop_database(postgres_cluster.url(), "row_copies")


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(libpq_conninfo(url), autocommit=True) as connection:
        yield connection


def add(connection: psycopg.Connection, account: int) -> int:
    values = (bytes([account]) * 32, bytes(32), b"binding %d" % account)
    row = connection.execute(ADD, values).fetchone()
    assert row is not None
    return row[0]


def test_rows_and_sequences_come_back_as_they_were(
    url: str, connection: psycopg.Connection
) -> None:
    copies = RowCopies(url)
    empty = copies.take()
    assert add(connection, 1) == 1
    backup = copies.take()
    assert add(connection, 2) == 2
    connection.execute("CREATE SEQUENCE used_later")
    connection.execute("SELECT nextval('used_later')")
    copies.put_back(backup)
    assert copies.take() == backup
    assert backup.tables.keys() == {"public.broadcasters"}
    assert add(connection, 3) == 2
    assert connection.execute("SELECT nextval('used_later')").fetchone() == (1,)
    copies.put_back(empty)
    assert copies.take() == empty
    assert add(connection, 4) == 1
    copies.clear()
    assert copies.take() == empty
    copies.close()


def test_rows_of_a_table_that_came_later_are_not_left_out(
    url: str, connection: psycopg.Connection
) -> None:
    copies = RowCopies(url)
    connection.execute("CREATE TABLE came_later (number int)")
    with pytest.raises(ValueError, match="got others"):
        copies.take()
    copies.close()
