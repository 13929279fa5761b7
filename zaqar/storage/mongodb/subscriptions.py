# SPDX-License-Identifier: Apache-2.0
"""Subscriptions, in a collection of their own: a document each, with queue and id as its ``_id``.

An index sees that a queue has each subscriber once. One that is over is in its way until somebody removes it: a sweep,
or whoever wants the same subscriber.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pymongo
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base.uncut import UncutManagementStore
from zaqar.storage.mongodb.connection import PATIENCE, ReplicaSet
from zaqar.storage.mongodb.documents import Document, Index
from zaqar.storage.mongodb.nodes import MongoNodeStore
from zaqar.storage.mongodb.transactions import Turns
from zaqar.storage.mongodb.trusts import MongoTrustStore

SUBSCRIPTIONS = "subscriptions"

PAUSES = "pauses"
PAUSE_INDEXES = (Index("ends", ("ends",), "ends"),)

_MOST_REMOVED = 100
"""Pauses that are over and removed by whoever begins one."""

SUBSCRIPTION_INDEXES = (
    Index("subscriber", ("queue", "subscriber"), "subscriber", unique=True),
    Index("expires", ("expires",), "expires"),
)

_AFTER_SLASH = "0"
"""The character after the one that ends the queue's part of an id."""


class MongoSubscriptionStore(UncutManagementStore):
    """The part of the management store that is about subscriptions."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set
        self.trusts = MongoTrustStore(replica_set)
        self.nodes = MongoNodeStore(replica_set)

    def create_subscription(self, *, subscription: Subscription, now: float) -> Subscription:
        document = _document_of(subscription)
        with self._set.translated(), pymongo.timeout(PATIENCE):
            while True:
                try:
                    self._subscriptions.insert_one(document)
                except DuplicateKeyError:
                    taken = self._in_the_way(subscription, now)
                    if taken is not None:
                        return taken
                else:
                    return _subscription_of(document)

    def get_subscription(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        this = {"_id": _id(queue_uid, subscription_id), "expires": {"$gt": now}}
        with self._set.translated(), pymongo.timeout(PATIENCE):
            found = self._subscriptions.find_one(this)
        return None if found is None else _subscription_of(found)

    def find_subscription(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        this = {"queue": queue_uid, "subscriber": subscriber, "expires": {"$gt": now}}
        with self._set.translated(), pymongo.timeout(PATIENCE):
            found = self._subscriptions.find_one(this)
        return None if found is None else _subscription_of(found)

    def list_subscriptions(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        ids = {"$gt": _id(queue_uid, after), "$lt": f"{queue_uid}{_AFTER_SLASH}"}
        page = {"_id": ids, "expires": {"$gt": now}}
        with self._set.translated(), pymongo.timeout(PATIENCE):
            found = list(self._subscriptions.find(page, sort={"_id": 1}, limit=limit))
        return [_subscription_of(document) for document in found]

    def replace_subscription(self, *, subscription: Subscription, now: float) -> bool:
        document = _document_of(subscription)
        before = {"_id": document["_id"], "version": subscription.version - 1, "expires": {"$gt": now}}
        with self._set.translated(), pymongo.timeout(PATIENCE):
            while True:
                try:
                    return self._subscriptions.replace_one(before, document).matched_count == 1
                except DuplicateKeyError as exc:
                    if self._in_the_way(subscription, now) is not None:
                        raise Conflict("The queue has another subscription with this subscriber.") from exc

    def delete_subscription(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        this: Document = {"_id": _id(queue_uid, subscription_id)}
        if version is not None:
            this["version"] = version
        with self._set.translated(), pymongo.timeout(PATIENCE):
            return self._subscriptions.delete_one(this).deleted_count > 0

    def remove_subscriptions(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        these = {_id(each.queue_uid, each.id): each for each in subscriptions}
        removals = [pymongo.DeleteOne({"_id": id_, "subscriber": each.subscriber}) for id_, each in these.items()]
        if not removals:
            return []
        with self._set.translated(), pymongo.timeout(PATIENCE):
            self._subscriptions.bulk_write(removals, ordered=False)
            left = {document["_id"] for document in self._subscriptions.find({"_id": {"$in": list(these)}}, {"_id": 1})}
        return [each for id_, each in these.items() if id_ not in left]

    def delete_subscriptions(self, *, queue_uid: str) -> None:
        for turn in Turns(self._set):
            with turn.transaction() as transaction:
                of_queue = {"queue": queue_uid, "subscriber": {"$gte": ""}}
                transaction.reads_only = transaction.beside(SUBSCRIPTIONS).delete(of_queue) == 0
            if transaction.committed:
                return

    def expired_subscriptions(self, *, now: float, limit: int) -> list[Subscription]:
        with self._set.translated(), pymongo.timeout(PATIENCE):
            found = list(self._subscriptions.find({"expires": {"$lte": now}}, sort={"expires": 1}, limit=limit))
        return [_subscription_of(document) for document in found]

    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        begun: list[Document] = []
        with self._set.translated(), pymongo.timeout(PATIENCE):
            collection = self._set.opened.beside(PAUSES).collection
            # In one order, so that of two callers who want the same ones the first gets all.
            for key, ends in sorted(pauses.items()):
                try:
                    # Where the key is in a pause, nothing matches, and the document that is then inserted is there.
                    collection.update_one({"_id": key, "ends": {"$lte": now}}, {"$set": {"ends": ends}}, upsert=True)
                except DuplicateKeyError:
                    for document in begun:
                        collection.delete_one(document)
                    found = collection.find({"_id": {"$in": list(pauses)}})
                    return max([now, *(float(document["ends"]) for document in found)])
                begun.append({"_id": key, "ends": ends})
            over = [each["_id"] for each in collection.find({"ends": {"$lte": now}}, limit=_MOST_REMOVED)]
            if over:
                collection.delete_many({"_id": {"$in": over}, "ends": {"$lte": now}})
        return None

    def _in_the_way(self, wanted: Subscription, now: float) -> Subscription | None:
        """The one that has this subscriber; None where it was over, and is removed, or is gone by now."""
        this = {"queue": wanted.queue_uid, "subscriber": wanted.subscriber}
        found = self._subscriptions.find_one(this)
        if found is None:
            return None
        if found["expires"] > now:
            return _subscription_of(found)
        self._subscriptions.delete_one({"_id": found["_id"], "version": found["version"], "expires": {"$lte": now}})
        return None

    @property
    def _subscriptions(self) -> Collection[Document]:
        return self._set.opened.beside(SUBSCRIPTIONS).collection


def _document_of(subscription: Subscription) -> Document:
    return {
        "_id": _id(subscription.queue_uid, subscription.id),
        "id": subscription.id,
        "queue": subscription.queue_uid,
        "project": subscription.project,
        "kind": subscription.kind,
        "source": subscription.source,
        "subscriber": subscription.subscriber,
        "ttl": subscription.ttl,
        "created": subscription.created,
        "expires": subscription.expires,
        "options": json.dumps(dict(subscription.options)),
        "state": subscription.state,
        "secrets": [list(secret) for secret in subscription.secrets],
        "version": subscription.version,
        "challenge": subscription.challenge,
    }


def _subscription_of(document: Document) -> Subscription:
    return Subscription(
        id=document["id"],
        queue_uid=document["queue"],
        project=document["project"],
        kind=document["kind"],
        source=document["source"],
        subscriber=document["subscriber"],
        # PyMongo returns one that needs 64 bits as Int64, which not every JSON encoder takes.
        ttl=int(document["ttl"]),
        created=document["created"],
        expires=document["expires"],
        options=json.loads(document["options"]),
        state=document["state"],
        secrets=tuple(Secret(*secret) for secret in document["secrets"]),
        version=document["version"],
        challenge=document.get("challenge", 0),
    )


def _id(queue_uid: str, subscription_id: str) -> str:
    return f"{queue_uid}/{subscription_id}"
