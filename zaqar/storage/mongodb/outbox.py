# SPDX-License-Identifier: Apache-2.0
"""Posts on their way to be notified: documents beside the messages, as one command has to write both.

A post has ``queue``, ``first``, ``due`` (0, or until when it is leased), ``b``, what was posted, and ``position``, how
far it is expanded. Its deliveries are made in transactions that also write or remove the post, so of two that expand
it at a time the second finds another position, and nobody makes a delivery of a post that is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zaqar.model import NOT_EXPANDED, WAITING, Delivery, Draft, Posted, PostPosition
from zaqar.storage.base import MOST_PASSED
from zaqar.storage.base.packed_posts import pack_posted, unpack_posted
from zaqar.storage.mongodb.connection import ReplicaSet
from zaqar.storage.mongodb.deliveries import DELIVERIES, MongoDeliveryStore, delivery_document, lease
from zaqar.storage.mongodb.documents import COLLECTION, Document, fence_id
from zaqar.storage.mongodb.dropped import DROPPED, any_of, dropped_among
from zaqar.storage.mongodb.lanes import Found, Rotation
from zaqar.storage.mongodb.statements import ids_of, statement
from zaqar.storage.mongodb.transactions import Turns

LARGEST = 12 * 1024 * 1024
"""Bytes of one document. The server takes 16 MiB; a larger post is noted as several."""

_LIGHT = 400
"""What a draft weighs without its body."""

_TRIES = 3
"""Looks of one call, where others were faster to take all that it had found."""


class OutboxStore(MongoDeliveryStore):
    """The part of the message store that is about posts to notify."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        super().__init__(replica_set)
        self._queues = Rotation()

    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        turn = Turns(self._set)
        shown = {"_id": 0, "queue": 1, "first": 1}

        def page(after: str, end: str | None, many: int) -> list[tuple[str, str]]:
            others = list(self._queues.dropped)
            queues = {"$gt": after, **({} if end is None else {"$lte": end}), **({"$nin": others} if others else {})}
            which = {"queue": queues, "due": {"$lte": now}}
            order = {"queue": 1, "first": 1}
            found = turn.look(
                lambda opened: list(opened.latest.find(which, shown, sort=order, limit=many, batch_size=many))
            )
            return [(each["queue"], _id(each["queue"], each["first"])) for each in found]

        def living(found: Found) -> Found:
            dropped = turn.look(lambda opened: dropped_among(opened, {queue for queue, _ in found}))
            return [each for each in found if each[0] not in dropped] if dropped else found

        taken: list[Document] = []
        for _ in range(_TRIES):
            chosen = self._queues.choose(page, living, limit=limit, most_of_one=limit)
            taken = lease(turn, COLLECTION, chosen, {"due": until}, now)
            if taken or not chosen:
                break
        return [
            unpack_posted(each["b"], queue_uid=each["queue"], first=each["first"], position=_position_of(each))
            for each in taken
        ]

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        here = {"_id": _id(posted.queue_uid, posted.first), "position": _stored(posted.position)}
        there: Document = {"due": until} if position is None else {"due": until, "position": _stored(position)}
        documents = {document["_id"]: document for document in map(delivery_document, deliveries)}
        names = {key: key.rpartition("/")[0] for key in documents}
        some_may_be_there = False
        for turn in Turns(self._set):
            dropped: set[str] = set()
            with turn.transaction() as transaction:
                # That the post is written makes this collide with whoever else expands it, or removes it, now.
                found = transaction.delete(here) if position is None else transaction.alter(here, {"$set": there})
                if found:
                    tombstones = any_of([posted.queue_uid, *names.values()])
                    dropped.update(ids_of(transaction.beside(DROPPED).find(tombstones)))
                new = [document for key, document in documents.items() if names[key] not in dropped]
                if not found or posted.queue_uid in dropped:
                    transaction.reads_only = True
                elif new and some_may_be_there:
                    transaction.beside(DELIVERIES).update([_put_new(each) for each in new], expect=len(new))
                elif new:
                    transaction.beside(DELIVERIES).insert(new)
            if transaction.committed:
                return not transaction.reads_only
            some_may_be_there = True
        raise AssertionError("turns end by themselves")

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
        found = Turns(self._set).read(
            [
                {"$match": given_out},
                {"$project": {"_id": 0, "next": 1}},
                _first_of(COLLECTION, posts, "first", [{"$limit": 1}, {"$project": {"_id": 0, "first": 1}}]),
                *(_first_of(DELIVERIES, waiting, "number", choice) for choice in _counting(due_before)),
            ],
            expect=5,
        )
        return not (len(found) == 1 and "next" in found[0])


def _first_of(collection: str, which: Document, order: str, choice: Sequence[Document]) -> Document:
    """A stage that adds documents of a collection that match ``which``, sorted by ``order``, then ``choice``."""
    return {"$unionWith": {"coll": collection, "pipeline": [{"$match": which}, {"$sort": {order: 1}}, *choice]}}


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


def posted_documents(queue_uid: str, first: int, drafts: Sequence[Draft], client_id: str, now: float) -> list[Document]:
    """A post as it is stored beside its messages: one document, or several where it is very large."""
    documents: list[Document] = []
    for part in _parts(drafts):
        documents.append(
            {
                "_id": _id(queue_uid, first),
                "queue": queue_uid,
                "first": first,
                "due": 0.0,
                "b": pack_posted(part, client_id, now),
            }
        )
        first += len(part)
    return documents


def _parts(drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    begin = size = 0
    for place, draft in enumerate(drafts):
        weight = len(draft.body) + _LIGHT
        if place > begin and size + weight > LARGEST:
            yield drafts[begin:place]
            begin, size = place, 0
        size += weight
    yield drafts[begin:]


def _stored(position: PostPosition) -> list[str | int] | None:
    """A position as it is stored; a new post has none, which None matches."""
    return None if position == NOT_EXPANDED else list(position)


def _position_of(document: Document) -> PostPosition:
    return PostPosition(*(document.get("position") or ()))


def _put_new(document: Document) -> Document:
    new = {name: value for name, value in document.items() if name != "_id"}
    return statement({"_id": document["_id"]}, {"$setOnInsert": new}, upsert=True)


def _id(queue_uid: str, first: int) -> str:
    return f"p{queue_uid}{first:012x}"
