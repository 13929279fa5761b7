# SPDX-License-Identifier: Apache-2.0
"""How much a message store holds in all queues together; ``MongoMessageStore.volume`` calls it.

The numbers of messages are the stored counts of the queues, corrected by what time has done since they were written.
The numbers of deliveries are counted in the index "log". Each scan has a limit, so the cost depends on the number of
queues and subscriptions, and not on the numbers of messages and deliveries.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from zaqar.model import DEAD, DONE, WAITING, Volume
from zaqar.storage.mongodb.client.connection import Connection, Document
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES
from zaqar.storage.mongodb.documents import ALL_FENCES, CLAIMED, DELAYED, MESSAGES, READY, Field

MAX_CORRECTED: Final = 2000
"""Messages of one queue that are looked at because they are due, and again because they have expired."""

MAX_COUNTED: Final = 50_000
"""Deliveries of one state that are counted."""

PAGE: Final = 500
"""Queues of one command, which so ends within the time limit of a step even if all have MAX_CORRECTED of both."""


def read_volume(core: Core, now: float) -> Volume:
    """See ``MongoMessageStore.volume``."""
    sums: Counter[str] = Counter()
    oldest: list[float] = []
    after: str | None = ALL_FENCES["$gte"]
    while after is not None:
        found: Document = {}
        for part in core.attempt().read_snapshot(_messages(after, now), expect=3):
            found.update(part)
        sums.update({name: found.get(name, 0) for name in ("free", "claimed", "delayed")})
        if found.get("oldest") is not None:
            oldest.append(found["oldest"])
        after = found.get("last")
    waiting, dead, oldest_waiting = _read_deliveries(core)
    return Volume(
        sums["free"], sums["claimed"], sums["delayed"], min(oldest, default=None), waiting, dead, oldest_waiting
    )


# -- deliveries -------------------------------------------------------------------------------------------------------


def _read_deliveries(core: Core) -> tuple[int, int, float | None]:
    """The numbers of WAITING and of DEAD deliveries, and when the oldest WAITING one was created."""

    def read(connection: Connection) -> tuple[int, int, float | None]:
        views = connection[DELIVERIES]
        deliveries = views.majority

        def count(state: str) -> int:
            """Count in the index "log". In each subscription the server skips to the state, so it reads no others."""
            which = {"queue": {"$gte": ""}, "subscription": {"$gte": ""}, "state": state, "number": {"$gte": 0}}
            return deliveries.count_documents(which, limit=MAX_COUNTED, hint="log")

        # Only waiting deliveries have ``due``.
        oldest = deliveries.find_one({"due": {"$gte": 0}}, {"created": 1}, sort={"created": 1}, hint="age")
        waiting, dead = count(WAITING), count(DEAD)
        if waiting == MAX_COUNTED:
            every = views.latest.estimated_document_count()
            waiting = max(waiting, every - dead - count(DONE))
        return waiting, dead, None if oldest is None else oldest["created"]

    return core.read(read)


# -- messages ---------------------------------------------------------------------------------------------------------


def _messages(after: str, now: float) -> list[Document]:
    """Sums over a PAGE of queues, from the fence after this id on; the id of the ``last`` one if there are more."""
    fences: list[Document] = [{"$match": {"_id": {**ALL_FENCES, "$gt": after}}}, {"$sort": {"_id": 1}}]
    last: list[Document] = [{"$skip": PAGE - 1}, {"$limit": 1}, {"$project": {"_id": 0, "last": "$_id"}}]
    sums = {name: {"$sum": f"${name}"} for name in ("free", "claimed", "delayed")}
    return [
        *fences,
        {"$limit": PAGE},
        {"$match": {"segment": {"$exists": True}}},
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
        *_corrected(now),
        {"$group": {"_id": None, **sums, "oldest": {"$min": "$oldest"}}},
        {"$unionWith": {"coll": MESSAGES, "pipeline": [*fences, *last]}},
    ]


def _corrected(now: float) -> list[Document]:
    """Stages from the stored counts of a queue to the true ones, with the ``created`` of its oldest message.

    ``EXPIRES`` of a claimed message is never before its ``DUE``. So an expired message is one of these: READY, and it
    is subtracted from the free ones; CLAIMED, which is counted as due and subtracted again; or DELAYED for longer than
    it lives, which was never counted as free, so it is subtracted from the delayed ones.

    If a queue has more than MAX_CORRECTED due messages, at most as many expired ones are subtracted, so no number is
    below 0.
    """
    free = {"$add": ["$ready", {"$sum": "$due.all"}, _minus("$expired.all"), {"$sum": "$expired.delayed"}]}
    claimed = {"$add": ["$claimed", _minus("$due.claimed")]}
    delayed = {"$add": ["$delayed", _minus("$due.all"), {"$sum": "$due.claimed"}, _minus("$expired.delayed")]}
    oldest = {"$min": [{"$min": "$first.oldest"}, {"$min": "$due.oldest"}]}
    return [
        *_join_messages(now),
        {"$project": {"free": free, "claimed": claimed, "delayed": delayed, "oldest": oldest}},
        # If a queue has no live message, its first one has expired.
        {"$set": {"oldest": {"$cond": [{"$gt": [{"$add": ["$free", "$claimed"]}, 0]}, "$oldest", None]}}},
    ]


def _join_messages(now: float) -> list[Document]:
    """Join, with a limit each, sums over messages that are due or have expired, and the first message."""
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
    # The first by number, which is the first key of the index "order". DELAYED ones that are due are among ``due``.
    first: list[Document] = [
        {"$match": {Field.STATE: {"$in": [READY, CLAIMED]}}},
        {"$sort": {Field.SEQUENCE: 1}},
        {"$limit": 1},
        {"$project": {"_id": 0, "oldest": f"${Field.CREATED}"}},
    ]
    return [_join("due", due), _join("expired", expired), _join("first", first)]


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
