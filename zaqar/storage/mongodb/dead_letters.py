# SPDX-License-Identifier: Apache-2.0
"""Dead letters: handed over to another store, or moved to a queue of this one.

:class:`MongoDeadLetters` has the steps of a hand-over between two stores. The functions below it move messages within
this store; ``first_free`` calls them in a claim's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bson import ObjectId

from zaqar.errors import StaleQueue
from zaqar.model import DeadLetters, Draft, Message, Origin, Queue, message_id
from zaqar.storage.base import TOMBSTONE_LIFETIME, DeadLetterStore
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import ids_of, put, statement
from zaqar.storage.mongodb.client.transactions import Attempt, Transaction, TransactionConflict
from zaqar.storage.mongodb.core import Core, segment_in
from zaqar.storage.mongodb.documents import (
    READY,
    SET_ASIDE,
    Field,
    document_of,
    message_key,
    messages_of,
    ready_messages,
    received_id,
)
from zaqar.storage.mongodb.housekeeping import BATCH
from zaqar.storage.mongodb.outbox import posted_documents
from zaqar.storage.mongodb.statements import check_fence, count, in_force

_ASIDE = {"$set": {Field.STATE: SET_ASIDE}, "$rename": {Field.EXPIRES: Field.SAVED_EXPIRES}}


class MongoDeadLetters(DeadLetterStore):
    """The three steps of a hand-over: ``set_aside`` on the source, ``receive`` on the target, ``forget`` on the source.

    A crash after the first step leaves messages that are set aside; the next claim finds them first. A crash after the
    second step leaves them set aside as well, but the target has their ids, so it does not append them again. Only the
    third step removes them from the source.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        def set_aside(attempt: Attempt) -> list[Message]:
            # This promotes due messages, which may be exhausted.
            look = self._core.look_in_order(attempt, queue, now, lambda segment, begin: [], expect=0, latest=True)
            segment = look.known.segment
            are_aside = {Field.SEGMENT: segment, Field.STATE: SET_ASIDE}
            with attempt.transaction() as transaction:
                begin = current_ready_from(transaction, queue, segment)
                aside = transaction.find(are_aside, limit=BATCH, order=Field.SEQUENCE)
                _, exhausted = find_alive_and_exhausted(
                    transaction, segment, begin, now, limit=limit, max_claim_count=max_claim_count
                )
                exhausted = exhausted[: BATCH - len(aside)]
                changes, expect = [check_fence(queue, segment)], 1
                if exhausted:
                    these = {"_id": {"$in": ids_of(exhausted)}, Field.STATE: READY}
                    changes += [statement(these, _ASIDE, many=True), count(segment, ready=-len(exhausted))]
                    expect += len(exhausted) + 1
                transaction.update(changes, expect=expect)
                if exhausted:
                    aside = transaction.find(are_aside, limit=BATCH, order=Field.SEQUENCE)
            as_before = [{**each, Field.EXPIRES: each[Field.SAVED_EXPIRES]} for each in aside]
            return messages_of(queue.uid, as_before, now)

        return self._core.retry(set_aside)

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        by_id: dict[str, Message] = {}
        for message in messages:
            if message.origin is None:
                raise ValueError("a dead letter without an origin")
            by_id.setdefault(received_id(queue.uid, message.origin.message_id), message)

        def receive(attempt: Attempt) -> None:
            with attempt.transaction() as transaction:
                segment_in(transaction, queue)
                received = set(ids_of(transaction.find({"_id": {"$in": list(by_id)}}, fields=["end"])))
                new = {id_: message for id_, message in by_id.items() if id_ not in received}
                if new:
                    # If two processes hand over the same message at the same time, both change the fence here. The
                    # second one conflicts, begins again and finds the id.
                    append(transaction, queue, [replace(message, claim_count=0) for message in new.values()], now)
                    end = now + TOMBSTONE_LIFETIME
                    transaction.update([put({"_id": id_, "end": end}) for id_ in new], expect=len(new))

        self._core.retry(receive)

    def forget(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        def forget(attempt: Attempt) -> None:
            with attempt.transaction() as transaction:
                segment = segment_in(transaction, queue)
                keys = [message_key(segment, sequence) for sequence in sequences]
                transaction.delete_many({"_id": {"$in": keys}, Field.STATE: SET_ASIDE})

        self._core.retry(forget)


# -- within this store ------------------------------------------------------------------------------------------------


def current_ready_from(transaction: Transaction, queue: Queue, segment: ObjectId) -> int:
    """``ready_from`` at the moment of the transaction, because messages may have come back since an earlier read.

    Raises TransactionConflict if the queue was purged or changed since then.
    """
    fence = transaction.find_one({**in_force(queue), "segment": segment})
    if fence is None:
        raise TransactionConflict
    begin: int = fence["ready_from"]
    return begin


def find_alive_and_exhausted(
    transaction: Transaction, segment: ObjectId, begin: int, now: float, *, limit: int, max_claim_count: int
) -> tuple[list[Document], list[Document]]:
    """The first ``limit`` free messages that may be claimed, and at most a BATCH of exhausted ones before them."""
    alive: list[Document] = []
    exhausted: list[Document] = []
    free = ready_messages(segment, begin, now)
    fields = [Field.SEQUENCE, Field.CLAIM_COUNT]
    for each in transaction.find(free, limit=limit + BATCH, order=Field.SEQUENCE, fields=fields):
        if len(alive) == limit or len(exhausted) == BATCH:
            break
        (exhausted if each[Field.CLAIM_COUNT] >= max_claim_count else alive).append(each)
    return alive, exhausted


def move_to_dead_letter_queue(
    transaction: Transaction, queue: Queue, exhausted: Sequence[Document], now: float, rules: DeadLetters
) -> None:
    """Append messages to the dead letter queue. The caller deletes them from ``queue`` in the same transaction."""
    target = rules.queue
    assert target is not None
    messages = []
    for message in messages_of(queue.uid, transaction.find({"_id": {"$in": ids_of(exhausted)}}), now):
        origin = Origin(queue.name, message_id(queue.uid, message.sequence), message.claim_count)
        moved = replace(message, claim_count=0, origin=origin)
        messages.append(moved if rules.ttl is None else replace(moved, created=now, expires=now + rules.ttl))
    append(transaction, target, messages, now)


def append(transaction: Transaction, queue: Queue, messages: Sequence[Message], now: float) -> None:
    """Append free messages to a queue, with a post for each if the queue has subscribers.

    The same transaction checks the fence and takes the numbers from it. Raises StaleQueue.
    """
    many = len(messages)
    fence = transaction.find_one_and_update(in_force(queue), {"$inc": {"next": many, "ready": many}})
    if fence is None:
        raise StaleQueue(queue.uid)
    first = fence["next"] - many
    numbered = [replace(message, sequence=first + n) for n, message in enumerate(messages)]
    documents = [document_of(fence["segment"], message) for message in numbered]
    for message in numbered if queue.notify else ():
        draft = Draft(message.body, message.ttl, trace=message.trace)
        documents += posted_documents(queue.uid, message.sequence, [draft], message.client_id, now, request_id="")
    transaction.insert(documents)
