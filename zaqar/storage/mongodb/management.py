# SPDX-License-Identifier: Apache-2.0
"""The control plane on MongoDB: a document per queue (``q<uid>``), and one for the catalog; see also ``subscriptions``.

Metadata and options are kept as JSON text, as keys of documents cannot be what keys of JSON may be. Names are compared
byte by byte, which for UTF-8 is the order of code points.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

import pymongo
from pymongo import ReturnDocument
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError

from zaqar.model import Catalog, Pool, Queue, QueueName
from zaqar.storage.mongodb.connection import PATIENCE, ReplicaSet
from zaqar.storage.mongodb.documents import Document, Index
from zaqar.storage.mongodb.nodes import NODE_INDEXES, NODES
from zaqar.storage.mongodb.subscriptions import (
    PAUSE_INDEXES,
    PAUSES,
    SUBSCRIPTION_INDEXES,
    SUBSCRIPTIONS,
    MongoSubscriptionStore,
)
from zaqar.storage.mongodb.trusts import TRUST_INDEXES, TRUSTS

COLLECTION = "management_store"
INDEXES = (
    Index("address", ("project", "kind", "name"), "name", unique=True),
    Index("pool", ("pool",), "pool"),
)
_CATALOG = "catalog"


class MongoManagementStore(MongoSubscriptionStore):
    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(
            ReplicaSet.open(
                settings,
                COLLECTION,
                INDEXES,
                {
                    SUBSCRIPTIONS: SUBSCRIPTION_INDEXES,
                    PAUSES: PAUSE_INDEXES,
                    TRUSTS: TRUST_INDEXES,
                    NODES: NODE_INDEXES,
                },
            )
        )

    def create_queue(self, *, queue: Queue) -> Queue:
        address = {"project": queue.project, "kind": queue.kind, "name": queue.name}
        document = _document_of(queue)
        new = {name: value for name, value in document.items() if name not in address}
        with self._collection() as collection:
            while True:
                try:
                    found: Document | None = collection.find_one_and_update(
                        address, {"$setOnInsert": new}, upsert=True, return_document=ReturnDocument.AFTER
                    )
                except DuplicateKeyError:  # of two that found it absent, the other was first
                    continue
                assert found is not None
                return _queue_of(found)

    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None:
        with self._collection() as collection:
            document = collection.find_one({"project": project, "kind": kind, "name": name})
        return None if document is None else _queue_of(document)

    def find_queues(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        by_kind: dict[tuple[str, str], list[str]] = defaultdict(list)
        for project, kind, name in names:
            by_kind[project, kind].append(name)
        if not by_kind:
            return {}
        # Each branch has bounds in the index of its own, so only what is asked for is read.
        groups = [
            {"project": project, "kind": kind, "name": {"$in": some}} for (project, kind), some in by_kind.items()
        ]
        with self._collection() as collection:
            found = list(collection.find({"$or": groups}, limit=len(names), batch_size=len(names)))
        queues = map(_queue_of, found)
        return {QueueName(queue.project, queue.kind, queue.name): queue for queue in queues}

    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        page = {"project": project, "kind": kind, "name": {"$gt": after}}
        with self._collection() as collection:
            found = list(collection.find(page, limit=limit, batch_size=limit).sort("name", pymongo.ASCENDING))
        return [_queue_of(document) for document in found]

    def list_queue_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        page = {"project": project, "kind": kind, "name": {"$gt": after}}
        # Without _id the index has all that is asked for, and no document is read.
        shown = {"_id": 0, "name": 1}
        with self._collection() as collection:
            found = list(collection.find(page, shown, limit=limit, batch_size=limit).sort("name", pymongo.ASCENDING))
        return [document["name"] for document in found]

    def count_queues(self, *, project: str, kind: str) -> int:
        with self._collection() as collection:
            # The condition on the name is what lets the server count in the index.
            return collection.count_documents({"project": project, "kind": kind, "name": {"$gte": ""}})

    def replace_queue(self, *, queue: Queue, replaces: int | None = None) -> bool:
        before = {"_id": f"q{queue.uid}", "generation": queue.generation - 1 if replaces is None else replaces}
        with self._collection() as collection:
            return collection.replace_one(before, _document_of(queue)).matched_count == 1

    def delete_queue(self, *, queue: Queue) -> None:
        with self._collection() as collection:
            collection.delete_one({"_id": f"q{queue.uid}"})

    def pool_has_queues(self, *, pool: str) -> bool:
        with self._collection() as collection:
            return collection.find_one({"pool": pool}, {"_id": 1}) is not None

    def get_catalog(self) -> Catalog:
        with self._collection() as collection:
            document = collection.find_one({"_id": _CATALOG})
        if document is None:
            return Catalog()
        pools = tuple(Pool(**pool) for pool in json.loads(document["pools"]))
        return Catalog(document["version"], pools, tuple(json.loads(document["flavors"])))

    def replace_catalog(self, *, catalog: Catalog) -> bool:
        pools = json.dumps([{**asdict(pool), "options": dict(pool.options)} for pool in catalog.pools])
        new = {"version": catalog.version, "pools": pools, "flavors": json.dumps(catalog.flavors)}
        before = {"_id": _CATALOG, "version": catalog.version - 1}
        with self._collection() as collection:
            try:
                # The first is inserted; where there is one of another version, that insert finds the id taken.
                result = collection.replace_one(before, new, upsert=catalog.version == 1)
            except DuplicateKeyError:
                return False
        return result.matched_count == 1 or result.upserted_id is not None

    def ping(self) -> None:
        self._set.ping()

    def close(self) -> None:
        self._set.close()

    @contextmanager
    def _collection(self) -> Iterator[MongoCollection[Document]]:
        with self._set.translated(), pymongo.timeout(PATIENCE):
            yield self._set.opened.collection


def _document_of(queue: Queue) -> Document:
    document: Document = {
        "_id": f"q{queue.uid}",
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
        document["_id"][1:],
        document["project"],
        document["name"],
        document["kind"],
        json.loads(document["metadata"]),
        document.get("pool"),
        document["generation"],
        document["notify"],
    )
