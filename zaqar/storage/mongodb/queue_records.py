# SPDX-License-Identifier: Apache-2.0
"""Records of queues: a document each, ``queue/<uid>``, in the main collection of the management store.

Metadata are stored as JSON text, because not every key of a JSON object can be a key of a document. Names are compared
byte by byte, which for UTF-8 is the order of code points.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

import pymongo
from pymongo import ReturnDocument
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError

from zaqar.model import Queue, QueueName
from zaqar.storage.base import QueueRecordStore
from zaqar.storage.mongodb.client.connection import Document, Index, ReplicaSet, count_up_to

RECORDS: Final = "management_store"
"""The main collection of the management store."""

RECORD_INDEXES: Final = (
    Index("queue_name", ("project", "kind", "name"), "name", unique=True),
    Index("pool", ("pool",), "pool"),
)


class MongoQueueRecords(QueueRecordStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    def create(self, *, queue: Queue) -> Queue:
        name = {"project": queue.project, "kind": queue.kind, "name": queue.name}
        document = _document_of(queue)
        new = {field: value for field, value in document.items() if field not in name}
        with self._records() as records:
            while True:
                try:
                    found: Document | None = records.find_one_and_update(
                        name, {"$setOnInsert": new}, upsert=True, return_document=ReturnDocument.AFTER
                    )
                except DuplicateKeyError:
                    # Another call has inserted the record between the search and the insert of this one. It is there
                    # now, and the next round returns it.
                    continue
                assert found is not None
                return _queue_of(found)

    def get(self, *, project: str, kind: str, name: str) -> Queue | None:
        with self._records() as records:
            document = records.find_one({"project": project, "kind": kind, "name": name})
        return None if document is None else _queue_of(document)

    def find(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        by_kind: dict[tuple[str, str], list[str]] = defaultdict(list)
        for project, kind, name in names:
            by_kind[project, kind].append(name)
        if not by_kind:
            return {}
        # Each branch has its own bounds in the index, so the server reads only the names that are asked for.
        branches = [
            {"project": project, "kind": kind, "name": {"$in": some}} for (project, kind), some in by_kind.items()
        ]
        with self._records() as records:
            found = list(records.find({"$or": branches}, limit=len(names), batch_size=len(names)))
        queues = map(_queue_of, found)
        return {QueueName(queue.project, queue.kind, queue.name): queue for queue in queues}

    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        page = {"project": project, "kind": kind, "name": {"$gt": after}}
        with self._records() as records:
            found = list(records.find(page, limit=limit, batch_size=limit).sort("name", pymongo.ASCENDING))
        return [_queue_of(document) for document in found]

    def list_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        page = {"project": project, "kind": kind, "name": {"$gt": after}}
        # Without _id the index has all the fields that are asked for, and the server reads no document.
        shown = {"_id": 0, "name": 1}
        with self._records() as records:
            found = list(records.find(page, shown, limit=limit, batch_size=limit).sort("name", pymongo.ASCENDING))
        return [document["name"] for document in found]

    def count(self, *, project: str, kind: str, most: int | None = None) -> int:
        with self._records() as records:
            # The condition on the name lets the server count in the index.
            return count_up_to(records, {"project": project, "kind": kind, "name": {"$gte": ""}}, most)

    def replace(self, *, queue: Queue, replaces: int | None = None) -> bool:
        before = {"_id": _id(queue.uid), "generation": queue.generation - 1 if replaces is None else replaces}
        with self._records() as records:
            return records.replace_one(before, _document_of(queue)).matched_count == 1

    def delete(self, *, queue: Queue) -> None:
        with self._records() as records:
            records.delete_one({"_id": _id(queue.uid)})

    def any_on_pool(self, *, pool: str) -> bool:
        with self._records() as records:
            return records.find_one({"pool": pool}, {"_id": 1}) is not None

    @contextmanager
    def _records(self) -> Iterator[MongoCollection[Document]]:
        with self._set.step() as connection:
            yield connection[RECORDS].majority


def _id(uid: str) -> str:
    return f"queue/{uid}"


def _document_of(queue: Queue) -> Document:
    document: Document = {
        "_id": _id(queue.uid),
        "project": queue.project,
        "kind": queue.kind,
        "name": queue.name,
        "metadata": json.dumps(dict(queue.metadata)),
        "generation": queue.generation,
        "notify": queue.notify,
    }
    if queue.pool is not None:
        document["pool"] = queue.pool
    return document


def _queue_of(document: Document) -> Queue:
    return Queue(
        document["_id"].removeprefix("queue/"),
        document["project"],
        document["name"],
        document["kind"],
        json.loads(document["metadata"]),
        document.get("pool"),
        document["generation"],
        document["notify"],
    )
