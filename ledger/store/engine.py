"""Connections to Postgres: one engine for a process, one session for a transaction.

The only place that chooses the driver and its limits. It begins and commits nothing: entry points
(a task, a request, a command) do, with `sessions.begin()`. `try_advisory_lock` lets several
schedulers run at once.

Migrations make every append-only table refuse changes with one trigger each:
`CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON the_table FOR EACH ROW EXECUTE FUNCTION
refuse_change()`; the function comes with migration 0001. TRUNCATE is refused likewise by a
statement trigger on the same function.
"""

import hashlib
import time
from contextlib import AbstractContextManager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, QueuePool, create_engine, event, make_url, text
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

__all__ = [
    "DRIVER",
    "DatabaseUnavailableError",
    "PoolExhaustedError",
    "Session",
    "SessionFactory",
    "connections_in_use",
    "libpq_conninfo",
    "make_session_factory",
    "open_engine",
    "open_sessions",
    "try_advisory_lock",
]

DRIVER: Final = "postgresql+psycopg"
LOCK_TIMEOUT_MS: Final = 10_000
STATEMENT_TIMEOUT_MS: Final = 120_000
PROBE_AFTER_S: Final = 1.0
"""Seconds unused after which a connection is probed before it is used again."""

_USED_AT: Final = "swarmledger used at"
POOL_TIMEOUT_S: Final = 30.0
"""How long a thread waits for a connection by default."""

DatabaseUnavailableError = OperationalError
"""The database does not answer, ended the connection, or a lock or statement took too long."""

PoolExhaustedError = PoolTimeoutError
"""All connections of this process are in use, and none came back in time."""


class SessionFactory:
    """What makes sessions: `with sessions.begin()` is one transaction, `with sessions()` reads.

    A session that reads has no transaction around its statements: each sees what is committed
    when it begins, as in a transaction of Postgres' default isolation, and costs one round trip
    instead of three.
    """

    def __init__(self, engine: Engine) -> None:
        """Make the factory; rows stay readable after their transaction's end."""
        self.engine: Final = engine
        self._writing = sessionmaker(engine, expire_on_commit=False)
        without_transactions = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = sessionmaker(without_transactions, expire_on_commit=False)

    def begin(self) -> AbstractContextManager[Session]:
        """Return a session in a transaction that ends with the block: kept, or rolled back."""
        return self._writing.begin()

    def writing(self) -> Session:
        """Return a session whose transactions the caller begins and ends."""
        return self._writing()

    def __call__(self) -> Session:
        """Return a session for reading; it must not write."""
        return self._reading()


def open_engine(
    database_url: str, *, pool_size: int = 5, pool_timeout_s: float = POOL_TIMEOUT_S
) -> Engine:
    """Make the engine of a process; it connects when first used.

    Args:
        database_url: `postgresql://…`, `postgres://…` or `postgresql+psycopg://…`.
        pool_size: Connections kept open, ≥ 1; as many again are opened under load.
        pool_timeout_s: How long a thread waits for one of them.

    Raises:
        sqlalchemy.exc.ArgumentError: the URL does not parse.
    """
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
    engine = create_engine(
        make_url(database_url).set(drivername=DRIVER),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=pool_timeout_s,
        # Errors are logged, and keys and contents are what statements are about.
        hide_parameters=True,
        connect_args={"options": f"{options} -c timezone=UTC"},
    )
    _probe_idle_connections(engine)
    return engine


def _probe_idle_connections(engine: Engine) -> None:
    """Let a connection that was idle prove that it lives before it is handed out.

    One that was in use a moment ago is handed out as it is: under load the round trips would cost
    more than the rare statement that has to be repeated after the server went away.
    """

    def note_use(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()

    def probe(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        used_at = record.info.get(_USED_AT)
        if used_at is None or time.monotonic() - used_at < PROBE_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", probe)


def libpq_conninfo(database_url: str) -> str:
    """Return the database's address as libpq's key=value pairs; it may hold a password.

    Not as a URI: the queue client's own URI parser drops the folder of a Unix socket.
    """
    uri = make_url(database_url).set(drivername="postgresql")
    values = conninfo_to_dict(uri.render_as_string(hide_password=False))
    return make_conninfo(**{name: str(value) for name, value in values.items()})


def make_session_factory(engine: Engine) -> SessionFactory:
    """Make the factory of sessions."""
    return SessionFactory(engine)


def open_sessions(
    database_url: str, *, pool_size: int = 5, pool_timeout_s: float = POOL_TIMEOUT_S
) -> SessionFactory:
    """Make an engine and its session factory in one step."""
    engine = open_engine(database_url, pool_size=pool_size, pool_timeout_s=pool_timeout_s)
    return make_session_factory(engine)


def close_sessions(sessions: SessionFactory) -> None:
    """Close a factory's idle connections; for processes that go on without it."""
    sessions.engine.dispose()


def connections_in_use(sessions: SessionFactory) -> int:
    """Return how many of the process's connections are in use now."""
    pool = sessions.engine.pool
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


def try_advisory_lock(session: Session, name: str) -> bool:
    """Take the advisory lock called `name` until the transaction's end, or say that it is taken.

    Args:
        session: In a transaction; the lock is released with it.
        name: For example `advance G…`; hashed to the 64 bits that Postgres locks.
    """
    digest = hashlib.sha256(name.encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    taken = session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key})
    return bool(taken)
