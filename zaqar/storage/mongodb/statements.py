# SPDX-License-Identifier: Apache-2.0
"""The statements with which the operations of the message store check a fence, and change counts and messages.

Each matches documents only if they still are as the operation has read them; see ``client.statements``.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import randrange
from typing import Final

from bson import ObjectId

from zaqar.model import Queue
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import ids_of, statement
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    DELAYED,
    READY,
    RETURNS,
    SLOTS,
    Field,
    counts_id,
    fence_id,
)

_OF_LIVING_MESSAGES = (
    *(Field.STATE, Field.DUE, Field.EXPIRES, Field.CLAIM, Field.CREATED, Field.CLIENT),
    *(Field.CLAIM_COUNT, Field.CHECKSUM, Field.ORIGIN, Field.TRACE, Field.BODY),
)
_DELETE: Final = {"$unset": dict.fromkeys(_OF_LIVING_MESSAGES, "")}

BECOME_READY: Final = {"$set": {Field.STATE: READY}, "$unset": {Field.DUE: "", Field.CLAIM: ""}}

# -- the fence --------------------------------------------------------------------------------------------------------


def new_fence(queue: Queue) -> Document:
    return {
        "_id": fence_id(queue.uid),
        "generation": queue.generation,
        "segment": ObjectId(),
        "next": 1,
        "ready_from": 1,
        "ready": 0,
        "delayed": 0,
    }


def in_force(queue: Queue) -> Document:
    """A query for the fence, if it has the generation of ``queue`` and is no tombstone."""
    return {"_id": fence_id(queue.uid), "generation": queue.generation, "segment": {"$exists": True}}


def check_fence(queue: Queue, segment: ObjectId) -> Document:
    """Match the fence if its generation and segment are as the operation believes. It changes nothing.

    The server does not write a document that an update leaves as it is. So operations that only check the fence do not
    conflict with each other, nor with posts. Such an operation takes place at the moment of its snapshot. If a purge
    commits after that moment, the operation changes documents of the old segment, which nobody can reach any more.
    """
    this = {"_id": fence_id(queue.uid), "generation": queue.generation, "segment": segment}
    return statement(this, {"$set": {"segment": segment}})


def check_segment(uid: str, segment: ObjectId) -> Document:
    """The same for upkeep, which does not depend on the generation."""
    return statement({"_id": fence_id(uid), "segment": segment}, {"$set": {"segment": segment}})


def lower_ready_from(uid: str, segment: ObjectId, first: float) -> Document:
    """Match the fence of the segment, and change it only if ``ready_from`` is too high.

    It goes with ``count_returned``.
    """
    return statement({"_id": fence_id(uid), "segment": segment}, {"$min": {"ready_from": first}})


# -- counts -----------------------------------------------------------------------------------------------------------


def new_counts(segment: ObjectId) -> Document:
    """The document that ``count_returned`` adds to, as it is in a new segment."""
    return {"_id": counts_id(segment, RETURNS), "returns": 0}


def count(segment: ObjectId, **changes: int) -> Document:
    """Add to the counts of a segment, in a document chosen at random, so that operations rarely conflict."""
    slot = randrange(RETURNS + 1, SLOTS)  # noqa: S311
    return statement({"_id": counts_id(segment, slot)}, {"$inc": changes}, upsert=True)


def count_returned(segment: ObjectId, **changes: int) -> Document:
    """Add to the counts when messages come back to READY.

    It is always the same document, which exists as long as the segment. So this conflicts with an operation that moves
    ``ready_from`` at the same moment, and never with a post.
    """
    return statement({"_id": counts_id(segment, RETURNS)}, {"$inc": {"returns": 1, **changes}})


def changes_of_counts(*, to_ready: int, leaving: Sequence[int]) -> dict[str, int]:
    """How the counts change if ``to_ready`` messages become READY and messages leave the states ``leaving``."""
    return {
        "ready": to_ready - leaving.count(READY),
        "claimed": -leaving.count(CLAIMED),
        "delayed": -leaving.count(DELAYED),
    }


# -- messages ---------------------------------------------------------------------------------------------------------


def delete(segment: ObjectId, query: Document, *, many: bool = True) -> Document:
    """Delete the messages that match, as far as any operation can see."""
    return statement(query, _deletion(segment), many=many)


def promote_due(uid: str, segment: ObjectId, due: Sequence[Document], now: float) -> list[Document]:
    """Make due messages READY, or delete those that have expired meanwhile.

    Together the statements match the counts, the fence and all of ``due``, if all are as they were read.
    """
    alive = [each for each in due if each[Field.EXPIRES] > now]
    expired = [each for each in due if each[Field.EXPIRES] <= now]
    changes = [
        count_returned(segment, **changes_of_counts(to_ready=len(alive), leaving=[each[Field.STATE] for each in due])),
        lower_ready_from(uid, segment, min(each[Field.SEQUENCE] for each in due)),
    ]
    for state in (CLAIMED, DELAYED):
        for change, some, life in (
            (BECOME_READY, alive, {"$gt": now}),
            (_deletion(segment), expired, {"$lte": now}),
        ):
            ids = ids_of([each for each in some if each[Field.STATE] == state])
            if ids:
                # A renewal by a worker whose clock is behind may have moved both times since they were read.
                as_read = {
                    "_id": {"$in": ids},
                    Field.STATE: state,
                    Field.DUE: {"$lte": now},
                    Field.EXPIRES: life,
                }
                changes.append(statement(as_read, change, many=True))
    return changes


def _deletion(segment: ObjectId) -> Document:
    return {**_DELETE, "$set": {Field.DELETED: segment}}
