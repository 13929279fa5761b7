# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL database: its transactions, its schema, its durability. ``Database.open`` makes it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, Self

import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.pool import NullPool

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import Outage
from zaqar.storage.sqlalchemy.client.conflicts import TransactionConflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.postgresql import connection as postgresql_connection
from zaqar.storage.sqlalchemy.postgresql.connection import (
    CONNECT_SECONDS,
    SETTINGS,
    TRANSACTION_SECONDS,
    ConnectionParameters,
    PostgresqlConnection,
    find_missing_settings,
)
from zaqar.storage.sqlalchemy.postgresql.pool import ConnectionPool
from zaqar.storage.sqlalchemy.postgresql.transactions import AUTOCOMMIT, READ_ONLY, READ_WRITE, PostgresqlTransaction
from zaqar.storage.sqlalchemy.postgresql.wakeups import PostgresqlWakeups

_log = logging.getLogger(__name__)

OLDEST_POSTGRESQL = 140000

UPGRADE_LOCK: Final = 7_230_187_412_360_001
"""The number of an advisory lock, chosen at random: processes that change the schema hold it, one after the other."""

LOCK_MILLISECONDS: Final = 500
"""How long a schema change waits for the lock of a table. ``migration.change`` tries again."""

_IS_TEMPORARY = re.compile(
    "starting up|shutting down|recovery|too many|connection slots"
    "|server down|server login|cannot connect to server|no more connections"
)
"""Found in the refusal of a server, or of PgBouncer in the second line, that will accept the same connection later."""

_BACK_OFF_SECONDS = 0.5
"""A server that did not answer is not asked for so long, so that requests do not queue up behind the attempts."""


class PostgresqlDatabase(Database):
    """Shared by threads and processes. Each process opens its own connections."""

    dialect = "postgresql"

    def __init__(
        self, parameters: ConnectionParameters, *, embedded: bool, connections: int, listen: bool = False
    ) -> None:
        self.name = parameters.name
        self.outage = Outage.of(self.name)
        self.embedded = embedded
        self.listen = listen
        """Whether posts and releases notify the processes that listen."""
        self.pool = ConnectionPool(parameters, self.outage, size=connections)
        self.is_prepared = True
        """Whether the server's version and schema were checked. ``prepare_once_there`` sets it to False until then."""
        self._parameters = parameters
        self._preparing = threading.Lock()
        self._ask_after = 0.0
        postgresql_connection.register_for_fork(self)

    def renew_in_child(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it at the fork."""
        self._preparing = threading.Lock()

    @classmethod
    def connect(
        cls,
        uri: str,
        *,
        embedded: bool,
        connections: int = 20,
        listen: bool = False,
        transaction_pooling: bool = False,
        **_: Any,
    ) -> Self:
        parameters = ConnectionParameters.of(uri, transaction_pooling=transaction_pooling)
        if listen and transaction_pooling:
            raise StartupError(
                f"{parameters.name} cannot be opened: listen must be false with transaction_pooling, because LISTEN "
                "needs a session of its own."
            )
        return cls(parameters, embedded=embedded, connections=connections, listen=listen)

    # -- preparation -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check the server and prepare the schema. Raises StoreUnavailable if the server does not answer."""
        self._check_server()
        super().prepare()

    def prepare_once_there(self) -> None:
        self.is_prepared = False
        try:
            self._prepare_now()
        except StoreUnavailable:
            return  # logged by ``outage``; the first transaction that reaches the server prepares it

    def prepare_late(self) -> None:
        """Prepare the database at the first contact with a server that was away at start.

        Raises StoreUnavailable, also for a schema that does not fit: the service runs by then.
        """
        try:
            self._prepare_now()
        except StartupError as exc:
            raise self.outage.failed(exc) from exc

    def _prepare_now(self) -> None:
        # One thread asks the server. Others wait for it briefly, and are refused if it found the server away.
        if monotonic() < self._ask_after or not self._preparing.acquire(timeout=CONNECT_SECONDS):
            raise self.outage.failed("it did not answer a moment ago")
        try:
            if not self.is_prepared:
                self.prepare()
                self.is_prepared = True
                self.warn()
        except StoreUnavailable:
            self._ask_after = monotonic() + _BACK_OFF_SECONDS
            raise
        finally:
            self._preparing.release()

    def _check_server(self) -> None:
        """Raise StartupError if the server refuses us or is too old, StoreUnavailable if it is away."""
        try:
            connection = self._parameters.connect()
        except psycopg.Error as exc:
            if "FATAL" in str(exc) and not _IS_TEMPORARY.search(str(exc)):
                raise StartupError(f"{self.name} cannot be opened: {_in_one_line(exc)}.") from exc
            raise self.outage.failed(exc) from exc
        version = connection.info.server_version
        connection.deadline = monotonic() + TRANSACTION_SECONDS
        try:
            self._warn_of_missing_settings(connection)
        except psycopg.Error as exc:
            raise self.outage.failed(exc) from exc
        finally:
            connection.close()
        if version < OLDEST_POSTGRESQL:
            raise StartupError(f"{self.name} cannot be opened: PostgreSQL 14 or later is needed.")

    def _warn_of_missing_settings(self, connection: PostgresqlConnection) -> None:
        if missing := find_missing_settings(connection):
            role = '"' + connection.info.user.replace('"', '""') + '"'
            statements = " ".join(f"ALTER ROLE {role} SET {name} = '{SETTINGS[name]}';" for name in missing)
            _log.warning(
                "%s: its sessions lack settings without which queries may be slow and block others. Run: %s",
                self.name,
                statements,
            )

    # -- transactions ------------------------------------------------------------------------------------------------

    def autocommit(self) -> PostgresqlTransaction:
        """``with database.autocommit() as connection``: each statement is a transaction by itself."""
        return PostgresqlTransaction(self, AUTOCOMMIT)

    @property
    def write(self) -> PostgresqlTransaction:
        return PostgresqlTransaction(self, READ_WRITE)

    def read(self) -> PostgresqlTransaction:
        return PostgresqlTransaction(self, READ_ONLY)

    def read_once(self) -> PostgresqlTransaction:
        return self.autocommit()

    @contextmanager
    def change_schema(self) -> Iterator[sa.Connection]:
        engine = sa.create_engine("postgresql+psycopg://", poolclass=NullPool, creator=self._parameters.connect_plainly)
        try:
            with engine.begin() as connection:
                # Behind a pooler the role has the limits of SETTINGS. A change of a large table may take longer.
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                # Released at the end of the transaction, also if this process is killed.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
                # Operations queue up behind a change that waits for the lock of a table, and may hold the lock of the
                # next one. So the change gives up before they do, and before deadlock_timeout (1 s) ends one of them.
                connection.execute(sa.text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}"))
                yield connection
        except (psycopg.Error, sa.exc.DBAPIError) as exc:
            if isinstance(getattr(exc, "orig", exc), (errors.LockNotAvailable, errors.DeadlockDetected)):
                raise TransactionConflict from exc
            raise self.outage.failed(exc) from exc
        finally:
            engine.dispose()

    def wakeups(self) -> PostgresqlWakeups:
        """A new connection that listens, besides those of the pool. Raises StoreUnavailable."""
        try:
            return PostgresqlWakeups.listen(self._parameters, self.outage)
        except psycopg.Error as exc:
            raise self.outage.failed(exc) from exc

    def connections(self) -> Mapping[str, int]:
        return self.pool.counts()

    def close(self) -> None:
        self.pool.close()

    # -- durability --------------------------------------------------------------------------------------------------

    def durability(self) -> Mapping[str, str]:
        names = ("synchronous_commit", "fsync", "full_page_writes", "synchronous_standby_names")
        with self.autocommit() as connection:
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


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split()).rstrip(".?")
