"""The driver's cursor in a session: one transaction, and errors that everybody here knows."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger.store.engine import (
    DatabaseUnavailableError,
    SessionFactory,
    make_session_factory,
    open_engine,
)
from ledger.store.raw_cursor import raw_cursor
from ledger.store.tables import BroadcasterRow

pytestmark = pytest.mark.postgres


@pytest.fixture
def sessions(database_url: str) -> Iterator[SessionFactory]:
    engine = open_engine(database_url)
    yield make_session_factory(engine)
    engine.dispose()


def broadcaster(name: bytes) -> BroadcasterRow:
    return BroadcasterRow(account=name * 32, network_id=bytes(32), binding=b"")


def count(session) -> int:
    with raw_cursor(session) as cursor:
        return cursor.execute(b"SELECT count(*) FROM broadcasters").fetchone()[0]


def test_cursor_sees_what_the_session_added_and_ends_with_it(sessions):
    with sessions.writing() as session, session.begin() as transaction:
        session.add(broadcaster(b"a"))
        assert count(session) == 1
        transaction.rollback()
    with sessions.begin() as session:
        assert count(session) == 0


def test_refusal_of_the_database_is_sqlalchemys_error(sessions):
    insert = b"INSERT INTO broadcasters (account, network_id, binding) VALUES ('x', 'y', '')"
    refused = pytest.raises(IntegrityError, match="account_length")
    with refused, sessions.begin() as session, raw_cursor(session) as cursor:
        cursor.execute(insert)


def test_lost_connection_is_the_unavailable_database_and_the_next_session_has_another(sessions):
    with sessions() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with sessions.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(DatabaseUnavailableError):
            count(session)
    with sessions.begin() as session:
        assert count(session) == 0
