# SPDX-License-Identifier: Apache-2.0
"""How much a message store holds in all queues together, in one command; ``MongoMessageStore.volume`` calls it.

The numbers of messages are the stored counts of the queues, corrected by what time has done since they were written.
The numbers of deliveries are counted in the index "age". Each scan has a limit, so the cost of the command depends on
the number of queues and not on the number of messages.
"""

from __future__ import annotations

from typing import Any, Final

from zaqar.model import DEAD, DONE, WAITING, Volume
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES
from zaqar.storage.mongodb.documents import ALL_FENCES, CLAIMED, DELAYED, MESSAGES, READY, Field

MAX_CORRECTED: Final = 1000
"""Messages of one queue that are looked at because they are due, and again because they have expired."""

MAX_COUNTED: Final = 20_000
"""Deliveries of one state that are counted."""


def read_volume(core: Core, now: float) -> Volume:
    """See ``MongoMessageStore.volume``."""
    found: dict[str, Any] = {}
    for part in core.attempt().read_snapshot(_pipeline(now), expect=8):
        found.update(part)
    waiting = found.get(WAITING, 0)
    dead = found.get(DEAD, 0)
    if waiting == MAX_COUNTED:
        every = core.read(lambda connection: connection[DELIVERIES].latest.estimated_document_count())
        waiting = max(waiting, every - dead - found.get(DONE, 0))
    return Volume(
        found.get("free", 0),
        found.get("claimed", 0),
        found.get("delayed", 0),
        found.get("oldest"),
        waiting,
        dead,
        found.get("oldest_waiting"),
    )


def _pipeline(now: float) -> list[Document]:
    oldest_waiting: list[Document] = [
        {"$match": {"state": WAITING}},
        {"$sort": {"created": 1}},
        {"$limit": 1},
        {"$project": {"_id": 0, "oldest_waiting": "$created"}},
    ]
    counts = [[{"$match": {"state": state}}, {"$limit": MAX_COUNTED}, {"$count": state}] for state in _STATES]
    return [
        *_messages(now),
        *({"$unionWith": {"coll": DELIVERIES, "pipeline": part}} for part in (oldest_waiting, *counts)),
    ]


_STATES: Final = (WAITING, DEAD, DONE)


def _messages(now: float) -> list[Document]:
    """Sums over all queues.

    ``EXPIRES`` of a claimed message is never before its ``DUE``. So an expired message is one of these: READY, and it
    is subtracted from the free ones; CLAIMED, which is counted as due and subtracted again; or DELAYED for longer than
    it lives, which was never counted as free, so it is subtracted from the delayed ones.

    If a queue has more than MAX_CORRECTED due messages, as many expired ones are subtracted at most, so no number is
    below 0.
    """
    was_claimed = {"$eq": [f"${Field.STATE}", CLAIMED]}
    is_alive = {"$gt": [f"${Field.EXPIRES}", now]}
    is_delayed = {"$and": [{"$eq": [f"${Field.STATE}", DELAYED]}, {"$gt": [f"${Field.DUE}", now]}]}
    due: list[Document] = [
        {"$match": {Field.DUE: {"$lte": now}}},
        {"$limit": MAX_CORRECTED},
        _sums(claimed=_count_if(was_claimed), oldest={"$min": {"$cond": [is_alive, f"${Field.CREATED}", None]}}),
    ]
    expired: list[Document] = [
        {"$match": {Field.EXPIRES: {"$lte": now}}},
        {"$limit": MAX_CORRECTED},
        _sums(delayed=_count_if(is_delayed)),
    ]
    # The first by number, of which the index "order" has one for each state. A due message is among ``due``.
    first: list[Document] = [
        {"$match": {Field.STATE: {"$in": [READY, CLAIMED]}, "$expr": {"$gte": [f"${Field.SEQUENCE}", 0]}}},
        {"$sort": {Field.SEQUENCE: 1}},
        {"$limit": 1},
        {"$project": {"_id": 0, "oldest": f"${Field.CREATED}"}},
    ]
    free = {"$add": ["$ready", {"$sum": "$due.all"}, _minus("$expired.all"), {"$sum": "$expired.delayed"}]}
    claimed = {"$add": ["$claimed", _minus("$due.claimed")]}
    delayed = {"$add": ["$delayed", _minus("$due.all"), {"$sum": "$due.claimed"}, _minus("$expired.delayed")]}
    oldest = {"$min": [{"$min": "$first.oldest"}, {"$min": "$due.oldest"}]}
    return [
        {"$match": {"_id": ALL_FENCES, "segment": {"$exists": True}}},
        _join_counts(),
        {
            "$project": {
                "segment": 1,
                "ready": {"$add": ["$ready", {"$sum": "$counts.ready"}]},
                "claimed": {"$sum": "$counts.claimed"},
                "delayed": {"$add": ["$delayed", {"$sum": "$counts.delayed"}]},
            }
        },
        # An empty queue costs no more than that.
        {"$match": {"$or": [{name: {"$ne": 0}} for name in ("ready", "claimed", "delayed")]}},
        _join("due", due),
        _join("expired", expired),
        _join("first", first),
        {"$project": {"free": free, "claimed": claimed, "delayed": delayed, "oldest": oldest}},
        # The first message of a queue that has no live ones has expired.
        {"$set": {"oldest": {"$cond": [{"$gt": [{"$add": ["$free", "$claimed"]}, 0]}, "$oldest", None]}}},
        {
            "$group": {
                "_id": None,
                **{name: {"$sum": f"${name}"} for name in ("free", "claimed", "delayed")},
                "oldest": {"$min": "$oldest"},
            }
        },
    ]


def _join(name: str, pipeline: list[Document]) -> Document:
    """Join what the pipeline makes of the messages of a queue."""
    joined = {"localField": "segment", "foreignField": Field.SEGMENT, "pipeline": pipeline}
    return {"$lookup": {"from": MESSAGES, **joined, "as": name}}


def _join_counts() -> Document:
    """Join the counts of the segment of a fence; compare ``documents.within``."""
    segment = {"$toString": "$segment"}
    ids = {"$and": [{"$gte": ["$_id", "$$begin"]}, {"$lt": ["$_id", "$$end"]}]}
    return {
        "$lookup": {
            "from": MESSAGES,
            "let": {"begin": {"$concat": ["counts/", segment, "/"]}, "end": {"$concat": ["counts/", segment, "0"]}},
            "pipeline": [{"$match": {"$expr": ids}}],
            "as": "counts",
        }
    }


def _sums(**sums: Document) -> Document:
    return {"$group": {"_id": None, "all": {"$sum": 1}, **sums}}


def _minus(field: str) -> Document:
    return {"$multiply": [{"$sum": field}, -1]}


def _count_if(condition: Document) -> Document:
    return {"$sum": {"$cond": [condition, 1, 0]}}
