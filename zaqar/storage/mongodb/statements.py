# SPDX-License-Identifier: Apache-2.0
"""What an update command is made of. Each statement says what it matches, so a count of matches checks them all."""

from __future__ import annotations

from collections.abc import Sequence
from random import randrange
from typing import Final

from bson import ObjectId

from zaqar.model import Queue
from zaqar.storage.mongodb.documents import CLAIMED, DELAYED, READY, SLOTS, Document, fence_id, segment_id

BACK = 0
"""The one of a segment's counts that ``count_back`` adds to."""

_GONE: Final = {"$unset": dict.fromkeys("tdxkcunhob", "")}
FREE: Final = {"$set": {"t": READY}, "$unset": {"d": "", "k": ""}}


def statement(query: Document, change: Document, *, many: bool = False, upsert: bool = False) -> Document:
    return {"q": query, "u": change, "multi": many, "upsert": upsert}


def remove(segment: ObjectId, query: Document, *, many: bool = True) -> Document:
    """Delete messages, as far as anybody can see."""
    return statement(query, gone(segment), many=many)


def gone(segment: ObjectId) -> Document:
    return {**_GONE, "$set": {"z": segment}}


def count(segment: ObjectId, slot: int, **more: int) -> Document:
    """Add to the counts of a segment."""
    return statement({"_id": counts_id(segment, slot)}, {"$inc": more}, upsert=True)


def counts_id(segment: ObjectId, slot: int) -> str:
    return segment_id("s", segment, f"{slot:x}")


def new_counts(segment: ObjectId) -> Document:
    """The one that ``count_back`` adds to, as it begins."""
    return {"_id": counts_id(segment, BACK), "back": 0}


def put(document: Document) -> Document:
    return statement({"_id": document["_id"]}, document, upsert=True)


def new_fence(queue: Queue) -> Document:
    return {
        "_id": fence_id(queue.uid),
        "gen": queue.generation,
        "seg": ObjectId(),
        "next": 1,
        "from": 1,
        "ready": 0,
        "delayed": 0,
    }


def in_force(queue: Queue) -> Document:
    return {"_id": fence_id(queue.uid), "gen": queue.generation, "seg": {"$exists": True}}


def check(queue: Queue, segment: ObjectId) -> Document:
    """Matches one document if the fence is as the operation believes, and changes nothing."""
    return statement({"_id": fence_id(queue.uid), "gen": queue.generation, "seg": segment}, {"$set": {"seg": segment}})


def lower_ready_from(uid: str, segment: ObjectId, first: float) -> Document:
    """Matches the fence of the segment, and changes it only where ``from`` is too high. Goes with ``count_back``."""
    return statement({"_id": fence_id(uid), "seg": segment}, {"$min": {"from": first}})


def count_back(segment: ObjectId, **more: int) -> Document:
    """Add to the counts when messages come back to READY.

    Always in the same document, which is there as long as the segment is, so that it is seen by who moves ``from``, and
    does not collide with posts.
    """
    return statement({"_id": counts_id(segment, BACK)}, {"$inc": {"back": 1, **more}})


def ripening(uid: str, segment: ObjectId, due: Sequence[Document], now: float) -> list[Document]:
    """They match the counts, the fence, and all that are due if these are as they were found."""
    live = [each for each in due if each["x"] > now]
    dead = [each for each in due if each["x"] <= now]
    changes = [
        count_back(segment, **counts_of(len(live), [each["t"] for each in due])),
        lower_ready_from(uid, segment, min(each["q"] for each in due)),
    ]
    for state in (CLAIMED, DELAYED):
        for change, some, life in ((FREE, live, {"$gt": now}), (gone(segment), dead, {"$lte": now})):
            ids = ids_of([each for each in some if each["t"] == state])
            if ids:
                # A renewal by a worker whose clock is behind may have moved both times since they were read.
                as_found = {"_id": {"$in": ids}, "t": state, "d": {"$lte": now}, "x": life}
                changes.append(statement(as_found, change, many=True))
    return changes


def counts_of(ready: int, left: Sequence[int]) -> dict[str, int]:
    """What the counts change by when some become READY and some leave the states that are given."""
    return {
        "ready": ready - left.count(READY),
        "claimed": -left.count(CLAIMED),
        "delayed": -left.count(DELAYED),
    }


def ids_of(documents: Sequence[Document]) -> list[str]:
    return [each["_id"] for each in documents]


def slot() -> int:
    return randrange(BACK + 1, SLOTS)  # noqa: S311 - to keep out of each other's way
