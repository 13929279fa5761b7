# SPDX-License-Identifier: Apache-2.0
"""Deliveries, in a collection of their own: a document each, which one step changes at a time.

Its ``_id`` is queue, subscription and number. ``due`` is there while it is WAITING and ``was_due`` once it is settled,
so that the index of those that may be taken has no other. A lease is an update of those that are still due, which
marks each with the ``token`` of the call: whatever bears it afterwards was leased by that call, and by no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import pymongo
from bson import ObjectId
from pymongo import DeleteMany, UpdateMany
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError

from zaqar.model import DEAD, WAITING, Attempt, Delivery, DeliveryKey
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.base.uncut import UncutMessageStore
from zaqar.storage.mongodb.connection import ReplicaSet
from zaqar.storage.mongodb.documents import COLLECTION, Document, Index
from zaqar.storage.mongodb.dropped import DROPPED, deliveries_under, dropped_among, name_of, tombstone
from zaqar.storage.mongodb.lanes import Found, Rotation
from zaqar.storage.mongodb.statements import ids_of, put
from zaqar.storage.mongodb.transactions import Turns

T = TypeVar("T")

DELIVERIES = "deliveries"

DELIVERY_INDEXES = (
    # What may be taken, by lane; the rest lets the index alone answer which.
    Index("waiting", ("subscription", "due", "queue", "number"), "due"),
    # The log of a subscription, by state.
    Index("log", ("queue", "subscription", "state", "number"), "state"),
    # What a sweep removes.
    Index("keep", ("keep_until",), "keep_until"),
)

_AT_ONCE = 1000
"""Deliveries that one command sends again at most."""

_TOMBSTONES_AT_ONCE = 50
"""That one look of a sweep finds."""

_TRIES = 3
"""Looks of one call, where others were faster to take all that it had found."""


class MongoDeliveryStore(UncutMessageStore):
    """The part of the message store that is about deliveries."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set
        self._subscriptions = Rotation()

    def put_delivery(self, *, delivery: Delivery) -> None:
        document = delivery_document(delivery)
        name = name_of(delivery.queue_uid, delivery.subscription_id)
        if Turns(self._set).look(lambda opened: dropped_among(opened, [name])):
            return

        def put(deliveries: MongoCollection[Document]) -> None:
            while True:
                try:
                    deliveries.replace_one({"_id": document["_id"]}, document, upsert=True)
                except DuplicateKeyError:  # of two that found it absent, the other was first
                    continue
                return

        self._write(put)

    # -- leases ------------------------------------------------------------------------------------------------------

    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        turn = Turns(self._set)
        shown = {"_id": 0, "subscription": 1, "queue": 1, "number": 1}

        def page(after: str, end: str | None, many: int) -> list[tuple[str, str]]:
            others = [*without, *self._subscriptions.dropped]
            lanes = {"$gt": after, **({} if end is None else {"$lte": end}), **({"$nin": others} if others else {})}
            which = {"subscription": lanes, "due": {"$lte": now}}
            order = {"subscription": 1, "due": 1}
            found = turn.look(
                lambda opened: list(
                    opened.beside(DELIVERIES).latest.find(which, shown, sort=order, limit=many, batch_size=many)
                )
            )
            return [(each["subscription"], _id(each["queue"], each["subscription"], each["number"])) for each in found]

        def living(found: Found) -> Found:
            names = {key: key.rpartition("/")[0] for _, key in found}
            dropped = turn.look(lambda opened: dropped_among(opened, set(names.values())))
            return [each for each in found if names[each[1]] not in dropped] if dropped else found

        taken: list[Document] = []
        for _ in range(_TRIES):
            chosen = self._subscriptions.choose(page, living, limit=limit, most_of_one=most_of_one)
            taken = lease(turn, DELIVERIES, chosen, {"owner": owner, "due": until}, now)
            if taken or not chosen:
                break
        return [_delivery_of(each) for each in taken]

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        theirs = {"_id": {"$in": [_id(*key) for key in keys]}, "owner": owner, "due": {"$exists": True}}
        if keys:
            self._write(lambda deliveries: deliveries.update_many(theirs, {"$set": {"due": until}}))

    def advance_deliveries(
        self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]
    ) -> int:
        changes = [
            UpdateMany(
                {"_id": _id(queue_uid, subscription_id, number), "due": before},
                {"$set": {"due": due}, "$unset": {"owner": "", "token": ""}},
            )
            for number, (before, due) in dues.items()
        ]
        if not changes:
            return 0
        return self._write(lambda deliveries: deliveries.bulk_write(changes, ordered=False).matched_count)

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        # Each is about one. As "many" the server keeps no record of each in case it is tried again, which costs it more
        # than the change, and is not needed: what is settled has no owner, so the second time it is left alone.
        changes: list[DeleteMany | UpdateMany] = []
        for delivery in settled:
            this = {"_id": _id(*delivery.key), "owner": owner}
            if delivery.state != WAITING and (delivery.keep_until is None or delivery.keep_until <= now):
                changes.append(DeleteMany(this))
            else:
                changes.append(UpdateMany(this, _settling(delivery)))
        if changes:
            self._write(lambda deliveries: deliveries.bulk_write(changes, ordered=False))

    # -- what was dropped --------------------------------------------------------------------------------------------

    def drop_deliveries(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        until = now + DROPPED_LIFETIME
        tombstones = [put(tombstone(name_of(queue_uid, each), until)) for each in set(subscription_ids)]
        if not tombstones:
            return
        for turn in Turns(self._set):
            with turn.transaction() as transaction:
                transaction.beside(DROPPED).update(tombstones, expect=len(tombstones))
            if transaction.committed:
                return

    def _sweep_dropped(self, now: float, limit: int) -> int:
        """What is left of dropped queues and subscriptions; how many records that were, or tombstones looked at."""
        due = {"look": {"$lte": now}}
        many = min(limit, _TOMBSTONES_AT_ONCE)
        turn = Turns(self._set)
        found = turn.look(
            lambda opened: list(opened.beside(DROPPED).latest.find(due, sort={"look": 1}, limit=many, batch_size=many))
        )
        removed = 0
        empty = []
        for name in ids_of(found):
            if "/" not in name:
                # Posts come first: once they are gone nobody can make deliveries of them.
                removed += self._remove(COLLECTION, {"queue": name, "due": {"$exists": True}}, limit - removed)
            if removed < limit:
                removed += self._remove(DELIVERIES, deliveries_under(name), limit - removed)
            if removed >= limit:
                break
            empty.append(name)
            removed += 1
        if empty:
            these: Document = {"_id": {"$in": empty}, **due}
            over = {**these, "until": {"$lte": now}}
            again: list[Document] = [{"$set": {"look": "$until"}}]
            turn = Turns(self._set)
            turn.patiently(lambda opened: opened.beside(DROPPED).collection.delete_many(over))
            turn.patiently(lambda opened: opened.beside(DROPPED).collection.update_many(these, again))
        return removed

    def _remove(self, collection: str, which: Document, limit: int) -> int:
        turn = Turns(self._set)
        found = turn.look(
            lambda opened: list(opened.beside(collection).latest.find(which, {"_id": 1}, limit=limit, batch_size=limit))
        )
        ids: Document = {"_id": {"$in": ids_of(found)}}
        if found:
            turn.patiently(lambda opened: opened.beside(collection).collection.delete_many(ids))
        return len(found)

    # -- the log -----------------------------------------------------------------------------------------------------

    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        if state is None:
            which, order = deliveries_under(name_of(queue_uid, subscription_id)), "_id"
            if before is not None:
                which["_id"]["$lt"] = _id(queue_uid, subscription_id, before)
        else:
            which, order = {"queue": queue_uid, "subscription": subscription_id, "state": state}, "number"
            if before is not None:
                which["number"] = {"$lt": before}
        found = self._read(
            lambda deliveries: list(deliveries.find(which, sort={order: pymongo.DESCENDING}, limit=limit))
        )
        return [_delivery_of(each) for each in found]

    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None:
        found = self._read(lambda deliveries: deliveries.find_one({"_id": _id(*key)}))
        return None if found is None else _delivery_of(found)

    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        theirs = {"queue": queue_uid, "subscription": subscription_id}

        def count(deliveries: MongoCollection[Document]) -> Mapping[str, int]:
            # With a condition on each field of the index before it, the number lets the server count in the index.
            every = {"number": {"$gte": 0}}
            return {state: deliveries.count_documents({**theirs, "state": state, **every}) for state in (WAITING, DEAD)}

        return self._read(count)

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        again = {
            "$set": {"state": WAITING, "due": now, "tries": 0},
            "$unset": dict.fromkeys(("was_due", "owner", "token", "keep_until"), ""),
        }
        if numbers is not None:
            ids = [_id(queue_uid, subscription_id, number) for number in numbers]
            settled: Document = {"_id": {"$in": ids}, "was_due": {"$exists": True}}
            return self._write(partial(_update, which=settled, change=again)) if ids else 0
        dead = {"queue": queue_uid, "subscription": subscription_id, "state": DEAD}
        resent = 0
        while resent < limit:
            ids = self._ids_of(dead, min(_AT_ONCE, limit - resent))
            if not ids:
                break
            still_dead: Document = {"_id": {"$in": ids}, "state": DEAD}
            resent += self._write(partial(_update, which=still_dead, change=again))
        return resent

    def _ids_of(self, which: Document, limit: int) -> list[str]:
        """The ids of some of a subscription, from the index alone."""
        shown = {"_id": 0, "queue": 1, "subscription": 1, "number": 1}
        found = self._read(
            lambda deliveries: list(deliveries.find(which, shown, sort={"number": 1}, limit=limit, batch_size=limit))
        )
        return [_id(each["queue"], each["subscription"], each["number"]) for each in found]

    def _sweep_deliveries(self, now: float, limit: int) -> int:
        """Settled ones that were kept long enough; one that is sent again meanwhile is left alone."""
        over = {"keep_until": {"$lte": now}}
        turn = Turns(self._set)
        found = turn.look(lambda opened: list(opened.beside(DELIVERIES).latest.find(over, {"_id": 1}, limit=limit)))
        ids = ids_of(found)
        which = {"_id": {"$in": ids}, **over}
        if ids:
            # By a majority, or a listing would go on showing them for a moment.
            turn.patiently(lambda opened: opened.beside(DELIVERIES).collection.delete_many(which))
        return len(ids)

    def _read(self, read: Callable[[MongoCollection[Document]], T]) -> T:
        """What a majority has."""
        return Turns(self._set).look(lambda opened: read(opened.beside(DELIVERIES).collection))

    def _write(self, change: Callable[[MongoCollection[Document]], T]) -> T:
        """Run what may run twice, in the collection of the deliveries, with a majority."""
        return Turns(self._set).patiently(lambda opened: change(opened.beside(DELIVERIES).collection))


def _update(deliveries: MongoCollection[Document], *, which: Document, change: Document) -> int:
    return deliveries.update_many(which, change).matched_count


def lease(turn: Turns, collection: str, ids: Sequence[str], change: Document, now: float) -> list[Document]:
    """Those of the documents that this call was the one to lease, in the order of the ids."""
    if not ids:
        return []
    token = ObjectId()
    still_due = {"_id": {"$in": ids}, "due": {"$lte": now}}
    turn.patiently(
        lambda opened: opened.beside(collection).collection.update_many(still_due, {"$set": {**change, "token": token}})
    )
    mine = {"_id": {"$in": ids}, "token": token}
    taken = turn.look(lambda opened: list(opened.beside(collection).collection.find(mine, batch_size=len(ids) + 1)))
    places = {id_: place for place, id_ in enumerate(ids)}
    return sorted(taken, key=lambda document: places[document["_id"]])


def delivery_document(delivery: Delivery) -> Document:
    """A delivery as it is stored. What is None is left out."""
    document: Document = {
        "_id": _id(*delivery.key),
        "queue": delivery.queue_uid,
        "subscription": delivery.subscription_id,
        "number": delivery.number,
        "b": delivery.body,
        "ttl": delivery.ttl,
        "created": delivery.created,
        "client": delivery.client_id,
        "kind": delivery.kind,
        "owner": delivery.owner,
        **_outcome(delivery),
    }
    return {name: value for name, value in document.items() if value is not None}


def _outcome(delivery: Delivery) -> Document:
    """What becomes of a delivery, as opposed to what it is; None is not there."""
    waits = delivery.state == WAITING
    return {
        "state": delivery.state,
        "due": delivery.due if waits else None,
        "was_due": None if waits else delivery.due,
        "tries": delivery.tries,
        "attempts": [list(attempt) for attempt in delivery.attempts],
        "keep_until": delivery.keep_until,
    }


def _settling(delivery: Delivery) -> Document:
    outcome = {**_outcome(delivery), "owner": None, "token": None}
    return {
        "$set": {name: value for name, value in outcome.items() if value is not None},
        "$unset": {name: "" for name, value in outcome.items() if value is None},
    }


def _delivery_of(document: Document) -> Delivery:
    return Delivery(
        queue_uid=document["queue"],
        subscription_id=document["subscription"],
        number=document["number"],
        body=document["b"],
        # That of a confirmation may need 64 bits, which PyMongo returns as Int64.
        ttl=int(document["ttl"]),
        created=document["created"],
        client_id=document["client"],
        due=document["due"] if "due" in document else document["was_due"],
        kind=document["kind"],
        owner=document.get("owner"),
        state=document["state"],
        tries=document["tries"],
        attempts=tuple(Attempt(*attempt) for attempt in document["attempts"]),
        keep_until=document.get("keep_until"),
    )


def _id(queue_uid: str, subscription_id: str, number: int) -> str:
    return f"{name_of(queue_uid, subscription_id)}/{number:012x}"
