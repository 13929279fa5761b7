# SPDX-License-Identifier: Apache-2.0
"""Posts on their way to be notified: documents beside the messages, as one command has to write both.

A post has ``queue``, ``first``, ``due`` (0, or until when it is leased) and ``b``, what was posted. Its deliveries are
made in a transaction that also writes or removes the post, so two that expand it at a time do so one after the other,
and nobody makes a delivery of a post that is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zaqar.model import Delivery, Draft, Posted
from zaqar.storage.base.posted import pack_posted, unpack_posted
from zaqar.storage.mongodb.connection import ReplicaSet
from zaqar.storage.mongodb.deliveries import DELIVERIES, MongoDeliveryStore, delivery_document, lease
from zaqar.storage.mongodb.documents import COLLECTION, Document
from zaqar.storage.mongodb.lanes import Rotation
from zaqar.storage.mongodb.statements import statement
from zaqar.storage.mongodb.transactions import MOST_BYTES, Turns

LARGEST = 12 * 1024 * 1024
"""Bytes of one document. The server takes 16 MiB; a larger post is noted as several."""

_LIGHT = 400
"""What a draft or a delivery weighs without its body."""

_AT_ONCE = 1000
"""Deliveries that one transaction stores at most."""

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
            queues = {"$gt": after, **({} if end is None else {"$lte": end})}
            which = {"queue": queues, "due": {"$lte": now}}
            order = {"queue": 1, "first": 1}
            found = turn.look(
                lambda opened: list(opened.latest.find(which, shown, sort=order, limit=many, batch_size=many))
            )
            return [(each["queue"], _id(each["queue"], each["first"])) for each in found]

        taken: list[Document] = []
        for _ in range(_TRIES):
            chosen = self._queues.choose(page, limit=limit, most_of_one=limit)
            taken = lease(turn, COLLECTION, chosen, {"due": until}, now)
            if taken or not chosen:
                break
        return [unpack_posted(each["b"], queue_uid=each["queue"], first=each["first"]) for each in taken]

    def expand(self, *, posted: Posted, deliveries: Sequence[Delivery], last: bool) -> None:
        steps = list(_steps([delivery_document(delivery) for delivery in deliveries], _AT_ONCE))
        if last and not steps:
            steps = [[]]
        for number, step in enumerate(steps, 1):
            if not self._expand(posted, step, forget=last and number == len(steps)):
                return

    def _expand(self, posted: Posted, documents: Sequence[Document], *, forget: bool) -> bool:
        """Store what is not there yet, if the post is; False where that is forgotten."""
        this = {"_id": _id(posted.queue_uid, posted.first)}
        some_may_be_there = False
        for turn in Turns(self._set):
            with turn.transaction() as transaction:
                # That it is written makes this collide with whoever forgets it at the same time.
                found = transaction.delete(this) if forget else transaction.alter(this, {"$inc": {"parts": 1}})
                if not found:
                    transaction.reads_only = True
                elif some_may_be_there:
                    transaction.beside(DELIVERIES).update([_put_new(each) for each in documents], expect=len(documents))
                elif documents:
                    transaction.beside(DELIVERIES).insert(documents)
            if transaction.committed:
                return bool(found)
            some_may_be_there = bool(documents)
        raise AssertionError("turns end by themselves")


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


def _steps(documents: Sequence[Document], most: int) -> Iterator[list[Document]]:
    """Deliveries that are stored together: not very many, and no more bytes than one command takes."""
    step: list[Document] = []
    size = 0
    for document in documents:
        weight = len(document["b"]) + _LIGHT
        if step and (len(step) == most or size + weight > MOST_BYTES):
            yield step
            step, size = [], 0
        step.append(document)
        size += weight
    if step:
        yield step


def _put_new(document: Document) -> Document:
    new = {name: value for name, value in document.items() if name != "_id"}
    return statement({"_id": document["_id"]}, {"$setOnInsert": new}, upsert=True)


def _id(queue_uid: str, first: int) -> str:
    return f"p{queue_uid}{first:012x}"
