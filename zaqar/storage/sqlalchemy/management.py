# SPDX-License-Identifier: Apache-2.0
"""The management store on an SQL database. The entry point ``zaqar.control.storage`` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from zaqar.storage.base import ManagementStore
from zaqar.storage.sqlalchemy.catalog import SqlCatalog
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.nodes import SqlNodes
from zaqar.storage.sqlalchemy.queries import Queries
from zaqar.storage.sqlalchemy.queue_records import SqlQueueRecords
from zaqar.storage.sqlalchemy.subscriptions import SqlSubscriptions
from zaqar.storage.sqlalchemy.trusts import SqlTrusts


class ManagementQueries(Queries, file="management"):
    ping: str


class SqlManagementStore(ManagementStore):
    """The parts share one database and nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = ManagementQueries.of(database.dialect)
        self.queue_records = SqlQueueRecords(database)
        self.subscriptions = SqlSubscriptions(database)
        self.catalog = SqlCatalog(database)
        self.trusts = SqlTrusts(database)
        self.nodes = SqlNodes(database)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(Database.from_settings(settings))

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        return cls(Database.open_as_it_is(settings))

    def ping(self) -> None:
        with self._database.read() as connection:
            connection.execute(self._queries.ping).fetchone()

    def close(self) -> None:
        self._database.close()
