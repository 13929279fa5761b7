# SPDX-License-Identifier: Apache-2.0
"""The sweep, which removes what no operation meets.

Several processes may sweep at the same time: each step works on a bounded batch, and what one of them has removed is
not found by the others. A crash in a step leaves documents that the next sweep finds.
"""

from __future__ import annotations

from zaqar.model import Swept
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import ids_of
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES
from zaqar.storage.mongodb.documents import (
    ALL_FENCES,
    ALL_GARBAGE,
    MESSAGES,
    Field,
    uid_of_fence,
)
from zaqar.storage.mongodb.housekeeping import BATCH
from zaqar.storage.mongodb.tombstones import TOMBSTONES, deliveries_under

_MAX_QUEUES = 50
"""Queues with expired messages that one look finds at most."""

_MAX_TOMBSTONES = 50
"""Tombstones that one look finds at most."""


class Sweep:
    """The sweep of a store. It remembers where its search for expired messages goes on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._last_fence = ALL_FENCES["$gte"]
        """The id of the fence after which the search for expired messages goes on."""

    def run(self, *, now: float, limit: int) -> Swept:
        """See ``MessageStore.sweep``.

        Expired messages that an operation has removed are not counted: posts remove some now and then, and a step that
        promotes due messages removes those that have expired.
        """
        kinds = (
            self._expired_messages,
            self._garbage,
            self._deleted_messages,
            self._ended,
            self._dropped,
            self._old_deliveries,
        )
        removed = dict.fromkeys(kinds, 0)
        for sweep_some in kinds:
            # Each kind has a share, so that no kind waits for ever behind another one that always has more.
            left = max(limit - sum(removed.values()), -(-limit // len(kinds)))
            while left > 0 and (more := sweep_some(now, min(BATCH, left))):
                removed[sweep_some] += more
                left -= more
        return Swept(sum(removed.values()), removed[self._expired_messages])

    def _expired_messages(self, now: float, limit: int) -> int:
        """Expired messages of the next queues that have some. It is 0 only if no queue has any."""
        for after in (self._last_fence, ALL_FENCES["$gte"]):
            found = self._core.attempt().read_latest(_fences_with_expired(after, now), expect=_MAX_QUEUES)
            removed = 0
            for fence in found:
                uid = uid_of_fence(fence["_id"])
                removed += self._core.housekeeping.remove_expired(uid, fence["segment"], now, limit=limit - removed)
                if removed >= limit:
                    break
                self._last_fence = fence["_id"]
            if removed:
                return removed
        return 0

    def _garbage(self, now: float, limit: int) -> int:
        pipeline: list[Document] = [{"$match": {"_id": ALL_GARBAGE}}, {"$limit": 1}]
        found = self._core.attempt().read_latest(pipeline, expect=2)
        return self._core.housekeeping.remove_garbage(found[0]["segment"], limit=limit) if found else 0

    def _deleted_messages(self, now: float, limit: int) -> int:
        return self._core.housekeeping.remove_deleted(limit=limit)

    def _ended(self, now: float, limit: int) -> int:
        """Claims, tombstones of fences and ids of received dead letters whose time is over.

        The condition is repeated in the delete, so that a claim that was renewed in between stays.
        """
        over = {"end": {"$lte": now}}
        attempt = self._core.attempt()
        found = attempt.read_latest([{"$match": over}, {"$limit": limit}, {"$project": {"_id": 1}}], expect=limit)
        return attempt.delete_unreachable({"_id": {"$in": ids_of(found)}, **over}) if found else 0

    # -- deliveries --------------------------------------------------------------------------------------------------

    def _dropped(self, now: float, limit: int) -> int:
        """What is left of dropped queues and subscriptions. Return how many records, and tombstones looked at.

        A tombstone is looked at twice. The first look removes what was there at the drop. An operation that ran at that
        moment may store something later, which the tombstone keeps from being taken; the second look, when the
        tombstone is over, removes that too, and then the tombstone.
        """
        due = {"look": {"$lte": now}}
        many = min(limit, _MAX_TOMBSTONES)
        found = self._core.read(
            lambda connection: list(
                connection[TOMBSTONES].latest.find(due, sort={"look": 1}, limit=many, batch_size=many)
            )
        )
        removed = 0
        empty = []
        for name in ids_of(found):
            if "/" not in name:
                # Posts come first: once they are removed nobody can make deliveries of them.
                removed += self._remove(MESSAGES, {"queue": name, "due": {"$exists": True}}, limit - removed)
            if removed < limit:
                removed += self._remove(DELIVERIES, deliveries_under(name), limit - removed)
            if removed >= limit:
                break
            empty.append(name)
            removed += 1
        if empty:
            these: Document = {"_id": {"$in": empty}, **due}
            over = {**these, "until": {"$lte": now}}
            look_again: list[Document] = [{"$set": {"look": "$until"}}]
            attempt = self._core.attempt()
            attempt.write(lambda connection: connection[TOMBSTONES].majority.delete_many(over))
            attempt.write(lambda connection: connection[TOMBSTONES].majority.update_many(these, look_again))
        return removed

    def _old_deliveries(self, now: float, limit: int) -> int:
        """Settled deliveries that were kept long enough. One that is sent again in between stays."""
        over = {"keep_until": {"$lte": now}}
        return self._remove(DELIVERIES, over, limit, if_still=over)

    def _remove(self, collection: str, which: Document, limit: int, *, if_still: Document | None = None) -> int:
        """Remove documents that match ``which``, if each still matches ``if_still``; return how many were found.

        A majority has to acknowledge that: otherwise a listing would show them for a moment longer.
        """
        attempt = self._core.attempt()
        found = attempt.read(
            lambda connection: list(
                connection[collection].latest.find(which, {"_id": 1}, limit=limit, batch_size=limit)
            )
        )
        if found:
            these = {"_id": {"$in": ids_of(found)}, **(if_still or {})}
            attempt.write(lambda connection: connection[collection].majority.delete_many(these))
        return len(found)


def _fences_with_expired(after: str, now: float) -> list[Document]:
    """Fences after this id whose queues have an expired message."""
    one = [{"$match": {Field.EXPIRES: {"$lte": now}}}, {"$limit": 1}, {"$project": {"_id": 1}}]
    joined = {"localField": "segment", "foreignField": Field.SEGMENT, "pipeline": one, "as": "expired"}
    return [
        {"$match": {"_id": {**ALL_FENCES, "$gt": after}, "segment": {"$exists": True}}},
        {"$sort": {"_id": 1}},
        {"$lookup": {"from": MESSAGES, **joined}},
        {"$match": {"expired": {"$ne": []}}},
        {"$limit": _MAX_QUEUES},
        {"$project": {"segment": 1}},
    ]
