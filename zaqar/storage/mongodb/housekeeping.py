# SPDX-License-Identifier: Apache-2.0
"""What time does to the messages of a queue, and the removal of documents that nobody can reach any more.

Operations call it when they meet something due or expired, and ``sweep`` calls it for what no operation meets. Each
step works on a bounded batch and may be done by several processes at the same time: a message that one of them has
promoted or removed is not found by the next.
"""

from __future__ import annotations

from contextlib import suppress

from bson import ObjectId

from zaqar.errors import StoreUnavailable
from zaqar.storage.mongodb.client.connection import Document, ReplicaSet
from zaqar.storage.mongodb.client.statements import ids_of, statement
from zaqar.storage.mongodb.client.transactions import Attempt, TransactionConflict, retry_on_conflict
from zaqar.storage.mongodb.documents import (
    MESSAGES,
    RETURNS,
    Field,
    counts_id,
    fence_id,
    garbage_id,
    ready_messages,
    within,
)
from zaqar.storage.mongodb.statements import changes_of_counts, check_segment, count, promote_due

BATCH = 500
"""Messages that one transaction promotes, moves or removes at most."""

BRIEF_SECONDS = 0.8
"""Time limit for housekeeping that an operation does after its own work is done."""

MAX_SKIPPED = 500
"""Numbers that a scan for READY messages may pass in vain before ``ready_from`` is moved past them."""


class Housekeeping:
    """Bounded steps of housekeeping for one queue. Each raises StoreUnavailable like an operation."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    # -- due and expired messages ------------------------------------------------------------------------------------

    def promote_due(self, uid: str, segment: ObjectId, now: float) -> None:
        """Make a batch of due messages READY. It is no error if others did that, or if the queue was purged."""
        retry_on_conflict(self._set, lambda attempt: self.try_to_promote_due(attempt, uid, segment, now))

    def try_to_promote_due(self, attempt: Attempt, uid: str, segment: ObjectId, now: float) -> None:
        """One attempt at that. Raises TransactionConflict."""
        due_messages = {Field.SEGMENT: segment, Field.DUE: {"$lte": now}}
        shown = dict.fromkeys((Field.SEQUENCE, Field.STATE, Field.EXPIRES), 1)
        batch = [{"$match": due_messages}, {"$sort": {Field.DUE: 1}}, {"$limit": BATCH}, {"$project": shown}]
        pipeline: list[Document] = [
            {"$match": {"_id": fence_id(uid), "segment": segment}},
            {"$unionWith": {"coll": MESSAGES, "pipeline": batch}},
        ]
        fence, *due = attempt.read_latest(pipeline, expect=BATCH + 2) or [{}]
        if due and "segment" in fence:
            attempt.update(promote_due(uid, segment, due, now), expect=2 + len(due))

    def remove_expired(
        self, uid: str, segment: ObjectId, now: float, *, limit: int, seconds: float | None = None
    ) -> int:
        """Remove up to ``limit`` expired messages of a queue, and return how many.

        ``seconds`` is a time limit other than that of an operation.
        """

        def remove(attempt: Attempt) -> int:
            try:
                return _remove_expired(attempt, uid, segment, now, limit)
            except TransactionConflict:
                fence = [{"$match": {"_id": fence_id(uid), "segment": segment}}]
                if attempt.read_latest(fence, expect=2):
                    raise
                return 0  # The queue was purged or dropped, so the segment is garbage.

        return retry_on_conflict(self._set, remove, seconds=seconds)

    # -- where READY messages begin ----------------------------------------------------------------------------------

    def move_ready_from(self, seen: Document, now: float) -> None:
        """Let ``ready_from`` skip numbers without READY messages, after a scan that passed many; ``seen`` is its fence.

        It only makes later scans faster, so it is brief, and its failure does not matter.
        """
        with suppress(StoreUnavailable):
            retry_on_conflict(
                self._set, lambda attempt: self.try_to_move_ready_from(attempt, seen, now), seconds=BRIEF_SECONDS
            )

    def try_to_move_ready_from(self, attempt: Attempt, seen: Document, now: float) -> None:
        """One attempt at that. Raises TransactionConflict.

        No READY message may end up below ``ready_from``. Messages become READY in two ways. A post adds one with the
        number ``next`` or greater, and ``next`` is read before the scan. An operation that brings messages back adds to
        ``returns`` in its transaction; ``returns`` is read before the scan too, and must be the same when
        ``ready_from`` changes. If such an operation commits after this one, it lowers ``ready_from`` again itself.
        """
        segment, begin = seen["segment"], seen["ready_from"]
        fence = {"_id": seen["_id"], "segment": segment, "ready_from": begin}
        first: list[Document] = [
            {"$match": ready_messages(segment, begin, now)},
            {"$sort": {Field.SEQUENCE: 1}},
            {"$limit": 1},
            {"$project": {Field.SEQUENCE: 1}},
        ]
        # The server reads the parts of a union one after the other: the fence, the counts, then the message.
        pipeline: list[Document] = [
            {"$match": fence},
            {"$unionWith": {"coll": MESSAGES, "pipeline": [{"$match": {"_id": counts_id(segment, RETURNS)}}]}},
            {"$unionWith": {"coll": MESSAGES, "pipeline": first}},
        ]
        found = attempt.read_latest(pipeline, expect=4)
        if len(found) < 2 or "generation" not in found[0]:
            return
        end = found[2][Field.SEQUENCE] if len(found) > 2 else found[0]["next"]
        if end <= begin + MAX_SKIPPED:
            return
        counts = found[1]
        nothing_came_back = statement({"_id": counts["_id"], "returns": counts["returns"]}, {"$inc": {"returns": 1}})
        attempt.update([nothing_came_back, statement(fence, {"$set": {"ready_from": end}})], expect=2)

    # -- documents that nobody can reach -----------------------------------------------------------------------------

    def remove_deleted(self, *, segment: ObjectId | None = None, limit: int, seconds: float | None = None) -> int:
        """Remove up to ``limit`` deleted messages of a segment, or of any segment; return how many."""
        deleted: Document = {Field.DELETED: {"$exists": True} if segment is None else segment}
        attempt = Attempt(self._set, seconds=seconds)
        found = attempt.read_latest([{"$match": deleted}, {"$limit": limit}, {"$project": {"_id": 1}}], expect=limit)
        if found:
            attempt.delete_unreachable({"_id": {"$in": ids_of(found)}, Field.DELETED: {"$exists": True}})
        return len(found)

    def begin_to_remove_garbage(self, segment: ObjectId) -> None:
        """Remove the first documents of a segment after a purge or drop. A sweep removes the rest."""
        with suppress(StoreUnavailable):  # The purge or drop is done. Only sweeps look at what is left.
            for _ in range(4):
                if self.remove_garbage(segment, limit=BATCH, seconds=BRIEF_SECONDS) < BATCH:
                    return

    def remove_garbage(self, segment: ObjectId, *, limit: int, seconds: float | None = None) -> int:
        """Remove up to ``limit`` documents of a segment that no fence has; return how many.

        The document that names the garbage is removed last, so that a sweep goes on after a crash.
        """
        removed = 0
        kinds = [within(kind, segment) for kind in ("message", "claim", "counts")]
        for ids in (*kinds, garbage_id(segment)):
            attempt = Attempt(self._set, seconds=seconds)
            found = attempt.read_latest(
                [{"$match": {"_id": ids}}, {"$limit": limit - removed}, {"$project": {"_id": 1}}], expect=limit
            )
            if found:
                attempt.delete_unreachable({"_id": {"$in": ids_of(found)}})
                removed += len(found)
            if removed >= limit:
                break
        return removed


def _remove_expired(attempt: Attempt, uid: str, segment: ObjectId, now: float, limit: int) -> int:
    with attempt.transaction() as transaction:
        expired = {Field.SEGMENT: segment, Field.EXPIRES: {"$lte": now}}
        found = transaction.find(expired, limit=limit, order=Field.EXPIRES, fields=[Field.STATE])
        if found:
            changes = changes_of_counts(to_ready=0, leaving=[each[Field.STATE] for each in found])
            transaction.update([check_segment(uid, segment), count(segment, **changes)], expect=2)
            transaction.delete_many({"_id": {"$in": ids_of(found)}})
        else:
            transaction.reads_only = True
        return len(found)
