"""Sessions: reading ones without a transaction, on connections of which a lost one is replaced.

An idle connection that the server ended is replaced unseen, a busy one is told of once.
"""

import pytest
from sqlalchemy import text

from ledger.store import engine as engine_module
from ledger.store.engine import DatabaseUnavailableError, make_session_factory, open_engine

pytestmark = pytest.mark.postgres


@pytest.fixture
def engines(database_url):
    pair = [open_engine(database_url, pool_size=1) for _ in range(2)]
    yield pair
    for one in pair:
        one.dispose()


def pid_of(sessions):
    with sessions.begin() as session:
        return session.scalar(text("SELECT pg_backend_pid()"))


def end_connection(ours, others):
    pid = pid_of(ours)
    with others.begin() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    return pid


def test_idle_connection_that_was_ended_is_replaced_before_it_is_used(engines, monkeypatch):
    ours, others = map(make_session_factory, engines)
    ended = end_connection(ours, others)
    monkeypatch.setattr(engine_module, "PROBE_AFTER_S", 0.0)
    assert pid_of(ours) != ended


def test_connection_in_use_a_moment_ago_is_not_probed_and_fails_once(engines, monkeypatch):
    monkeypatch.setattr(engine_module, "PROBE_AFTER_S", 3_600.0)
    ours, others = map(make_session_factory, engines)
    ended = end_connection(ours, others)
    with pytest.raises(DatabaseUnavailableError):
        pid_of(ours)
    assert pid_of(ours) != ended


def test_reading_takes_no_transaction_and_leaves_the_connection_fit_for_one(engines):
    ours, others = map(make_session_factory, engines)
    with ours() as session:
        pid, begun = session.execute(text("SELECT pg_backend_pid(), now()")).one()
        state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
        with others() as watcher:
            assert watcher.scalar(state, {"pid": pid}) == "idle"
        # A transaction's now() is that of its beginning.
        assert session.scalar(text("SELECT now()")) > begun
    with ours.begin() as session:
        session.execute(text("CREATE TABLE only_here (n integer)"))
        assert session.scalar(text("SELECT pg_backend_pid()")) == pid
        session.rollback()
    with others() as watcher:
        assert watcher.scalar(text("SELECT to_regclass('only_here')")) is None


def test_error_of_a_statement_names_none_of_its_values(engines):
    ours, _ = (make_session_factory(one) for one in engines)
    with ours.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 20"))
        with pytest.raises(DatabaseUnavailableError) as caught:
            session.execute(text("SELECT pg_sleep(9), CAST(:key AS text)"), {"key": "3cebe4a5"})
    assert "pg_sleep" in str(caught.value)
    assert "3cebe4a5" not in str(caught.value)
