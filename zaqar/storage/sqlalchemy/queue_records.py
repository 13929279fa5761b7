# SPDX-License-Identifier: Apache-2.0
"""Records of queues on an SQL database; see ``sql/queue_records.sql``."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from zaqar.model import Queue, QueueName
from zaqar.storage.base import QueueRecordStore
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries

_ALL: Final = 2**62
"""A number of queues that no project has."""


class QueueRecordQueries(Queries, file="queue_records"):
    create: str
    get: str
    find: str
    list_after: str
    list_names: str
    count: str
    replace: str
    delete: str
    any_on_pool: str


class SqlQueueRecords(QueueRecordStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = QueueRecordQueries.of(database.dialect)

    def create(self, *, queue: Queue) -> Queue:
        row = _row_of(queue)
        with self._database.write as connection:
            connection.execute(self._queries.create, row)
            # The one just inserted, or the one that was in the way. On PostgreSQL this second statement sees it even
            # if it was committed after this transaction began: each statement reads its own snapshot.
            return _queue_of(connection.execute(self._queries.get, row).fetchone())

    def get(self, *, project: str, kind: str, name: str) -> Queue | None:
        key = {"project": project, "kind": kind, "name": name}
        with self._database.read() as connection:
            row = connection.execute(self._queries.get, key).fetchone()
        return None if row is None else _queue_of(row)

    def find(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        with self._database.read_once() as connection:
            rows = connection.execute(self._queries.find, {"names": json.dumps(list(names))}).fetchall()
        queues = [_queue_of(row) for row in rows]
        return {QueueName(queue.project, queue.kind, queue.name): queue for queue in queues}

    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        page = {"project": project, "kind": kind, "after": after, "limit": limit}
        with self._database.read() as connection:
            rows = connection.execute(self._queries.list_after, page).fetchall()
        return [_queue_of(row) for row in rows]

    def list_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        page = {"project": project, "kind": kind, "after": after, "limit": limit}
        with self._database.read() as connection:
            return [name for (name,) in connection.execute(self._queries.list_names, page).fetchall()]

    def count(self, *, project: str, kind: str, most: int | None = None) -> int:
        these = {"project": project, "kind": kind, "most": _ALL if most is None else most}
        with self._database.read_once() as connection:
            (count,) = connection.execute(self._queries.count, these).fetchone()
        return int(count)

    def replace(self, *, queue: Queue, replaces: int | None = None) -> bool:
        before = queue.generation - 1 if replaces is None else replaces
        with self._database.write as connection:
            return connection.execute(self._queries.replace, {**_row_of(queue), "replaces": before}).rowcount == 1

    def delete(self, *, queue: Queue) -> None:
        with self._database.write as connection:
            connection.execute(self._queries.delete, {"uid": queue.uid})

    def any_on_pool(self, *, pool: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(self._queries.any_on_pool, {"pool": pool}).fetchone() is not None


def _row_of(queue: Queue) -> dict[str, Any]:
    return {
        "uid": queue.uid,
        "project": queue.project,
        "name": queue.name,
        "kind": queue.kind,
        "metadata": json.dumps(dict(queue.metadata)),
        "pool": queue.pool,
        "generation": queue.generation,
        "notify": queue.notify,
    }


def _queue_of(row: tuple[Any, ...]) -> Queue:
    uid, project, name, kind, metadata, pool, generation, notify = row
    # SQLite has no boolean type: it returns 0 or 1.
    return Queue(uid, project, name, kind, json.loads(metadata), pool, generation, bool(notify))
