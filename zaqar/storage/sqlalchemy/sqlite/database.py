# SPDX-License-Identifier: Apache-2.0
"""An SQLite database: opening it, its connections, its room on the disk, forks. ``Database.open`` makes it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self, cast

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from zaqar import private_files
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import Outage
from zaqar.storage.base.outages import Unlogged
from zaqar.storage.sqlalchemy.client.database import Connection, Database, HasBody
from zaqar.storage.sqlalchemy.sqlite.transactions import (
    ReadTransaction,
    SqliteConnection,
    WriteTransaction,
    run_until,
)
from zaqar.storage.sqlalchemy.sqlite.write_turn import WriteTurn

PATIENCE = 5.0
"""Seconds that a write waits for its turn."""

IDLE_SECONDS = 60.0
"""Connections that were not needed for so long are closed."""

RESERVE: Final = 32 * 2**20
"""Bytes of free disk space that posts do not use, so that deletes and claims can still write. The write-ahead log takes
about 4 MiB, and more for a transaction that is larger."""

_OVERHEAD: Final = 1024
"""Bytes that a message takes besides its body, including its index entries."""

_SPARE: Final = 256 * 1024
"""Bytes of free pages in the file that posts do not use up, because new index entries may go to any page."""

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING."""

_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")
"""Indexed by the number that the pragma returns."""


class SqliteDatabase(Database):
    """Shared by threads and, unless it is in memory, by processes.

    ``engine`` opens connections and runs schema changes. Transactions of the stores use connections of ``sqlite3`` that
    are kept here: a checkout from a pool of SQLAlchemy costs as much as three statements.
    """

    dialect = "sqlite"

    def __init__(
        self, engine: sa.Engine, *, path: str | None, embedded: bool, synchronous: str, patience: float
    ) -> None:
        self.engine = engine
        self.path = path
        self.name = path or "in memory"
        self.outage: Outage = Unlogged(f"The SQLite database {self.name}")
        self.is_in_memory = path is None
        self.embedded = embedded
        self.turn = WriteTurn(None if path is None else f"{path}.lock", patience=patience)
        self.errors: tuple[type[Exception], ...] = (
            engine.dialect.loaded_dbapi.Error,
            sa.exc.DBAPIError,
            sa.exc.TimeoutError,
            OSError,
        )
        self.idle: list[SqliteConnection] = []
        """Connections that no transaction uses, as a stack: the one that was used last is taken first.

        There are as many as transactions ran at the same time; ``_shrink`` closes those that are no longer needed.
        ``append`` and ``pop`` are atomic, so that no lock is needed.
        """
        self._opened: set[SqliteConnection] = set()
        """All connections, also those that transactions use. ``add`` and ``discard`` are atomic too."""
        self._least_idle = 0
        """The smallest number of idle connections since the last ``_shrink``: so many were never needed."""
        self._shrink_at = 0.0
        self._write = WriteTransaction(self, self.turn, begin="BEGIN IMMEDIATE", commit="COMMIT")
        self._turn_only = WriteTransaction(self, self.turn, begin="SELECT 1", commit="SELECT 1")
        """Holds the turn to write, while a connection of ``engine`` has the transaction."""
        self._held_for_fork = False
        self._settings = ("PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {synchronous}")
        self.reserve = RESERVE
        self._exists = False
        """Whether the file exists: the first connection creates it."""
        _databases.add(self)

    @classmethod
    def connect(
        cls,
        uri: str,
        *,
        embedded: bool,
        synchronous: str = "FULL",
        patience: float = PATIENCE,
        listen: bool = False,
        **_: Any,
    ) -> Self:
        path = _path_of(uri)
        if listen:
            raise StartupError(
                "listen of [drivers:message_store:sqlalchemy], or of the options of a pool, must be false with an "
                "SQLite database: only PostgreSQL has LISTEN."
            )
        if synchronous not in _SYNCHRONOUS[1:]:
            raise StartupError(f"synchronous of an SQLite database is NORMAL, FULL or EXTRA, not '{synchronous}'.")
        engine = _make_engine(path)
        _check_version(engine.dialect.loaded_dbapi.sqlite_version)
        try:
            if path is not None:
                # SQLite gives the files beside it the mode of the database file, if that is there first.
                private_files.create_file(path)
            database = cls(engine, path=path, embedded=embedded, synchronous=synchronous, patience=patience)
        except OSError as exc:
            raise StartupError(f"The SQLite database {path} cannot be opened: {_reason(exc)}.") from exc
        try:
            database._check_file()
        except StoreUnavailable as exc:
            database.close()
            raise StartupError(f"The SQLite database {path} cannot be opened: {_reason(exc)}.") from exc
        database.outage = Outage.of(database.outage.name)
        return database

    def _check_file(self) -> None:
        # In a turn to write: processes that change a new file to WAL at the same time would fail with "locked".
        with self.write as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        self._exists = True
        if self.path is None:
            return
        if mode != "wal":
            self.close()
            raise StartupError(f"The SQLite database {self.path} cannot be opened: its file system cannot do WAL.")
        # Change modes only of a file that is known to be a database: the path may be a mistake.
        for suffix in ("", "-wal", "-shm"):
            private_files.close_to_others(self.path + suffix)

    @property
    def write(self) -> WriteTransaction:
        return self._write

    def read(self) -> ReadTransaction | WriteTransaction:
        """``with database.read() as connection``: a transaction that reads one snapshot.

        In memory there is only one connection, so reads take turns with writes.
        """
        return ReadTransaction(self) if self.path is not None else self.write

    @contextmanager
    def change_schema(self) -> Iterator[sa.Connection]:
        """A transaction for schema changes, in a turn to write, with a connection of SQLAlchemy."""
        with self._turn_only, self.engine.connect() as connection:
            driver = cast("Connection", connection.connection.driver_connection)
            for statement in (*self._settings, "BEGIN IMMEDIATE"):
                run_until(driver, statement, monotonic() + self.turn.patience)
            with connection.begin():
                yield connection

    def check_room(self, drafts: Sequence[HasBody]) -> None:
        """Raise StoreUnavailable if these posts would use the RESERVE of the disk.

        Deletes and claims need disk space for the write-ahead log before they free any. If the database file has enough
        free pages, a post may use them: it does not make the file larger.
        """
        if self.path is None:
            return
        try:
            found = os.statvfs(self.path)
        except OSError as exc:
            raise self.outage.failed(exc) from exc
        left = found.f_bavail * found.f_frsize
        if left >= self.reserve:
            return
        needed = sum(len(draft.body) + _OVERHEAD for draft in drafts)
        with self.read() as connection:
            (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        if pages * size < 2 * needed + _SPARE:
            raise self.outage.failed(
                f"its disk is nearly full, with {left // 2**20} MiB left: nothing is added before messages are deleted"
            )

    def durability(self) -> Mapping[str, str]:
        if self.path is None:
            return {"store": "sqlite", "journal_mode": "memory", "survives": "nothing: it ends with the process"}
        synchronous = self.synchronous()
        survives = "process crash" if synchronous == "NORMAL" else "process crash and power cut"
        return {"store": "sqlite", "journal_mode": "wal", "synchronous": synchronous, "survives": survives}

    def synchronous(self) -> str:
        """The value of the pragma on a live connection."""
        with self.read() as connection:
            return _SYNCHRONOUS[connection.execute("PRAGMA synchronous").fetchone()[0]]

    def connections(self) -> Mapping[str, int]:
        idle = len(self.idle)
        return {"used": max(0, len(self._opened) - idle), "idle": idle}

    def acquire(self, deadline: float | None = None) -> SqliteConnection:
        """A connection to the file that is at the path now. The caller appends it to ``idle``, or discards it.

        Opening a new one waits for locks until ``deadline``, a time of ``time.monotonic``; by default as long as a
        write waits. Raises one of ``errors``; OSError if there is no file.
        """
        # A process that has a removed or replaced file open can still write to it, and the writes are lost with the
        # process. So each use compares the file of the connection with the file at the path.
        file = None
        if self.path is not None and self._exists:
            found = os.stat(self.path)  # noqa: PTH116, on the path of every request
            file = (found.st_dev, found.st_ino)
        left = len(self.idle) - 1
        if left < self._least_idle or monotonic() > self._shrink_at:
            self._shrink(left)
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.file == file:
                return connection
            connection.close()
        connection = SqliteConnection(self.engine.raw_connection(), file, self._opened)
        try:
            for statement in self._settings:
                run_until(connection.driver, statement, deadline or monotonic() + self.turn.patience)
        except BaseException as exc:
            connection.discard(exc)
            raise
        return connection

    def _shrink(self, left: int) -> None:
        """Note that ``left`` connections stay idle now. Close those that were not needed for IDLE_SECONDS."""
        now = monotonic()
        self._least_idle = min(self._least_idle, max(0, left))
        if now > self._shrink_at:
            # The bottom of the stack holds the connections that were used least.
            self._close_first(self._least_idle)
            self._least_idle, self._shrink_at = len(self.idle), now + IDLE_SECONDS

    def _close_first(self, count: int) -> None:
        for _ in range(count):
            with suppress(IndexError, *self.errors):  # other threads took them, or it fails to close and is unused
                self.idle.pop(0).close()

    def close(self) -> None:
        self.close_idle()
        self.engine.dispose()
        self.turn.close()

    def close_idle(self) -> None:
        while self.idle:
            with suppress(*self.errors):  # it fails to close and is unused
                self.idle.pop().close()

    # -- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        # SQLite keeps a table of its locks on each file in the memory of the process. A child that inherits an open
        # connection would believe that it holds the locks of the parent, even for connections that it opens itself. So
        # close all connections before the fork. With the turn held, no other thread is in a write meanwhile.
        self._held_for_fork = self.turn.threads.acquire(timeout=self.turn.patience)
        if self.path is not None:
            self.close_idle()

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self.turn.threads.release()

    def after_fork_in_child(self) -> None:
        # The threads that used the others do not exist here.
        self._opened.clear()
        self.turn.renew_in_child()


# -- opening ----------------------------------------------------------------------------------------------------------


def _path_of(uri: str) -> str | None:
    """The absolute path of the file, symbolic links resolved as SQLite does; None for a database in memory."""
    try:
        url = sa.make_url(uri)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise StartupError("The URI of the database is not of the form sqlite:///path.") from exc
    if url.get_backend_name() != "sqlite":
        raise StartupError(f"Of SQL databases this release can use sqlite, not '{url.get_backend_name()}'.")
    if url.query or url.host or (url.database or "").startswith("file:"):
        raise StartupError("The URI of an SQLite database is sqlite:///path, without a host or options.")
    if not url.database or url.database == ":memory:":
        return None
    if "\0" in url.database:
        raise StartupError("The URI of an SQLite database is malformed: a path cannot hold the character NUL.")
    path = Path(url.database).resolve()
    folder = path.parent
    if not folder.is_dir():
        raise StartupError(f"The SQLite database {path} cannot be opened: {folder} is not a directory.")
    for needed in (folder, path):
        # SQLite would open a file that is read-only, and fail at the first write.
        if needed.exists() and not os.access(needed, os.R_OK | os.W_OK):
            raise StartupError(f"The SQLite database {path} cannot be opened: {needed} cannot be written to.")
    return str(path)


def _make_engine(path: str | None) -> sa.Engine:
    # isolation_level None: sqlite3 does not begin transactions by itself, which it would not do before DDL.
    # timeout 0: SQLite does not wait for locks in C, where gevent could not run other requests.
    arguments = {"check_same_thread": False, "isolation_level": None, "timeout": 0}
    if path is None:
        return sa.create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments)
    return sa.create_engine(sa.URL.create("sqlite", database=path), poolclass=NullPool, connect_args=arguments)


def _check_version(version: str) -> None:
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        raise StartupError(f"SQLite {version} is too old: {oldest} or later is needed.")


def _reason(error: BaseException) -> str:
    if isinstance(error, StoreUnavailable):
        if error.__cause__ is None:
            return "another process does not let go of it"
        error = error.__cause__
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})"
    return str(error.orig if isinstance(error, sa.exc.DBAPIError) else error)


# -- fork -------------------------------------------------------------------------------------------------------------

_databases: weakref.WeakSet[SqliteDatabase] = weakref.WeakSet()


def _each(method: str) -> None:
    for database in list(_databases):
        getattr(database, method)()


os.register_at_fork(
    before=lambda: _each("before_fork"),
    after_in_parent=lambda: _each("after_fork_in_parent"),
    after_in_child=lambda: _each("after_fork_in_child"),
)
