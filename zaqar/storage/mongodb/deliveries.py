# SPDX-License-Identifier: Apache-2.0
"""Deliveries that notifiers lease, send and settle. Each step changes single documents, so none needs a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pymongo import DeleteMany, UpdateMany
from pymongo.errors import DuplicateKeyError

from zaqar.model import WAITING, Delivery, DeliveryKey
from zaqar.storage.base import MOST_PASSED, DeliveryStore
from zaqar.storage.mongodb.client.connection import Connection, Document
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import (
    DELIVERIES,
    delivery_document,
    delivery_id,
    delivery_of,
    settlement,
)
from zaqar.storage.mongodb.documents import MESSAGES, fence_id
from zaqar.storage.mongodb.leases import lease_due
from zaqar.storage.mongodb.round_robin import Found, RoundRobin
from zaqar.storage.mongodb.tombstones import dropped_among, name_of


class MongoDeliveries(DeliveryStore):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._subscriptions = RoundRobin()

    def put(self, *, delivery: Delivery) -> None:
        document = delivery_document(delivery)
        name = name_of(delivery.queue_uid, delivery.subscription_id)
        if self._core.read(lambda connection: dropped_among(connection, [name])):
            return

        def put(connection: Connection) -> None:
            while True:
                try:
                    connection[DELIVERIES].majority.replace_one({"_id": document["_id"]}, document, upsert=True)
                except DuplicateKeyError:
                    # Another call has inserted it between the search and the insert of this one.
                    continue
                return

        self._core.write(put)

    def take(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        attempt = self._core.attempt()
        shown = {"_id": 0, "subscription": 1, "queue": 1, "number": 1}

        def read_page(after: str, end: str | None, many: int) -> Found:
            which = {"subscription": self._subscriptions.between(after, end, without), "due": {"$lte": now}}
            order = {"subscription": 1, "due": 1}
            found = attempt.read(
                lambda connection: list(
                    connection[DELIVERIES].latest.find(which, shown, sort=order, limit=many, batch_size=many)
                )
            )
            return [
                (each["subscription"], delivery_id(each["queue"], each["subscription"], each["number"]))
                for each in found
            ]

        def without_dropped(found: Found) -> Found:
            names = {key: key.rpartition("/")[0] for _, key in found}
            dropped = attempt.read(lambda connection: dropped_among(connection, set(names.values())))
            return [each for each in found if names[each[1]] not in dropped] if dropped else found

        taken = lease_due(
            attempt,
            DELIVERIES,
            lambda: self._subscriptions.choose(read_page, without_dropped, limit=limit, most_of_one=most_of_one),
            {"owner": owner, "due": until},
            now,
        )
        return [delivery_of(each) for each in taken]

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        theirs = {"_id": {"$in": [delivery_id(*key) for key in keys]}, "owner": owner, "due": {"$exists": True}}
        if keys:
            later = {"$set": {"due": until}}
            self._core.write(lambda connection: connection[DELIVERIES].majority.update_many(theirs, later))

    def make_due_earlier(self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]) -> int:
        changes = [
            UpdateMany(
                {"_id": delivery_id(queue_uid, subscription_id, number), "due": before},
                {"$set": {"due": due}, "$unset": {"owner": "", "token": ""}},
            )
            for number, (before, due) in dues.items()
        ]
        if not changes:
            return 0
        return self._core.write(
            lambda connection: connection[DELIVERIES].majority.bulk_write(changes, ordered=False).matched_count
        )

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        # Each change is of one delivery. For a change of "many" documents the server keeps no record by which it would
        # recognize a repetition; that record costs more than the change. It is not needed: a settled delivery has no
        # owner, so a repetition does not match it.
        changes: list[DeleteMany | UpdateMany] = []
        for delivery in settled:
            this = {"_id": delivery_id(*delivery.key), "owner": owner}
            if delivery.state != WAITING and (delivery.keep_until is None or delivery.keep_until <= now):
                changes.append(DeleteMany(this))
            else:
                changes.append(UpdateMany(this, settlement(delivery)))
        if changes:
            self._core.write(lambda connection: connection[DELIVERIES].majority.bulk_write(changes, ordered=False))

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        """One command reads posts and deliveries at one moment, because an expansion moves them in one transaction.

        That moment may be in the past: a member may not know yet what a majority has, or that it is no longer the
        primary. So the same command reads the fence and checks that ``number`` was given out at that moment. Numbers
        become visible in order, so all posts before it were visible too, in the outbox or as deliveries. If the fence
        does not show ``number``, earlier posts may be missing, and the result is True.
        """
        given_out = {"_id": fence_id(queue_uid), "next": {"$gt": number}}
        posts = {"queue": queue_uid, "first": {"$lt": number}, "due": {"$gte": 0}}
        waiting = {"queue": queue_uid, "subscription": subscription_id, "state": WAITING, "number": {"$lt": number}}
        found = self._core.attempt().read_snapshot(
            [
                {"$match": given_out},
                {"$project": {"_id": 0, "next": 1}},
                _in_order(MESSAGES, posts, "first", [{"$limit": 1}, {"$project": {"_id": 0, "first": 1}}]),
                *(_in_order(DELIVERIES, waiting, "number", stages) for stages in _counting(due_before)),
            ],
            expect=5,
        )
        only_the_fence = len(found) == 1 and "next" in found[0]
        return not only_the_fence


def _in_order(collection: str, which: Document, order: str, stages: Sequence[Document]) -> Document:
    """A stage that adds documents of a collection that match ``which``, sorted by ``order``, then run ``stages``."""
    return {"$unionWith": {"coll": collection, "pipeline": [{"$match": which}, {"$sort": {order: 1}}, *stages]}}


def _counting(due_before: float | None) -> list[Sequence[Document]]:
    """Stages for waiting deliveries: the first that counts, and the last of MOST_PASSED if there are so many.

    Both read the index only, except for the due time.
    """
    number: Document = {"$project": {"_id": 0, "number": 1}}
    if due_before is None:
        return [[{"$limit": 1}, number]]
    counts: Document = {"$match": {"due": {"$lt": due_before}}}
    return [
        [{"$limit": MOST_PASSED}, counts, {"$limit": 1}, number],
        [{"$skip": MOST_PASSED - 1}, {"$limit": 1}, number],
    ]
