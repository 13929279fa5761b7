# SPDX-License-Identifier: Apache-2.0
"""An SQLite database: its connections, its transactions, and the one seam where the library's errors are translated."""

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
from zaqar.storage.sqlalchemy.sqlite.transactions import Opened, Reader, Writer, run_in_time
from zaqar.storage.sqlalchemy.sqlite.write_turn import WriteTurn

PATIENCE = 5.0
"""Seconds that a write waits for its turn."""

IDLE_SECONDS = 60.0
"""Connections that were not needed for so long are closed."""
RESERVE: Final = 32 * 2**20
"""Bytes of the disk that posts leave alone, so that deletes and claims can still write. The write-ahead log takes 4 MiB
or so, and more for a transaction that is larger."""

_OVERHEAD: Final = 1024
"""Bytes that a message takes besides its body, with its entries in the indices."""

_SPARE: Final = 256 * 1024
"""Bytes of free pages in the file that posts do not use up, as entries in the indices may be anywhere in it."""

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
        self._settings = ("PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {synchronous}")
        self.reserve = RESERVE
        self._is_made = False
        """Whether there is a file: the first connection makes it."""
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
            database._try_it()
        except StoreUnavailable as exc:
            database.close()
            raise StartupError(f"The SQLite database {path} cannot be opened: {_reason(exc)}.") from exc
        database.outage = Outage.of(database.outage.name)
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
        with self._alone, self.engine.connect() as connection:
            driver = cast("Connection", connection.connection.driver_connection)
            for statement in (*self._settings, "BEGIN IMMEDIATE"):
                run_in_time(driver, statement, monotonic() + self.turn.patience)
            with connection.begin():
                yield connection

    def check_room(self, drafts: Sequence[HasBody]) -> None:
        """StoreUnavailable if they would use up the RESERVE of the disk.

        Deletes and claims need some space for a moment, also those after which there is more. A post may go on in
        pages of the file that are free.
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
        """What the pragma says on a live connection."""
        with self.read() as connection:
            return _SYNCHRONOUS[connection.execute("PRAGMA synchronous").fetchone()[0]]

    def take(self, deadline: float | None = None) -> Opened:
        """A connection to the file that is at the path now. Raises what is among ``errors``, OSError where none is.

        A new one waits for the locks of others until the deadline, a time of ``time.monotonic``; if there is none, as
        long as a write waits.
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
        opened = Opened(self.engine.raw_connection(), file)
        try:
            for statement in self._settings:
                run_in_time(opened.driver, statement, deadline or monotonic() + self.turn.patience)
        except BaseException as exc:
            opened.discard(exc)
            raise
        return opened

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


def _make_engine(path: str | None) -> sa.Engine:
    # The driver is told (isolation_level) to leave transactions alone, or it would begin none before DDL; and not to
    # wait for locks in C (timeout), where gevent could run nobody else.
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
