# SPDX-License-Identifier: Apache-2.0
"""How far queues are that clients wait for. The hub of each process asks once a second, for all of them together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from zaqar.errors import StoreUnavailable
from zaqar.model import QueuePosition
from zaqar.storage.mongodb.documents import COLLECTION, READY, Document, fence_id
from zaqar.storage.mongodb.fences import FAR
from zaqar.storage.mongodb.sealed import SealedBodyStore

MOST_TIDIED = 4
"""Queues with expired messages in the way that one look tidies up. The following looks do the same for the others."""


class PositionStore(SealedBodyStore):
    """The part of the message store that is about clients that wait."""

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        """One command; one more if a delay or claim of a message that has expired is over and was not tidied up."""
        if not uids:
            return {}
        found = self._fences_and_firsts(uids, now)
        unclear = [uid for uid, fence in found.items() if _is_unclear(fence, now)]
        with suppress(StoreUnavailable):  # tidying up makes this exact and later looks fast, but is not the answer
            for uid in unclear[:MOST_TIDIED]:
                self._ripen(uid, found[uid]["seg"], now, brief=True)
            if unclear:
                found |= self._fences_and_firsts(unclear, now)
            for fence in [each for each in found.values() if _passed_many(each)][:MOST_TIDIED]:
                self._move_ready_from(fence, now)
        # A queue that is still unclear counts as free: a claim tidies it up, and finds what is left.
        return {uid: _position_of(fence) for uid, fence in found.items()}

    def _fences_and_firsts(self, uids: Collection[str], now: float) -> dict[str, Document]:
        """By uid. They are what a majority has, as in listings: a number that was seen never belongs to another message
        after a fail-over, so a reader that begins after it misses nothing.
        """
        found = next(self._turns()).read(_fences_and_firsts(uids, now), expect=len(uids) + 1)
        return {each["_id"][1:]: each for each in found}


def _fences_and_firsts(uids: Collection[str], now: float) -> list[Document]:
    """Each fence with its first READY message, the one that is due for longest, and the one that is due next."""
    ready = {"t": READY, "x": {"$gt": now}, "$expr": {"$gte": ["$q", "$$from"]}}
    return [
        {"$match": {"_id": {"$in": [fence_id(uid) for uid in uids]}, "seg": {"$exists": True}}},
        _first("ready", ready, "q"),
        _first("due", {"d": {"$lte": now}}, "d", "x"),
        _first("later", {"d": {"$gt": now}}, "d"),
    ]


def _first(name: str, which: Document, order: str, *more: str) -> Document:
    """Join the first message of the queue that matches. Fields of the index alone let the server read no document."""
    shown = {"_id": 0, **dict.fromkeys((order, *more), 1)}
    pipeline: Sequence[Document] = [{"$match": which}, {"$sort": {order: 1}}, {"$limit": 1}, {"$project": shown}]
    joined = {"localField": "seg", "foreignField": "s", "let": {"from": "$from"}, "pipeline": pipeline}
    return {"$lookup": {"from": COLLECTION, **joined, "as": name}}


def _is_unclear(fence: Document, now: float) -> bool:
    """Whether there may be a free message behind one that has expired."""
    return not fence["ready"] and any(each["x"] <= now for each in fence["due"])


def _passed_many(fence: Document) -> bool:
    first: int = fence["ready"][0]["q"] if fence["ready"] else fence["next"]
    begin: int = fence["from"]
    return first > begin + FAR


def _position_of(fence: Document) -> QueuePosition:
    return QueuePosition(
        last=fence["next"] - 1,
        free=bool(fence["ready"] or fence["due"]),
        next_due=fence["later"][0]["d"] if fence["later"] else None,
    )
