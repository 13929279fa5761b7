# SPDX-License-Identifier: Apache-2.0
"""The message store on an SQL database: it makes the core, and the parts for SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from zaqar.model import Swept, Volume
from zaqar.storage.base import MessageStore, Wakeups
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.dead_letters import SqlDeadLetters
from zaqar.storage.sqlalchemy.deliveries import SqlDeliveries
from zaqar.storage.sqlalchemy.delivery_log import SqlDeliveryLog
from zaqar.storage.sqlalchemy.exhausted_messages import ExhaustedMessages
from zaqar.storage.sqlalchemy.outbox import SqlOutbox
from zaqar.storage.sqlalchemy.sealed_bodies import SqlSealedBodies
from zaqar.storage.sqlalchemy.sqlite.claims import SqliteClaims
from zaqar.storage.sqlalchemy.sqlite.messages import SqliteMessages
from zaqar.storage.sqlalchemy.sqlite.queues import SqliteQueues
from zaqar.storage.sqlalchemy.sweep import Sweep
from zaqar.storage.sqlalchemy.volume import read_volume

if TYPE_CHECKING:
    from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase


class SqlMessageStore(MessageStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD"})

    def __init__(self, database: Database) -> None:
        self._database = database
        if database.dialect == "postgresql":
            self._core = self._make_postgresql_parts(cast("PostgresqlDatabase", database))
        else:
            self._core = self._make_sqlite_parts(database)
        self.dead_letters = SqlDeadLetters(self._core, ExhaustedMessages(self._core))
        self.outbox = SqlOutbox(self._core)
        self.deliveries = SqlDeliveries(self._core)
        self.delivery_log = SqlDeliveryLog(self._core)
        self.sealed_bodies = SqlSealedBodies(self._core)
        self._sweep = Sweep(self._core)

    def _make_sqlite_parts(self, database: Database) -> StoreCore:
        core = StoreCore(database)
        self.queues = SqliteQueues(core)
        self.messages = SqliteMessages(core)
        self.claims = SqliteClaims(core, ExhaustedMessages(core))
        return core

    def _make_postgresql_parts(self, database: PostgresqlDatabase) -> StoreCore:
        # Here, because psycopg is installed only if PostgreSQL is used.
        from zaqar.storage.sqlalchemy.postgresql.claims import PostgresqlClaims
        from zaqar.storage.sqlalchemy.postgresql.core import PostgresqlCore
        from zaqar.storage.sqlalchemy.postgresql.messages import PostgresqlMessages
        from zaqar.storage.sqlalchemy.postgresql.queues import PostgresqlQueues

        core = PostgresqlCore(database)
        self.queues = PostgresqlQueues(core)
        self.messages = PostgresqlMessages(core)
        self.claims = PostgresqlClaims(core, ExhaustedMessages(core))
        return core

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(Database.from_settings(settings))

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        return cls(Database.open_as_it_is(settings))

    def volume(self, *, now: float) -> Volume:
        return read_volume(self._database, now)

    def sweep(self, *, now: float, limit: int) -> Swept:
        return self._sweep.sweep(now, limit)

    def wakeups(self) -> Wakeups | None:
        return self._core.wakeups()

    def connections(self) -> Mapping[str, int]:
        """SQLite has no limit, so there is no ``max``: as many connections as transactions ran at the same time."""
        return self._database.connections()

    def durability(self) -> Mapping[str, str]:
        return self._database.durability()

    def ping(self) -> None:
        self._sweep.ping()

    def close(self) -> None:
        self._database.close()
