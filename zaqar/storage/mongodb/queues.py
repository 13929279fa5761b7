# SPDX-License-Identifier: Apache-2.0
"""Queues as a whole: their fences, statistics and positions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress

from bson import ObjectId

from zaqar.errors import QueueDropped, StaleQueue, StoreUnavailable
from zaqar.model import Queue, QueuePosition, QueueUsage, Stats
from zaqar.storage.base import TOMBSTONE_LIFETIME, QueueStore
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import put, statement
from zaqar.storage.mongodb.client.transactions import Attempt, TransactionConflict
from zaqar.storage.mongodb.core import Core, Look, Parts
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    MESSAGES,
    READY,
    Field,
    fence_id,
    garbage_id,
    message_of,
    messages_in_order,
    uid_of_fence,
    within,
)
from zaqar.storage.mongodb.housekeeping import BATCH, BRIEF_SECONDS, MAX_SKIPPED
from zaqar.storage.mongodb.statements import in_force, new_counts, new_fence
from zaqar.storage.mongodb.tombstones import TOMBSTONES, tombstone
from zaqar.storage.mongodb.wakeups import WaitedQueues

MAX_TIDIED = 4
"""Queues with expired messages in the way that one call of ``positions`` tidies up. The next calls do the others."""


class MongoQueues(QueueStore):
    def __init__(self, core: Core, waited: WaitedQueues) -> None:
        self._core = core
        self._waited = waited

    # -- fences ------------------------------------------------------------------------------------------------------

    def open(self, *, queue: Queue, now: float) -> int:
        key = {"_id": fence_id(queue.uid)}

        def open_fence(attempt: Attempt) -> int:
            with attempt.transaction() as transaction:
                fence = transaction.find_one(key)
                if fence is None or ("segment" not in fence and now >= fence["end"]):
                    if fence is not None:
                        # The tombstone is over. What is left of it would keep posts of the new queue from notifiers.
                        transaction.on(TOMBSTONES).delete_many({"_id": queue.uid})
                    fence = new_fence(queue)
                    transaction.update([put(fence), put(new_counts(fence["segment"]))], expect=2)
                elif "segment" not in fence:
                    raise QueueDropped(queue.uid)
                elif queue.generation > fence["generation"]:
                    transaction.update([statement(key, {"$set": {"generation": queue.generation}})], expect=1)
                generation: int = max(fence["generation"], queue.generation)
                return generation

        return self._core.retry(open_fence)

    def drop(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        """The fence becomes a tombstone, and its segment garbage, in one transaction.

        A crash after it leaves the garbage to the sweep.
        """
        key = {"_id": fence_id(queue.uid)}

        def drop(attempt: Attempt) -> ObjectId | None:
            with attempt.transaction() as transaction:
                fence = transaction.find_one(key) or {}
                segment: ObjectId | None = fence.get("segment")
                if segment is not None:
                    transaction.update([put({"_id": garbage_id(segment), "segment": segment})], expect=1)
                if remember > 0:
                    end = max(now + remember, fence.get("end", 0.0))
                    transaction.update([put({**key, "generation": queue.generation, "end": end})], expect=1)
                    transaction.on(TOMBSTONES).update([put(tombstone(queue.uid, end))], expect=1)
                elif segment is not None:
                    transaction.delete_many(key)
                return segment

        segment = self._core.retry(drop)
        self._core.forget_fence(queue.uid)
        if segment is not None:
            self._core.housekeeping.begin_to_remove_garbage(segment)

    def purge(self, *, queue: Queue, now: float) -> None:
        """The queue gets a new segment, and the old one becomes garbage, in one transaction."""
        new = ObjectId()

        def purge(attempt: Attempt) -> ObjectId:
            with attempt.transaction() as transaction:
                fence = transaction.find_one(in_force(queue))
                if fence is None:
                    raise StaleQueue(queue.uid)
                old: ObjectId = fence["segment"]
                empty = {"segment": new, "ready": 0, "delayed": 0, "ready_from": fence["next"]}
                changes = [
                    statement({"_id": fence["_id"]}, {"$set": empty}),
                    put({"_id": garbage_id(old), "segment": old}),
                    put(new_counts(new)),
                ]
                transaction.update(changes, expect=3)
                return old

        old = self._core.retry(purge)
        self._core.forget_fence(queue.uid)
        self._core.housekeeping.begin_to_remove_garbage(old)

    # -- statistics --------------------------------------------------------------------------------------------------

    def stats(self, *, queue: Queue, now: float) -> Stats:
        look = self._core.retry(
            lambda attempt: self._core.look_in_order(attempt, queue, now, _counts_and_ends(now), expect=10)
        )
        sums: Counter[str] = Counter()
        ends = []
        for document in look.documents:
            if Field.BODY in document:
                ends.append(message_of(queue.uid, document, now))
            else:
                sums.update({name: number for name, number in document.items() if name != "_id"})
        if sums["expired"] > BATCH:
            self._remove_expired(queue.uid, look, now)
        # Expired messages that were not removed are still counted as READY.
        free = look.fence["ready"] + sums["ready"] - sums["expired"]
        return Stats(free, sums["claimed"], *ends)

    def _remove_expired(self, uid: str, look: Look, now: float) -> None:
        """Remove expired messages for a short time, so that the next statistics need not count them."""
        segment, end = look.known.segment, time.monotonic() + BRIEF_SECONDS
        housekeeping = self._core.housekeeping
        with suppress(StoreUnavailable):  # The statistics are known. A sweep does the same.
            while time.monotonic() < end and housekeeping.remove_expired(
                uid, segment, now, limit=2 * BATCH, seconds=BRIEF_SECONDS
            ):
                pass

    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        """One command, which reads the counted messages with their bodies: no index and no counter has their bytes."""
        if most <= 0:
            return QueueUsage(0, 0)
        counted: list[Document] = [
            # The index "expires" has no message that was deleted, and the scan begins after those that have expired.
            {"$match": {Field.EXPIRES: {"$gt": now}}},
            {"$limit": most},
            {"$group": {"_id": None, "messages": {"$sum": 1}, "bytes": {"$sum": {"$binarySize": f"${Field.BODY}"}}}},
        ]
        joined = {"localField": "segment", "foreignField": Field.SEGMENT, "pipeline": counted, "as": "usage"}
        pipeline: list[Document] = [
            {"$match": {"_id": fence_id(queue.uid), "segment": {"$exists": True}}},
            {"$lookup": {"from": MESSAGES, **joined}},
            {"$unwind": "$usage"},
        ]
        for fence in self._core.attempt().read_snapshot(pipeline, expect=2):
            return QueueUsage(fence["usage"]["messages"], fence["usage"]["bytes"])
        return QueueUsage(0, 0)

    # -- positions ---------------------------------------------------------------------------------------------------

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        """One command; a few more if expired messages are in the way, which are tidied up then."""
        if not uids:
            return {}
        found = self._read_positions(uids, now)
        with suppress(StoreUnavailable):  # The positions are known. This makes them exact, and later calls fast.
            self._tidy_up(found, now)
        self._waited.note({fence["segment"]: uid for uid, fence in found.items()})
        # A queue that is still unclear counts as free. A claim tidies it up, and finds what is left.
        return {uid: _position_of(fence) for uid, fence in found.items()}

    def _tidy_up(self, found: dict[str, Document], now: float) -> None:
        """Do what a claim would do about expired messages that are in the way, for a few queues and a short time.

        There is one attempt for each queue: if others are faster, they do the same.
        """
        attempt = Attempt(self._core.replica_set, seconds=BRIEF_SECONDS)
        housekeeping = self._core.housekeeping
        unclear = [uid for uid, fence in found.items() if _is_unclear(fence, now)][:MAX_TIDIED]
        for uid in unclear:
            if attempt.remaining > BRIEF_SECONDS / 2:
                with suppress(TransactionConflict):
                    housekeeping.try_to_promote_due(attempt, uid, found[uid]["segment"], now)
        if unclear:
            found.update(self._read_positions(unclear, now))
        for fence in [each for each in found.values() if _skips_many(each)][:MAX_TIDIED]:
            if attempt.remaining > BRIEF_SECONDS / 2:
                with suppress(TransactionConflict):
                    housekeeping.try_to_move_ready_from(attempt, fence, now)

    def _read_positions(self, uids: Collection[str], now: float) -> dict[str, Document]:
        """Fences with messages, by uid. They are what a majority has, as in listings.

        So a number that was seen never belongs to another message after a fail-over, and a reader that begins after it
        misses nothing.
        """
        found = self._core.attempt().read_snapshot(_fences_with_first_messages(uids, now), expect=len(uids) + 1)
        return {uid_of_fence(each["_id"]): each for each in found}


def _counts_and_ends(now: float) -> Parts:
    """Pipelines for the counts of a segment, its expired READY messages, and its oldest and its newest message."""

    def parts(segment: ObjectId, begin: int) -> list[list[Document]]:
        every = {"$match": messages_in_order(segment, [CLAIMED], ready_from=begin, after=0, now=now)}
        sums = {"_id": None, "ready": {"$sum": "$ready"}, "claimed": {"$sum": "$claimed"}}
        expired = {Field.SEGMENT: segment, Field.EXPIRES: {"$lte": now}, Field.STATE: READY}
        return [
            [{"$match": {"_id": within("counts", segment)}}, {"$group": sums}],
            [{"$match": expired}, {"$count": "expired"}],
            [every, {"$sort": {Field.SEQUENCE: 1}}, {"$limit": 1}],
            [every, {"$sort": {Field.SEQUENCE: -1}}, {"$limit": 1}],
        ]

    return parts


def _fences_with_first_messages(uids: Collection[str], now: float) -> list[Document]:
    """Each fence with its first READY message, the one that is due for longest, and the one that is due next."""
    is_after_begin = {"$gte": [f"${Field.SEQUENCE}", "$$ready_from"]}
    ready = {Field.STATE: READY, Field.EXPIRES: {"$gt": now}, "$expr": is_after_begin}
    return [
        {"$match": {"_id": {"$in": [fence_id(uid) for uid in uids]}, "segment": {"$exists": True}}},
        _join_first("first_ready", ready, Field.SEQUENCE),
        _join_first("first_due", {Field.DUE: {"$lte": now}}, Field.DUE, Field.EXPIRES),
        _join_first("due_next", {Field.DUE: {"$gt": now}}, Field.DUE),
    ]


def _join_first(name: str, which: Document, order: str, *more: str) -> Document:
    """Join the first message of the queue that matches. Fields of the index alone let the server read no document."""
    shown = {"_id": 0, **dict.fromkeys((order, *more), 1)}
    pipeline: Sequence[Document] = [{"$match": which}, {"$sort": {order: 1}}, {"$limit": 1}, {"$project": shown}]
    joined = {"localField": "segment", "foreignField": Field.SEGMENT, "pipeline": pipeline}
    return {"$lookup": {"from": MESSAGES, "let": {"ready_from": "$ready_from"}, **joined, "as": name}}


def _is_unclear(fence: Document, now: float) -> bool:
    """Whether there may be a free message behind one that has expired."""
    return not fence["first_ready"] and any(each[Field.EXPIRES] <= now for each in fence["first_due"])


def _skips_many(fence: Document) -> bool:
    first: int = fence["first_ready"][0][Field.SEQUENCE] if fence["first_ready"] else fence["next"]
    begin: int = fence["ready_from"]
    return first > begin + MAX_SKIPPED


def _position_of(fence: Document) -> QueuePosition:
    return QueuePosition(
        last=fence["next"] - 1,
        free=bool(fence["first_ready"] or fence["first_due"]),
        next_due=fence["due_next"][0][Field.DUE] if fence["due_next"] else None,
    )
