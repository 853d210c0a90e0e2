"""The driver's own cursor, in a session's transaction: COPY, binary results, hot statements.

Building a statement costs SQLAlchemy more than a small query costs the server, which matters where
it is done for every bundle. Errors come out as SQLAlchemy's, so nobody has to know both kinds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


@contextmanager
def raw_cursor(session: Session, *, binary: bool = False) -> Iterator[psycopg.Cursor[TupleRow]]:
    """Open a cursor of the driver for a while.

    Args:
        session: In a transaction, which the cursor's statements join.
        binary: Whether results come as binary, which large values want.

    Raises:
        sqlalchemy.exc.DBAPIError: What the driver raised meanwhile, as SQLAlchemy calls it.
    """
    session.flush()
    connection = session.connection()
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"connection: got {type(driver).__name__}, want psycopg's")
    try:
        with driver.cursor(binary=binary) as cursor:
            yield cursor
    except psycopg.Error as error:
        if driver.closed:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None,
            None,
            error,
            psycopg.Error,
            connection_invalidated=driver.closed,
            dialect=connection.dialect,
        ) from error
