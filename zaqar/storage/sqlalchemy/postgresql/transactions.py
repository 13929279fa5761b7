# SPDX-License-Identifier: Apache-2.0
"""Transactions on PostgreSQL, and the place where errors of psycopg become errors of Zaqar.

They are on the path of every request, so they make few calls.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

import psycopg
from psycopg import errors

from zaqar.storage.sqlalchemy.client.conflicts import TransactionConflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.postgresql.connection import PostgresqlConnection

if TYPE_CHECKING:
    from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase

AUTOCOMMIT: Final = ""
READ_WRITE: Final = "BEGIN"
"""READ COMMITTED: each statement sees what others committed while it waited for a lock."""
READ_ONLY: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
"""All statements read one snapshot."""

_CONFLICTS: Final = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)
"""The server rolled the transaction back because of another one; a retry will see the changes of that one."""


class PostgresqlTransaction:
    """A context manager that gives a connection. It commits at the end, or rolls back if an error is raised.

    ``begin`` is the statement that begins the transaction; with AUTOCOMMIT each statement is one by itself.
    """

    __slots__ = ("_begin", "_connection", "_database")

    _connection: PostgresqlConnection

    def __init__(self, database: PostgresqlDatabase, begin: str) -> None:
        self._database = database
        self._begin = begin

    def __enter__(self) -> Connection:
        database = self._database
        if not database.is_prepared:
            database.prepare_late()
        try:
            self._connection = connection = database.pool.acquire()
        except psycopg.Error as exc:
            raise database.outage.failed(exc) from exc
        if self._begin:
            try:
                connection.execute(self._begin)
            except BaseException as exc:
                # No __exit__ follows. The answer to BEGIN may still be on its way, so the connection is not reusable.
                database.pool.discard(connection)
                if isinstance(exc, psycopg.Error):
                    raise database.outage.failed(exc) from exc
                raise
        return cast("Connection", connection)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, connection = self._database, self._connection
        if error is None and not self._begin:
            database.pool.release(connection)
            if database.outage.since is not None:
                database.outage.succeeded()
            return
        try:
            if error is None:
                # If the connection ends in here, the server may have committed or not. The caller gets StoreUnavailable
                # and treats the outcome as unknown.
                connection.execute("COMMIT")
            elif isinstance(error, Exception):
                connection.rollback()
            failure = error
        except psycopg.Error as exc:
            failure = error or exc
        # Anything but an Exception, such as GreenletExit, may have come in the middle of an answer: the next user of
        # the connection would read the rest of it.
        if failure is None or (isinstance(failure, Exception) and connection.is_usable()):
            database.pool.release(connection)
        else:
            database.pool.discard(connection)
        if isinstance(failure, _CONFLICTS):
            raise TransactionConflict from failure
        if isinstance(failure, psycopg.Error):
            raise database.outage.failed(failure) from failure
        if database.outage.since is not None:
            database.outage.succeeded()
