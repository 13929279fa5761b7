# SPDX-License-Identifier: Apache-2.0
"""How far queues are that clients wait for. The hub of each process asks once a second, for all of them together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from bson import ObjectId

from zaqar.errors import StoreUnavailable
from zaqar.model import QueuePosition
from zaqar.storage.base import Wakeups
from zaqar.storage.mongodb.client.change_stream import ChangeStream, NotAllowed
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.core import BRIEF, FAR, MOST_HINTS, open_replica_set
from zaqar.storage.mongodb.documents import COLLECTION, READY, Document, fence_id
from zaqar.storage.mongodb.sealed_bodies import SealedBodyStore

_log = logging.getLogger(__name__)

MOST_TIDIED = 4
"""Queues with expired messages in the way that one look tidies up. The following looks do the same for the others."""


class PositionStore(SealedBodyStore):
    """The part of the message store that is about clients that wait."""

    def __init__(self, replica_set: ReplicaSet, *, change_stream: bool = False) -> None:
        super().__init__(replica_set)
        self._change_stream = change_stream
        self._waited: dict[ObjectId, str] = {}
        """Queues that somebody waits for, or did, by segment: a release changes only documents of the segment."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls(open_replica_set(settings), change_stream=bool(settings.get("change_stream")))

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        """One command; a few more if expired messages are in the way, which are tidied up then."""
        if not uids:
            return {}
        found = self._fences_and_firsts(uids, now)
        with suppress(StoreUnavailable):  # the positions are known; tidying up makes them exact, and later looks fast
            self._tidy_up(found, now)
        if self._change_stream:
            self._note_waited(found)
        # A queue that is still unclear counts as free: a claim tidies it up, and finds what is left.
        return {uid: _position_of(fence) for uid, fence in found.items()}

    def _tidy_up(self, found: dict[str, Document], now: float) -> None:
        """Do what a claim would do about expired messages that are in the way, for a few queues and a short time.

        There is one attempt for each queue: if others are faster, they do the same.
        """
        turn = next(self._turns(brief=True))
        unclear = [uid for uid, fence in found.items() if _is_unclear(fence, now)][:MOST_TIDIED]
        for uid in unclear:
            if turn.remaining > BRIEF / 2:
                self._try_to_ripen(turn, uid, found[uid]["seg"], now)
        if unclear:
            found.update(self._fences_and_firsts(unclear, now))
        for fence in [each for each in found.values() if _passed_many(each)][:MOST_TIDIED]:
            if turn.remaining > BRIEF / 2:
                self._try_to_move_ready_from(turn, fence, now)

    def _note_waited(self, found: Mapping[str, Document]) -> None:
        with self._hints_lock:
            if len(self._waited) >= MOST_HINTS:
                self._waited.clear()  # the next looks note those that are waited for now
            self._waited.update((fence["seg"], uid) for uid, fence in found.items())

    def wakeups(self) -> Wakeups | None:
        if not self._change_stream:
            return None
        try:
            return ChangeStream(self._set, self._waited.get)
        except NotAllowed:
            _log.warning(
                "The user of the MongoDB database '%s' may not open a change stream, so clients that wait learn of"
                " messages that other processes store up to a second later. The role readWrite allows it.",
                self._set.name,
            )
            self._change_stream = False
            return None

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
