# SPDX-License-Identifier: Apache-2.0
"""Transactions on SQLite, and the place where errors of its library become errors of Zaqar.

Both kinds are context managers that give a connection. They are on the path of every request, so they make few calls.

SQLite's own waiting for a lock (``busy_timeout``) sleeps inside C, where gevent cannot run another request of the same
worker. So it is off, and :func:`run_until` tries again, with a sleep that gevent has patched. Only the disk still
blocks a worker: a read, a write or an fsync.
"""

from __future__ import annotations

import sqlite3
import time
from fcntl import LOCK_UN, flock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

from sqlalchemy.pool import PoolProxiedConnection

from zaqar.errors import StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.sqlite.write_turn import (
    BLOCKED_PATIENCE,
    LONGEST_RUN,
    NEW_RUN_AFTER,
    TRY_LOCK,
    WAITER_FRESH,
    WAITER_TIME,
    YIELD_SECONDS,
    WriteTurn,
)

if TYPE_CHECKING:
    from zaqar.storage.sqlalchemy.sqlite.database import SqliteDatabase


_FIRST_SLEEP: Final = 0.001
_LONGEST_SLEEP: Final = 0.02
"""Seconds between attempts. The holder of the lock is a program that does not use the lock file."""

_PRIMARY_CODE: Final = 0xFF
"""The bits of an extended result code that say which kind of error it is."""

_BEGIN_SNAPSHOT: Final = "PRAGMA data_version"
"""Takes the shared lock and with it the snapshot. BEGIN alone leaves both to the first statement."""


def run_until(connection: Connection, statement: str, deadline: float) -> None:
    """Run a statement that needs a lock and changes nothing if it does not get it; try again until the deadline.

    ``deadline`` is a time of ``time.monotonic``; after it there is one attempt. Raises the library's own errors,
    including the one that says that the database is locked.
    """
    sleep = _FIRST_SLEEP
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as exc:
            if not is_busy(exc) or monotonic() >= deadline:
                raise
        else:
            return
        # By its module: gevent may have replaced it there.
        time.sleep(min(sleep, max(0.0, deadline - monotonic())))
        sleep = min(sleep * 1.5, _LONGEST_SLEEP)


def is_busy(error: BaseException) -> bool:
    """Whether another connection has the lock. True also during a recovery, and for a snapshot too old to write on."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return bool(code & _PRIMARY_CODE == sqlite3.SQLITE_BUSY)


class SqliteConnection:
    """A connection of ``sqlite3`` with its place in SQLAlchemy's pool and the file that it is open on.

    It is in the set ``opened`` until it is closed.
    """

    __slots__ = ("_checkout", "_opened", "driver", "file")

    def __init__(
        self, checkout: PoolProxiedConnection, file: tuple[int, int] | None, opened: set[SqliteConnection]
    ) -> None:
        self._checkout = checkout
        self._opened = opened
        self.file = file
        """Device and inode of the database file; None in memory."""
        self.driver = cast("Connection", checkout.driver_connection)
        opened.add(self)

    def close(self) -> None:
        """Close an idle connection."""
        self._opened.discard(self)
        self._checkout.close()

    def discard(self, error: BaseException) -> None:
        """Close it. SQLite rolls back the transaction on it."""
        self._opened.discard(self)
        self._checkout.invalidate(error)


class ReadTransaction:
    """A transaction that reads one snapshot of the database; a new object for each use."""

    __slots__ = ("_connection", "_database")

    _connection: SqliteConnection

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        database = self._database
        try:
            self._connection = connection = database.acquire()
        except database.errors as exc:
            raise database.outage.failed(exc) from exc
        try:
            connection.driver.execute("BEGIN")
            try:
                connection.driver.execute(_BEGIN_SNAPSHOT)
            except sqlite3.OperationalError:
                # In WAL mode readers wait only for a recovery and for a program with an exclusive lock.
                run_until(connection.driver, _BEGIN_SNAPSHOT, monotonic() + database.turn.patience)
        except BaseException as exc:
            connection.discard(exc)
            if isinstance(exc, database.errors):
                raise database.outage.failed(exc) from exc
            raise
        return connection.driver

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, connection = self._database, self._connection
        try:
            connection.driver.rollback()
        except database.errors as exc:
            connection.discard(exc)
            raise database.outage.failed(error or exc) from error or exc
        if isinstance(error, database.errors):
            connection.discard(error)
            raise database.outage.failed(error) from error
        database.idle.append(connection)
        if database.outage.since is not None:
            database.outage.succeeded()


class WriteTransaction:
    """A transaction that writes, alone. It commits at the end, or rolls back if an error is raised.

    One object for each database: only one thread at a time is between its ``__enter__`` and ``__exit__``, so it keeps
    the state of that thread in itself.

    Three locks, always in this order: the lock of the process's threads, the lock file, SQLite's own lock (taken by
    BEGIN IMMEDIATE). If the process dies at any point, the kernel ends the lock on the file and SQLite's, and the next
    connection rolls back what was not committed.
    """

    __slots__ = ("_begin", "_commit", "_connection", "_database", "_turn")

    def __init__(self, database: SqliteDatabase, turn: WriteTurn, *, begin: str, commit: str) -> None:
        self._database = database
        self._turn = turn
        self._begin = begin
        self._commit = commit
        self._connection: SqliteConnection | None = None

    def __enter__(self) -> Connection:
        database, turn, started = self._database, self._turn, monotonic()
        if not turn.threads.acquire(timeout=turn.patience):
            raise database.outage.failed("another thread does not end its turn to write")
        # Each thread's deadline counts from its own start, so that the times of queued threads do not add up. If an
        # earlier thread waited in vain for a holder that is still there, this one waits only briefly.
        deadline = started + (BLOCKED_PATIENCE if turn.is_blocked else turn.patience)
        try:
            if (lock_file := turn.lock_file) is not None:
                if started - turn.last_write > NEW_RUN_AFTER:
                    turn.run_began = started
                elif started - turn.run_began > LONGEST_RUN:
                    # The time in the file may be torn, old or of a process that is gone. At worst this sleeps once in
                    # vain, or not at all and another process waits one run longer.
                    if started - WAITER_FRESH < WAITER_TIME.unpack_from(turn.waiter_time)[0] <= started:
                        time.sleep(YIELD_SECONDS)  # by its module: gevent may have replaced it there
                    turn.run_began = monotonic()
                try:
                    flock(lock_file, TRY_LOCK)
                except BlockingIOError:
                    turn.wait(lock_file, deadline)
            self._connection = connection = database.acquire(deadline)
            try:
                connection.driver.execute(self._begin)
            except sqlite3.OperationalError:
                # A program that does not use the lock file writes or recovers.
                run_until(connection.driver, self._begin, deadline)
            turn.is_blocked = False
        except BaseException as exc:
            if is_busy(exc) or isinstance(exc, StoreUnavailable):
                turn.is_blocked = True
            self._abandon(exc)
            if isinstance(exc, StoreUnavailable):
                raise database.outage.failed("another process does not end its turn to write") from None
            if isinstance(exc, database.errors):
                raise database.outage.failed(exc) from exc
            raise
        return connection.driver

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, turn, connection = self._database, self._turn, cast("SqliteConnection", self._connection)
        try:
            if error is None:
                # If the process dies in here, the write-ahead log has the whole transaction or nothing of it.
                connection.driver.execute(self._commit)
            else:
                connection.driver.rollback()
        except database.errors as exc:
            self._abandon(error or exc)
            raise database.outage.failed(error or exc) from error or exc
        if isinstance(error, database.errors):
            self._abandon(error)
            raise database.outage.failed(error) from error
        # Committed: from here on nothing may fail the request. Release the locks in reverse order. ``threads`` comes
        # last, because the thread that gets it uses this object and the lock file.
        self._connection = None
        database.idle.append(connection)
        try:
            if turn.lock_file is not None:
                flock(turn.lock_file, LOCK_UN)
                turn.last_write = monotonic()
        finally:
            turn.threads.release()
        if database.outage.since is not None:
            database.outage.succeeded()

    def _abandon(self, error: BaseException) -> None:
        """Close the connection, which may be broken for good, and release the turn.

        The connection first: closing it rolls back, so that the next writer does not meet SQLite's lock.
        """
        turn, connection = self._turn, self._connection
        try:
            self._connection = None
            if connection is not None:
                connection.discard(error)
            if turn.lock_file is not None:
                # Also if it was not locked: unlocking is harmless then.
                flock(turn.lock_file, LOCK_UN)
        finally:
            turn.threads.release()
