"""Runs the migrations on one connection, one process at a time.

An advisory lock makes a second upgrade wait; timeouts keep a migration from standing in the way of
a running service. Source: the URL comes from `ledger.store.migrate`, never from a file.
"""

from alembic import context
from sqlalchemy import Connection, text

from ledger.store.migrate import LOCK_KEY, METADATA, include_object

LOCK_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "300s"


def run(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=METADATA,
            include_object=include_object,
            transaction_per_migration=True,
            compare_server_default=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
        connection.commit()


run(context.config.attributes["connection"])
