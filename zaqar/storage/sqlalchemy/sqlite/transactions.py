# SPDX-License-Identifier: Apache-2.0
"""Transactions on the connections to SQLite, and the one seam where the library's errors are translated.

Both kinds are context managers that give a connection. They are on the path of every request, so they call little.

SQLite's own waiting for a lock (``busy_timeout``) sleeps inside C, where gevent cannot run another request of the same
worker. So it is off, and :func:`run_in_time` tries again, with a sleep that gevent has patched. What still blocks a
worker is the disk: a read, a write or an fsync takes as long as it takes.
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
from zaqar.storage.sqlalchemy.sqlite.write_turn import BRIEF, FRESH, LOCK_AT_ONCE, NAP, NOTE, PAUSE, TENURE, WriteTurn

if TYPE_CHECKING:
    from zaqar.storage.sqlalchemy.sqlite.database import SqliteDatabase


_FIRST_SLEEP: Final = 0.001
_LONGEST_SLEEP: Final = 0.02
"""Seconds. The holder is a program that does not take turns; it is asked for its lock no more often than this."""

_PRIMARY_CODE: Final = 0xFF
"""The bits of an extended result code that say which kind of error it is."""

_BEGIN_READING: Final = "PRAGMA data_version"
"""Takes the lock for reading, which BEGIN leaves to the first statement, and so the moment that the reader sees."""


def run_in_time(connection: Connection, statement: str, deadline: float) -> None:
    """Run a statement that needs a lock and changes nothing if it does not get it; try again until the deadline.

    ``deadline`` is a time of ``time.monotonic``; there is one attempt also after it. Raises the library's own errors,
    the one that says that the database is locked included.
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
        time.sleep(min(sleep, max(0.0, deadline - monotonic())))  # by its module, where gevent may have put its own
        sleep = min(sleep * 1.5, _LONGEST_SLEEP)


def is_busy(error: BaseException) -> bool:
    """Whether another connection has the lock; also during a recovery, or if the moment to write at is past."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return bool(code & _PRIMARY_CODE == sqlite3.SQLITE_BUSY)


class Opened:
    """A connection and the place in SQLAlchemy's pool that it was checked out of."""

    __slots__ = ("checkout", "driver", "file")

    def __init__(self, checkout: PoolProxiedConnection, file: tuple[int, int] | None) -> None:
        self.checkout = checkout
        self.file = file
        """Device and inode of the file that it is a connection to; None for one in memory."""
        self.driver = cast("Connection", checkout.driver_connection)

    def discard(self, error: BaseException) -> None:
        """Close it, which ends its transaction."""
        self.checkout.invalidate(error)


class Reader:
    """A transaction that sees one moment of the database; one object for each use."""

    __slots__ = ("_database", "_opened")

    _opened: Opened

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        database = self._database
        try:
            self._opened = opened = database.take()
        except database.errors as exc:
            raise database.outage.failed(exc) from exc
        try:
            opened.driver.execute("BEGIN")
            try:
                opened.driver.execute(_BEGIN_READING)
            except sqlite3.OperationalError:
                run_in_time(opened.driver, _BEGIN_READING, monotonic() + database.turn.patience)
        except BaseException as exc:
            opened.discard(exc)
            if isinstance(exc, database.errors):
                raise database.outage.failed(exc) from exc
            raise
        return opened.driver

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, opened = self._database, self._opened
        try:
            opened.driver.rollback()
        except database.errors as exc:
            opened.discard(exc)
            raise database.outage.failed(error or exc) from error or exc
        if isinstance(error, database.errors):
            opened.discard(error)
            raise database.outage.failed(error) from error
        database.idle.append(opened)
        if database.outage.since is not None:
            database.outage.succeeded()


class Writer:
    """A transaction that writes, alone. It is committed at the end, or rolled back where an error is raised.

    One object for each database: only one thread at a time is between its ``__enter__`` and ``__exit__``.
    """

    __slots__ = ("_begin", "_commit", "_database", "_opened", "_turn")

    def __init__(self, database: SqliteDatabase, turn: WriteTurn, *, begin: str, commit: str) -> None:
        self._database = database
        self._turn = turn
        self._begin = begin
        self._commit = commit
        self._opened: Opened | None = None

    def __enter__(self) -> Connection:
        database, turn, started = self._database, self._turn, monotonic()
        if not turn.threads.acquire(timeout=turn.patience):
            raise database.outage.failed("another thread does not end its turn to write")
        # Each waits from its own beginning, so that the times of several who queue up do not add up; and if somebody
        # waited in vain for the one who is still in the way, only briefly.
        deadline = started + (BRIEF if turn.is_blocked else turn.patience)
        try:
            if (descriptor := turn.descriptor) is not None:
                if started - turn.ended > PAUSE:
                    turn.since = started
                elif started - turn.since > TENURE:
                    if started - FRESH < NOTE.unpack_from(turn.notes)[0] <= started:
                        time.sleep(NAP)  # by its module, where gevent may have put its own
                    turn.since = monotonic()
                try:
                    flock(descriptor, LOCK_AT_ONCE)
                except BlockingIOError:
                    turn.wait(descriptor, deadline)
            self._opened = opened = database.take(deadline)
            try:
                opened.driver.execute(self._begin)
            except sqlite3.OperationalError:
                run_in_time(opened.driver, self._begin, deadline)
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
        return opened.driver

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, turn, opened = self._database, self._turn, cast("Opened", self._opened)
        try:
            if error is None:
                opened.driver.execute(self._commit)
            else:
                opened.driver.rollback()
        except database.errors as exc:
            self._abandon(error or exc)
            raise database.outage.failed(error or exc) from error or exc
        if isinstance(error, database.errors):
            self._abandon(error)
            raise database.outage.failed(error) from error
        self._opened = None
        database.idle.append(opened)
        try:
            if turn.descriptor is not None:
                flock(turn.descriptor, LOCK_UN)
                turn.ended = monotonic()
        finally:
            turn.threads.release()
        if database.outage.since is not None:
            database.outage.succeeded()

    def _abandon(self, error: BaseException) -> None:
        """Give the turn, and part with the connection: it may be broken for good."""
        turn, opened = self._turn, self._opened
        try:
            self._opened = None
            if opened is not None:
                opened.discard(error)
            if turn.descriptor is not None:
                flock(turn.descriptor, LOCK_UN)
        finally:
            turn.threads.release()
