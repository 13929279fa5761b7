# SPDX-License-Identifier: Apache-2.0
"""The control plane on an SQL database."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Self

from zaqar.model import Catalog, Pool, Queue, QueueName
from zaqar.storage.sqlalchemy.connection import Database
from zaqar.storage.sqlalchemy.nodes import SqlNodeStore
from zaqar.storage.sqlalchemy.queue_statements import queue_statements_for
from zaqar.storage.sqlalchemy.subscriptions import SubscriptionStore
from zaqar.storage.sqlalchemy.trusts import SqlTrustStore


class SqlManagementStore(SubscriptionStore):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._statements = queue_statements_for(database.dialect)
        self.trusts = SqlTrustStore(database)
        self.nodes = SqlNodeStore(database)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(Database.from_settings(settings))

    def create_queue(self, *, queue: Queue) -> Queue:
        with self._database.write as connection:
            connection.execute(self._statements.insert, _row_of(queue))
            address = {"project": queue.project, "kind": queue.kind, "name": queue.name}
            return _queue_of(connection.execute(self._statements.get, address).fetchone())

    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None:
        address = {"project": project, "kind": kind, "name": name}
        with self._database.read() as connection:
            row = connection.execute(self._statements.get, address).fetchone()
        return None if row is None else _queue_of(row)

    def find_queues(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        with self._database.read_once() as connection:
            wanted = {"addresses": json.dumps(list(names))}
            rows = connection.execute(self._statements.find, wanted).fetchall()
        queues = [_queue_of(row) for row in rows]
        return {QueueName(queue.project, queue.kind, queue.name): queue for queue in queues}

    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        page = {"project": project, "kind": kind, "after": after, "limit": limit}
        with self._database.read() as connection:
            rows = connection.execute(self._statements.list, page).fetchall()
        return [_queue_of(row) for row in rows]

    def list_queue_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        page = {"project": project, "kind": kind, "after": after, "limit": limit}
        with self._database.read() as connection:
            return [name for (name,) in connection.execute(self._statements.list_names, page).fetchall()]

    def count_queues(self, *, project: str, kind: str) -> int:
        with self._database.read() as connection:
            row = connection.execute(self._statements.count, {"project": project, "kind": kind}).fetchone()
        return int(row[0])

    def replace_queue(self, *, queue: Queue, replaces: int | None = None) -> bool:
        before = queue.generation - 1 if replaces is None else replaces
        with self._database.write as connection:
            changed = connection.execute(
                self._statements.replace, {"uid": queue.uid, "replaces": before, **_row_of(queue)}
            )
            return changed.rowcount == 1

    def delete_queue(self, *, queue: Queue) -> None:
        with self._database.write as connection:
            connection.execute(self._statements.delete, {"uid": queue.uid})

    def pool_has_queues(self, *, pool: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(self._statements.on_pool, {"pool": pool}).fetchone() is not None

    def get_catalog(self) -> Catalog:
        with self._database.read() as connection:
            row = connection.execute(self._statements.get_catalog, {}).fetchone()
        return Catalog() if row is None else _catalog_of(*row)

    def replace_catalog(self, *, catalog: Catalog) -> bool:
        sql = self._statements
        content = {"pools": [asdict(pool) for pool in catalog.pools], "flavors": catalog.flavors}
        row = {"new_version": catalog.version, "new_content": json.dumps(content)}
        with self._database.write as connection:
            statement = sql.insert_catalog if catalog.version == 1 else sql.replace_catalog
            return connection.execute(statement, row).rowcount == 1

    def ping(self) -> None:
        with self._database.read() as connection:
            connection.execute(self._statements.ping).fetchone()

    def close(self) -> None:
        self._database.close()


def _row_of(queue: Queue) -> dict[str, Any]:
    return {
        "new_uid": queue.uid,
        "new_project": queue.project,
        "new_kind": queue.kind,
        "new_name": queue.name,
        "new_metadata": json.dumps(dict(queue.metadata)),
        "new_pool": queue.pool,
        "new_generation": queue.generation,
        "new_notify": queue.notify,
    }


def _queue_of(row: tuple[Any, ...]) -> Queue:
    uid, project, kind, name, metadata, pool, generation, notify = row
    return Queue(uid, project, name, kind, json.loads(metadata), pool, generation, bool(notify))


def _catalog_of(version: int, content: str) -> Catalog:
    found = json.loads(content)
    return Catalog(version, tuple(Pool(**pool) for pool in found["pools"]), tuple(found["flavors"]))
