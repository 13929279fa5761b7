# SPDX-License-Identifier: Apache-2.0
"""What nobody waits for: removing what is dead, and the sums over all queues."""

from __future__ import annotations

from zaqar.model import Stats
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.core import BATCH
from zaqar.storage.mongodb.dead_letters import LetterStore
from zaqar.storage.mongodb.documents import (
    AFTER_FENCES,
    AFTER_GARBAGE,
    CLAIMED,
    COLLECTION,
    DELAYED,
    FIRST_FENCE,
    FIRST_GARBAGE,
    Document,
)
from zaqar.storage.mongodb.statements import ids_of

QUEUES_AT_ONCE = 50


class SweepStore(LetterStore):
    """The part of the message store that is about the store as a whole."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        super().__init__(replica_set)
        self._swept = FIRST_FENCE
        """The fence at which the sweep for expired messages goes on."""

    def volume(self, *, now: float) -> Stats:
        turn = next(self._turns())
        for total in turn.read(_volume(now), expect=2):
            return Stats(total["free"], total["claimed"])
        return Stats()

    def sweep(self, *, now: float, limit: int) -> int:
        removed = 0
        kinds = (
            self._sweep_messages,
            self._sweep_garbage,
            self._sweep_gone,
            self._sweep_ended,
            self._sweep_dropped,
            self._sweep_deliveries,
        )
        for sweep_some in kinds:
            # Each kind has a share, so that none waits for ever behind another of which there is always more.
            left = max(limit - removed, -(-limit // len(kinds)))
            while left > 0 and (more := sweep_some(now, min(BATCH, left))):
                removed += more
                left -= more
        return removed

    def _sweep_messages(self, now: float, limit: int) -> int:
        """Expired messages of the next queues that have some; all around once before the answer is 0."""
        for after in (self._swept, FIRST_FENCE):
            found = next(self._turns()).peek(self._with_expired(after, now), expect=QUEUES_AT_ONCE)
            removed = 0
            for fence in found:
                removed += self._expire(fence["_id"][1:], fence["seg"], now, limit=limit - removed)
                if removed >= limit:
                    break
                self._swept = fence["_id"]
            if removed:
                return removed
        return 0

    def _with_expired(self, after: str, now: float) -> list[Document]:
        one = [{"$match": {"x": {"$lte": now}}}, {"$limit": 1}, {"$project": {"_id": 1}}]
        theirs = {"from": COLLECTION, "localField": "seg", "foreignField": "s", "pipeline": one, "as": "dead"}
        return [
            {"$match": {"_id": {"$gt": after, "$lt": AFTER_FENCES}, "seg": {"$exists": True}}},
            {"$sort": {"_id": 1}},
            {"$lookup": theirs},
            {"$match": {"dead": {"$ne": []}}},
            {"$limit": QUEUES_AT_ONCE},
            {"$project": {"seg": 1}},
        ]

    def _sweep_garbage(self, now: float, limit: int) -> int:
        garbage: list[Document] = [{"$match": {"_id": {"$gt": FIRST_GARBAGE, "$lt": AFTER_GARBAGE}}}, {"$limit": 1}]
        found = next(self._turns()).peek(garbage, expect=2)
        return self._remove_garbage(found[0]["seg"], limit=limit) if found else 0

    def _sweep_gone(self, now: float, limit: int) -> int:
        return self._remove_gone({"z": {"$exists": True}}, limit=limit)

    def _sweep_ended(self, now: float, limit: int) -> int:
        """Claims and tombstones whose time is over; one that was renewed meanwhile is left alone."""
        over = {"end": {"$lte": now}}
        turn = next(self._turns())
        found = turn.peek([{"$match": over}, {"$limit": limit}, {"$project": {"_id": 1}}], expect=limit)
        return turn.delete({"_id": {"$in": ids_of(found)}, **over}) if found else 0


def _volume(now: float) -> list[Document]:
    """Counts of all queues: what is stored, put right by what time did since it was written.

    ``x`` of a claimed message is never before its ``d``. So what has expired is READY (gone from there), due (counted,
    then taken off again), or DELAYED for longer than it lives (never counted, so put back).
    """

    def messages(name: str, timer: str, **sums: Document) -> Document:
        """Sums over the messages of a fence whose timer is over."""
        pipeline = [{"$match": {timer: {"$lte": now}}}, {"$group": {"_id": None, "all": {"$sum": 1}, **sums}}]
        joined = {"localField": "seg", "foreignField": "s", "pipeline": pipeline}
        return {"$lookup": {"from": COLLECTION, **joined, "as": name}}

    was_claimed = {"$eq": ["$t", CLAIMED]}
    is_delayed = {"$and": [{"$eq": ["$t", DELAYED]}, {"$gt": ["$d", now]}]}
    free = ["$ready", {"$sum": "$slots.ready"}, {"$sum": "$due.all"}, _minus("$gone.all"), {"$sum": "$gone.stillborn"}]
    claimed = [{"$sum": "$slots.claimed"}, _minus("$due.claimed")]
    return [
        {"$match": {"_id": {"$gt": FIRST_FENCE, "$lt": AFTER_FENCES}, "seg": {"$exists": True}}},
        _slots(),
        messages("due", "d", claimed=_count_if(was_claimed)),
        messages("gone", "x", stillborn=_count_if(is_delayed)),
        {"$group": {"_id": None, "free": {"$sum": {"$add": free}}, "claimed": {"$sum": {"$add": claimed}}}},
    ]


def _slots() -> Document:
    """Join the documents that count for the segment of a fence."""
    end = {"$concat": ["$$first", "g"]}  # after every hexadecimal digit
    theirs = {"$and": [{"$gte": ["$_id", "$$first"]}, {"$lt": ["$_id", end]}]}
    return {
        "$lookup": {
            "from": COLLECTION,
            "let": {"first": {"$concat": ["s", {"$toString": "$seg"}]}},
            "pipeline": [{"$match": {"$expr": theirs}}],
            "as": "slots",
        }
    }


def _minus(field: str) -> Document:
    return {"$multiply": [{"$sum": field}, -1]}


def _count_if(condition: Document) -> Document:
    return {"$sum": {"$cond": [condition, 1, 0]}}
