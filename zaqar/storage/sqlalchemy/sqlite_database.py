# SPDX-License-Identifier: Apache-2.0
"""An SQLite database: its connections, its transactions, and the one seam where the library's errors are translated."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from zaqar import private_files
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.connection import Database
from zaqar.storage.sqlalchemy.sqlite_transactions import Opened, Reader, Writer
from zaqar.storage.sqlalchemy.write_turn import WriteTurn

PATIENCE = 5.0
"""Seconds that a write waits for its turn."""

IDLE_SECONDS = 60.0
"""Connections that were not needed for so long are closed."""

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""

_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")
"""By the number that the pragma answers."""


class SqliteDatabase(Database):
    """Shared by threads, and unless it is in memory by processes.

    ``engine`` opens connections and serves what is off the hot path. The transactions of the stores run on connections
    of the driver that are kept here, as a checkout from a pool of SQLAlchemy costs as much as three statements.
    """

    dialect = "sqlite"

    def __init__(self, engine: sa.Engine, *, path: str | None, embedded: bool, patience: float) -> None:
        self.engine = engine
        self.path = path
        self.name = path or "in memory"
        self.is_in_memory = path is None
        self.embedded = embedded
        self.turn = WriteTurn(None if path is None else f"{path}.lock", patience=patience)
        self.errors: tuple[type[Exception], ...] = (
            engine.dialect.loaded_dbapi.Error,
            sa.exc.DBAPIError,
            sa.exc.TimeoutError,
            OSError,
        )
        self.idle: list[Opened] = []
        """Connections between their transactions; the last one that was used is taken first.

        There are as many as threads were in a transaction at a time, and after a while as many as are.
        """
        self._least_idle = 0
        """How many were idle all the time since the last look at them."""
        self._look_at = 0.0
        self._write = Writer(self, self.turn, begin="BEGIN IMMEDIATE", commit="COMMIT")
        self._alone = Writer(self, self.turn, begin="SELECT 1", commit="SELECT 1")
        self._held_for_fork = False
        self._is_made = False
        """Whether there is a file: the first connection makes it."""
        _databases.add(self)

    @classmethod
    def connect(
        cls, uri: str, *, embedded: bool, synchronous: str = "FULL", patience: float = PATIENCE, **_: Any
    ) -> Self:
        path = _path_of(uri)
        if synchronous not in _SYNCHRONOUS[1:]:
            raise StartupError(f"synchronous of an SQLite database is NORMAL, FULL or EXTRA, not '{synchronous}'.")
        engine = _make_engine(path, synchronous, patience)
        _check_version(engine.dialect.loaded_dbapi.sqlite_version)
        try:
            if path is not None:
                # SQLite gives the files beside it the mode of the database file, if that is there first.
                private_files.create_file(path)
            database = cls(engine, path=path, embedded=embedded, patience=patience)
        except OSError as exc:
            raise StartupError(f"The SQLite database {path} cannot be opened: {_reason(exc)}.") from exc
        try:
            database._try_it()
        except StoreUnavailable as exc:
            database.close()
            raise StartupError(f"The SQLite database {path} cannot be opened: {_reason(exc)}.") from exc
        return database

    def _try_it(self) -> None:
        # In its turn: processes that change a new file to WAL at the same time disturb each other.
        with self.write as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        self._is_made = True
        if self.path is None:
            return
        if mode != "wal":
            self.close()
            raise StartupError(f"The SQLite database {self.path} cannot be opened: its file system cannot do WAL.")
        # Not before it is known to be a database: a path may be mistaken for one.
        for suffix in ("", "-wal", "-shm"):
            private_files.close_to_others(self.path + suffix)

    @property
    def write(self) -> Writer:
        return self._write

    def read(self) -> Reader | Writer:
        """``with database.read() as connection``: a transaction that reads. In memory there is only one connection."""
        return Reader(self) if self.path is not None else self.write

    @contextmanager
    def change_schema(self) -> Iterator[sa.Connection]:
        """The same as ``write`` with a connection of SQLAlchemy, for what is off the hot path."""
        with self._alone, self.engine.begin() as connection:
            yield connection

    def durability(self) -> Mapping[str, str]:
        if self.path is None:
            return {"store": "sqlite", "journal_mode": "memory", "survives": "nothing: it ends with the process"}
        synchronous = self.synchronous()
        survives = "process crash" if synchronous == "NORMAL" else "process crash and power cut"
        return {"store": "sqlite", "journal_mode": "wal", "synchronous": synchronous, "survives": survives}

    def synchronous(self) -> str:
        """What the pragma says on a live connection."""
        with self.read() as connection:
            return _SYNCHRONOUS[connection.execute("PRAGMA synchronous").fetchone()[0]]

    def take(self) -> Opened:
        """A connection to the file that is at the path now. Raises what is among ``errors``, OSError where none is.

        A file that was removed or replaced stays writable for who has it open, and what it takes in is lost.
        """
        file = None
        if self.path is not None and self._is_made:
            found = os.stat(self.path)  # noqa: PTH116, on the path of every request
            file = (found.st_dev, found.st_ino)
        left = len(self.idle) - 1
        if left < self._least_idle or monotonic() > self._look_at:
            self._shrink(left)
        while self.idle:
            try:
                opened = self.idle.pop()
            except IndexError:  # another thread took the last one
                break
            if opened.file == file:
                return opened
            opened.checkout.close()
        return Opened(self.engine.raw_connection(), file)

    def _shrink(self, left: int) -> None:
        """Note that ``left`` connections are not needed now; close those that were not needed for a while."""
        now = monotonic()
        self._least_idle = min(self._least_idle, max(0, left))
        if now > self._look_at:
            # The first ones are those that were used least.
            self._close_first(self._least_idle)
            self._least_idle, self._look_at = len(self.idle), now + IDLE_SECONDS

    def _close_first(self, count: int) -> None:
        for _ in range(count):
            with suppress(IndexError, *self.errors):  # other threads took them, or it is of no more use however it ends
                self.idle.pop(0).checkout.close()

    def close(self) -> None:
        self.close_idle()
        self.engine.dispose()
        self.turn.close()

    def close_idle(self) -> None:
        while self.idle:
            with suppress(*self.errors):  # it is of no more use, however it ends
                self.idle.pop().checkout.close()

    # -- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        # SQLite notes once per process which locks it holds on a file. A child that inherits an open connection would
        # take them for its own, for connections that it opens itself as well. So none stays open.
        self._held_for_fork = self.turn.threads.acquire(timeout=self.turn.patience)
        if self.path is not None:
            self.close_idle()

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self.turn.threads.release()

    def after_fork_in_child(self) -> None:
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


def _make_engine(path: str | None, synchronous: str, patience: float) -> sa.Engine:
    arguments = {"check_same_thread": False, "isolation_level": None}
    if path is None:
        engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments)
    else:
        url = sa.URL.create("sqlite", database=path)
        engine = sa.create_engine(url, poolclass=NullPool, connect_args=arguments)

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    # The driver is told (isolation_level) to leave transactions alone, or it would begin none before DDL.
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


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
