# SPDX-License-Identifier: Apache-2.0
"""The delivery log: the deliveries of one subscription, for users and the service."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import pymongo

from zaqar.model import DEAD, WAITING, Delivery, DeliveryKey
from zaqar.storage.base import DROPPED_LIFETIME, DeliveryLogStore
from zaqar.storage.mongodb.client.connection import Connection, Document
from zaqar.storage.mongodb.client.statements import put
from zaqar.storage.mongodb.client.transactions import Attempt
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, delivery_id, delivery_of
from zaqar.storage.mongodb.tombstones import TOMBSTONES, deliveries_under, name_of, tombstone

_RESENT_BY_ONE_COMMAND = 1000


class MongoDeliveryLog(DeliveryLogStore):
    def __init__(self, core: Core) -> None:
        self._core = core

    def list_before(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        if state is None:
            which, order = deliveries_under(name_of(queue_uid, subscription_id)), "_id"
            if before is not None:
                which["_id"]["$lt"] = delivery_id(queue_uid, subscription_id, before)
        else:
            which, order = {"queue": queue_uid, "subscription": subscription_id, "state": state}, "number"
            if before is not None:
                which["number"] = {"$lt": before}
        newest_first = {order: pymongo.DESCENDING}
        found = self._core.read(
            lambda connection: list(connection[DELIVERIES].majority.find(which, sort=newest_first, limit=limit))
        )
        return [delivery_of(each) for each in found]

    def get(self, *, key: DeliveryKey) -> Delivery | None:
        this = {"_id": delivery_id(*key)}
        found = self._core.read(lambda connection: connection[DELIVERIES].majority.find_one(this))
        return None if found is None else delivery_of(found)

    def count(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        # A condition on each field of the index "log", the number included, lets the server count in the index.
        every = {"queue": queue_uid, "subscription": subscription_id, "number": {"$gte": 0}}

        def count(connection: Connection) -> Mapping[str, int]:
            deliveries = connection[DELIVERIES].majority
            return {state: deliveries.count_documents({**every, "state": state}) for state in (WAITING, DEAD)}

        return self._core.read(count)

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        again = {
            "$set": {"state": WAITING, "due": now, "tries": 0},
            "$unset": dict.fromkeys(("was_due", "owner", "token", "keep_until"), ""),
        }
        if numbers is not None:
            ids = [delivery_id(queue_uid, subscription_id, number) for number in numbers]
            settled: Document = {"_id": {"$in": ids}, "was_due": {"$exists": True}}
            return self._core.write(partial(_update, which=settled, change=again)) if ids else 0
        dead = {"queue": queue_uid, "subscription": subscription_id, "state": DEAD}
        resent = 0
        while resent < limit:
            ids = self._ids_of(dead, min(_RESENT_BY_ONE_COMMAND, limit - resent))
            if not ids:
                break
            still_dead: Document = {"_id": {"$in": ids}, "state": DEAD}
            resent += self._core.write(partial(_update, which=still_dead, change=again))
        return resent

    def _ids_of(self, which: Document, limit: int) -> list[str]:
        """The ids of some deliveries of a subscription, read from the index alone."""
        shown = {"_id": 0, "queue": 1, "subscription": 1, "number": 1}
        found = self._core.read(
            lambda connection: list(
                connection[DELIVERIES].majority.find(which, shown, sort={"number": 1}, limit=limit, batch_size=limit)
            )
        )
        return [delivery_id(each["queue"], each["subscription"], each["number"]) for each in found]

    def drop(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        until = now + DROPPED_LIFETIME
        tombstones = [put(tombstone(name_of(queue_uid, each), until)) for each in set(subscription_ids)]

        def drop(attempt: Attempt) -> None:
            with attempt.transaction() as transaction:
                transaction.on(TOMBSTONES).update(tombstones, expect=len(tombstones))

        if tombstones:
            self._core.retry(drop)


def _update(connection: Connection, *, which: Document, change: Document) -> int:
    return connection[DELIVERIES].majority.update_many(which, change).matched_count
