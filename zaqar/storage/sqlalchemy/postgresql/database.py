# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL database: its connections and their transactions.

Connections are kept here, a bounded number per process, and taken last in, first out. A transaction that writes is
READ COMMITTED, so that each statement sees what others committed while it waited for a lock; one that reads sees one
moment. Statements that are a transaction by themselves run on ``alone()``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, cast

import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.pool import NullPool

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import Outage
from zaqar.storage.sqlalchemy.client.conflicts import Undone
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.postgresql import connection as postgresql_link
from zaqar.storage.sqlalchemy.postgresql.connection import Address, Link
from zaqar.storage.sqlalchemy.postgresql.wakeups import CHANNEL, PostgresqlWakeups

PATIENCE = 4.5
"""Seconds that a transaction takes at most, the waiting for a connection included."""

_TO_CONNECT = 3
_FOR_A_CONNECTION = 1.4

IDLE_SECONDS = 60.0
"""A connection that was not needed for so long is closed."""

OLDEST_POSTGRESQL = 140000

UPGRADE_LOCK: Final = 7_230_187_412_360_001
"""Any number that nobody else takes: processes that change the schema at once do so one after the other."""

_IS_TEMPORARY = re.compile("starting up|shutting down|recovery|too many|connection slots")
"""In what a server says that refuses a connection now and will take it later."""

_REST = 0.5
"""Seconds for which a server that did not answer is not asked again, so that requests do not queue up for it."""

_UNDONE = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)


class PostgresqlDatabase(Database):
    dialect = "postgresql"

    def __init__(self, address: Address, *, embedded: bool, connections: int, listen: bool = False) -> None:
        self.name = address.name
        self.outage = Outage.of(self.name)
        self.embedded = embedded
        self.listen = listen
        """Whether posts and releases are told to those that listen."""
        self._address = address
        self._most = connections
        self._idle: list[Link] = []
        self._shrink_at = 0.0
        self._free = threading.BoundedSemaphore(connections)
        self._is_prepared = True
        """Whether the server was seen to be fit; only who asks for it by ``prepare_once_there`` waits for that."""
        self._preparing = threading.Lock()
        self._ask_after = 0.0
        postgresql_link.register_for_fork(self)

    def renew_in_child(self) -> None:
        """Connections are not shared with a child: it leaves those it inherits alone and opens its own."""
        postgresql_link.leave_to_parent(self._idle)
        self._idle = []
        self._free = threading.BoundedSemaphore(self._most)
        self._preparing = threading.Lock()

    @classmethod
    def connect(cls, uri: str, *, embedded: bool, connections: int = 20, listen: bool = False, **_: Any) -> Self:
        return cls(Address.of(uri), embedded=embedded, connections=connections, listen=listen)

    def prepare(self) -> None:
        """StoreUnavailable where the server does not answer."""
        self._check_server()
        super().prepare()

    def prepare_once_there(self) -> None:
        self._is_prepared = False
        try:
            self._prepare_now()
        except StoreUnavailable:
            return  # the log has it

    def _prepare_now(self) -> None:
        if monotonic() < self._ask_after or not self._preparing.acquire(timeout=_TO_CONNECT):
            raise self.outage.failed("it did not answer a moment ago")
        try:
            if not self._is_prepared:
                self.prepare()
                self._is_prepared = True
                self.warn()
        except StoreUnavailable:
            self._ask_after = monotonic() + _REST
            raise
        finally:
            self._preparing.release()

    def _check_server(self) -> None:
        """Whether it lets us in and is new enough; StartupError where not, StoreUnavailable where it is away."""
        try:
            link = self._address.connect(_TO_CONNECT)
        except psycopg.Error as exc:
            if "FATAL" in str(exc) and not _IS_TEMPORARY.search(str(exc)):
                raise StartupError(f"{self.name} cannot be opened: {_in_one_line(exc)}.") from exc
            raise self.outage.failed(exc) from exc
        version = link.info.server_version
        link.close()
        if version < OLDEST_POSTGRESQL:
            raise StartupError(f"{self.name} cannot be opened: PostgreSQL 14 or later is needed.")

    # -- transactions ------------------------------------------------------------------------------------------------

    def alone(self) -> Transaction:
        """``with database.alone() as connection``: each statement is a transaction by itself."""
        return Transaction(self, "")

    @property
    def write(self) -> Transaction:
        return Transaction(self, "BEGIN")

    def read(self) -> Transaction:
        return Transaction(self, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def read_once(self) -> Transaction:
        return self.alone()

    @contextmanager
    def change_schema(self) -> Iterator[sa.Connection]:
        engine = sa.create_engine("postgresql+psycopg://", poolclass=NullPool, creator=self._address.connect_plainly)
        try:
            with engine.begin() as connection:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
                yield connection
        except (psycopg.Error, sa.exc.DBAPIError) as exc:
            raise self.outage.failed(exc) from exc
        finally:
            engine.dispose()

    # -- connections -------------------------------------------------------------------------------------------------

    def take(self) -> Link:
        """A connection that was alive a moment ago. Raises psycopg's errors and StoreUnavailable."""
        started = monotonic()
        if not self._is_prepared:
            self._prepare_late()
        if not self._free.acquire(timeout=_FOR_A_CONNECTION):
            raise self.outage.failed("no connection is free")
        try:
            link = self._take_idle() or self._address.connect(_TO_CONNECT)
        except BaseException:
            self._free.release()
            raise
        link.deadline = started + PATIENCE
        try:
            link.keep_plans_fresh(started)
        except BaseException:
            self.discard(link)
            raise
        return link

    def _prepare_late(self) -> None:
        """At the first contact with a server that was away at start."""
        try:
            self._prepare_now()
        except StartupError as exc:
            raise self.outage.failed(exc) from exc

    def _take_idle(self) -> Link | None:
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if link.is_quiet():
                return link
            link.close()
        return None

    def give(self, link: Link) -> None:
        self._idle.append(link)
        self._free.release()
        if link.deadline > self._shrink_at:
            self._shrink(link.deadline)

    def _shrink(self, now: float) -> None:
        """Close those that were not needed for a while. A deadline says when a connection was used last."""
        self._shrink_at = now + IDLE_SECONDS / 4
        for link in [each for each in self._idle if each.deadline < now - IDLE_SECONDS]:
            with suppress(ValueError):  # another thread took it
                self._idle.remove(link)
                link.close()

    def discard(self, link: Link) -> None:
        try:
            link.close()
        finally:
            self._free.release()

    def wakeups(self) -> PostgresqlWakeups:
        """A new connection that listens, besides those of transactions. Raises StoreUnavailable."""
        try:
            link = self._address.connect(_TO_CONNECT)
            try:
                link.deadline = monotonic() + PATIENCE
                link.execute(f"LISTEN {CHANNEL}", prepare=False)
            except BaseException:
                link.close()
                raise
        except psycopg.Error as exc:
            raise self.outage.failed(exc) from exc
        return PostgresqlWakeups(link, self.outage)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    # -- what it is like ---------------------------------------------------------------------------------------------

    def durability(self) -> Mapping[str, str]:
        names = ("synchronous_commit", "fsync", "full_page_writes", "synchronous_standby_names")
        with self.alone() as connection:
            query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
            found = dict(zip(names, connection.execute(query).fetchone(), strict=True))
        report = {"store": "postgresql", **{name: value or "none" for name, value in found.items()}}
        if found["fsync"] != "on":
            report["survives"] = "process crash"
            report["warning"] = "fsync is off: a power cut may lose acknowledged messages, or the whole database"
        elif found["synchronous_commit"] == "off":
            report["survives"] = "crash of a client"
            report["warning"] = (
                "synchronous_commit is off: a crash of the server may lose messages acknowledged just before"
            )
        else:
            report["survives"] = "process crash and power cut"
            if found["synchronous_standby_names"] and found["synchronous_commit"] != "local":
                report["survives"] += ", and loss of the server while a synchronous standby lives"
            if found["full_page_writes"] != "on":
                report["warning"] = "full_page_writes is off: a power cut may corrupt the database on most file systems"
        return report


class Transaction:
    """A context manager that gives a connection; it commits at the end, or rolls back where an error is raised."""

    __slots__ = ("_begin", "_database", "_link")

    _link: Link

    def __init__(self, database: PostgresqlDatabase, begin: str) -> None:
        self._database = database
        self._begin = begin

    def __enter__(self) -> Connection:
        try:
            self._link = link = self._database.take()
        except psycopg.Error as exc:
            raise self._database.outage.failed(exc) from exc
        if self._begin:
            try:
                link.execute(self._begin)
            except BaseException as exc:
                self._database.discard(link)
                if isinstance(exc, psycopg.Error):
                    raise self._database.outage.failed(exc) from exc
                raise
        return cast("Connection", link)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        database, link = self._database, self._link
        if error is None and not self._begin:
            database.give(link)
            if database.outage.since is not None:
                database.outage.succeeded()
            return
        try:
            if error is None:
                link.execute("COMMIT")
            elif isinstance(error, Exception):
                link.rollback()
            failure = error
        except psycopg.Error as exc:
            failure = error or exc
        if failure is None or (isinstance(failure, Exception) and link.is_usable()):
            database.give(link)
        else:
            database.discard(link)
        if isinstance(failure, _UNDONE):
            raise Undone from failure
        if isinstance(failure, psycopg.Error):
            raise database.outage.failed(failure) from failure
        if database.outage.since is not None:
            database.outage.succeeded()


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split()).rstrip(".?")
