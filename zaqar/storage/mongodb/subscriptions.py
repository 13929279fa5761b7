# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: a document each in a collection of their own, with ``uid/subscription`` as its ``_id``.

A unique index keeps a queue from having two subscriptions with one subscriber. A subscription that has expired counts
for the index until it is removed, by a sweep or by a call that needs its subscriber.

The collection ``pauses`` has a document for each pause, with its key as the ``_id``, until it ``ends``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import pymongo
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base import SubscriptionStore
from zaqar.storage.mongodb.client.connection import Document, Index, ReplicaSet, count_up_to
from zaqar.storage.mongodb.client.statements import under
from zaqar.storage.mongodb.client.transactions import Attempt, retry_on_conflict

SUBSCRIPTIONS: Final = "subscriptions"
SUBSCRIPTION_INDEXES: Final = (
    Index("subscriber", ("queue", "subscriber"), "subscriber", unique=True),
    Index("expires", ("expires",), "expires"),
    # To count those that have not expired, in the index alone.
    Index("queue", ("queue", "expires"), "queue"),
    Index("project", ("project", "expires"), "project"),
)

PAUSES: Final = "pauses"
PAUSE_INDEXES: Final = (Index("ends", ("ends",), "ends"),)

_MAX_PAUSES_REMOVED = 100
"""Pauses that are over and that one ``take_pauses`` removes at most."""


class MongoSubscriptions(SubscriptionStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        document = _document_of(subscription)
        with self._subscriptions() as subscriptions:
            while True:
                try:
                    subscriptions.insert_one(document)
                except DuplicateKeyError:
                    taken = _find_other(subscriptions, subscription, now)
                    if taken is not None:
                        return taken
                else:
                    return _subscription_of(document)

    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        this = {"_id": _id(queue_uid, subscription_id), "expires": {"$gt": now}}
        with self._subscriptions() as subscriptions:
            found = subscriptions.find_one(this)
        return None if found is None else _subscription_of(found)

    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        this = {"queue": queue_uid, "subscriber": subscriber, "expires": {"$gt": now}}
        with self._subscriptions() as subscriptions:
            found = subscriptions.find_one(this)
        return None if found is None else _subscription_of(found)

    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        ids = {**under(queue_uid), "$gt": _id(queue_uid, after)}
        page = {"_id": ids, "expires": {"$gt": now}}
        with self._subscriptions() as subscriptions:
            found = list(subscriptions.find(page, sort={"_id": 1}, limit=limit))
        return [_subscription_of(document) for document in found]

    def count(self, *, queue_uid: str, now: float, most: int) -> int:
        with self._subscriptions() as subscriptions:
            return count_up_to(subscriptions, {"queue": queue_uid, "expires": {"$gt": now}}, most)

    def count_of_project(self, *, project: str, now: float, most: int) -> int:
        with self._subscriptions() as subscriptions:
            return count_up_to(subscriptions, {"project": project, "expires": {"$gt": now}}, most)

    def replace(self, *, subscription: Subscription, now: float) -> bool:
        document = _document_of(subscription)
        before = {"_id": document["_id"], "version": subscription.version - 1, "expires": {"$gt": now}}
        with self._subscriptions() as subscriptions:
            while True:
                try:
                    return subscriptions.replace_one(before, document).matched_count == 1
                except DuplicateKeyError as exc:
                    if _find_other(subscriptions, subscription, now) is not None:
                        raise Conflict("The queue has another subscription with this subscriber.") from exc

    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        this: Document = {"_id": _id(queue_uid, subscription_id)}
        if version is not None:
            this["version"] = version
        with self._subscriptions() as subscriptions:
            return subscriptions.delete_one(this).deleted_count > 0

    def delete_many(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        these = {_id(each.queue_uid, each.id): each for each in subscriptions}
        removals = [pymongo.DeleteOne({"_id": id_, "subscriber": each.subscriber}) for id_, each in these.items()]
        if not removals:
            return []
        with self._subscriptions() as stored:
            stored.bulk_write(removals, ordered=False)
            left = {document["_id"] for document in stored.find({"_id": {"$in": list(these)}}, {"_id": 1})}
        return [each for id_, each in these.items() if id_ not in left]

    def delete_all(self, *, queue_uid: str) -> None:
        # The condition on the subscriber lets the server use the index "subscriber".
        of_queue = {"queue": queue_uid, "subscriber": {"$gte": ""}}

        def delete(attempt: Attempt) -> None:
            with attempt.transaction() as transaction:
                transaction.reads_only = transaction.on(SUBSCRIPTIONS).delete_many(of_queue) == 0

        retry_on_conflict(self._set, delete)

    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        with self._subscriptions() as subscriptions:
            found = list(subscriptions.find({"expires": {"$lte": now}}, sort={"expires": 1}, limit=limit))
        return [_subscription_of(document) for document in found]

    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        begun: list[Document] = []
        with self._set.step() as connection:
            collection = connection[PAUSES].majority
            # All callers go in the order of the keys. So of two that want the same pauses, the first one gets all.
            for key, ends in sorted(pauses.items()):
                try:
                    # If the key is in a pause, nothing matches, and the insert finds the document in its place.
                    collection.update_one({"_id": key, "ends": {"$lte": now}}, {"$set": {"ends": ends}}, upsert=True)
                except DuplicateKeyError:
                    for document in begun:
                        collection.delete_one(document)
                    found = collection.find({"_id": {"$in": list(pauses)}})
                    return max([now, *(float(document["ends"]) for document in found)])
                begun.append({"_id": key, "ends": ends})
            over = [each["_id"] for each in collection.find({"ends": {"$lte": now}}, limit=_MAX_PAUSES_REMOVED)]
            if over:
                collection.delete_many({"_id": {"$in": over}, "ends": {"$lte": now}})
        return None

    @contextmanager
    def _subscriptions(self) -> Iterator[Collection[Document]]:
        with self._set.step() as connection:
            yield connection[SUBSCRIPTIONS].majority


def _find_other(subscriptions: Collection[Document], wanted: Subscription, now: float) -> Subscription | None:
    """The subscription that has this subscriber already.

    None if it has expired, and is removed here, or if it was removed in between: then the caller tries again.
    """
    this = {"queue": wanted.queue_uid, "subscriber": wanted.subscriber}
    found = subscriptions.find_one(this)
    if found is None:
        return None
    if found["expires"] > now:
        return _subscription_of(found)
    # With the version, one that was renewed in between stays.
    subscriptions.delete_one({"_id": found["_id"], "version": found["version"], "expires": {"$lte": now}})
    return None


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
        # If it needs 64 bits, pymongo returns it as Int64, which not every JSON encoder takes.
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
