"""Connections that the server ended: an idle one is replaced unseen, a busy one is told once."""

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
