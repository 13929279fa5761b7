# SPDX-License-Identifier: Apache-2.0
"""The fence of each queue, and what keeps the messages behind it in their places.

Each operation checks uid and generation in the transaction that changes something, or in the one read of what it shows.
An operation that changes the fence (a post, a purge, a drop, a change of generation) collides with every other of that
kind, so these run one after the other. What only reads the fence (a claim, a delete) takes place as of the moment of
its snapshot, which lies within its own call; what it changes in a segment that was purged meanwhile nobody can reach.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from bson import ObjectId

from zaqar.errors import QueueDropped, StaleQueue, StoreUnavailable
from zaqar.model import Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.mongodb.client.connection import PATIENCE, ReplicaSet
from zaqar.storage.mongodb.client.group_commit import Desk
from zaqar.storage.mongodb.client.transactions import Turns
from zaqar.storage.mongodb.deliveries import DELIVERIES, DELIVERY_INDEXES
from zaqar.storage.mongodb.documents import (
    COLLECTION,
    INDEXES,
    READY,
    Document,
    fence_id,
    segment_id,
    within,
)
from zaqar.storage.mongodb.outbox import OutboxStore
from zaqar.storage.mongodb.statements import (
    BACK,
    count,
    counts_id,
    counts_of,
    ids_of,
    in_force,
    new_counts,
    new_fence,
    put,
    ripening,
    slot,
    statement,
)
from zaqar.storage.mongodb.tombstones import DROPPED, DROPPED_INDEXES, tombstone

BATCH = 500
"""Messages that one transaction ripens, moves or removes at most."""

BRIEF = 0.8
"""Seconds that tidying up takes at most."""

FAR = 500
"""Numbers that a scan for READY messages may pass in vain before ``from`` is moved."""

REMOVE_EVERY = 64
"""Deleted messages of a queue after which this process removes them for good."""

MOST_HINTS = 20_000

Parts: TypeAlias = Callable[[ObjectId, int], Sequence[Sequence[Document]]]
"""What to read besides the fence, given the segment and where a scan for READY messages begins."""


@dataclass
class Hint:
    """What this process believes about a fence; each operation checks it, in its own atomic step."""

    segment: ObjectId
    ready_from: int
    next: int | None = None
    """The next number, when nobody else seems to post."""
    misses: int = 0
    wait: int = 0
    """Posts until ``next`` is believed again."""
    gone: int = 0


def open_replica_set(settings: Mapping[str, Any]) -> ReplicaSet:
    """With the collections that the message store needs. Raises StartupError."""
    beside = {DELIVERIES: DELIVERY_INDEXES, DROPPED: DROPPED_INDEXES}
    return ReplicaSet.open(settings, COLLECTION, INDEXES, beside)


class Look(NamedTuple):
    """The fence as it was at the moment of a read, and the documents that were read with it."""

    hint: Hint
    fence: Document
    documents: list[Document]


class FenceStore(OutboxStore):
    """The part of the message store that the other parts stand on."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        super().__init__(replica_set)
        self._hints: dict[str, Hint] = {}
        self._hints_lock = threading.Lock()
        self._desks: dict[Hashable, Desk[Any]] = {}

    def open_queue(self, *, queue: Queue, now: float) -> int:
        key = {"_id": fence_id(queue.uid)}
        for turn in self._turns():
            with turn.transaction() as transaction:
                fence = transaction.get(key)
                if fence is None or ("seg" not in fence and now >= fence["end"]):
                    generation = queue.generation
                    if fence is not None:
                        # What may be left of the queue before would keep the posts of this one out of reach.
                        transaction.beside(DROPPED).delete({"_id": queue.uid})
                    fence = new_fence(queue)
                    transaction.update([put(fence), put(new_counts(fence["seg"]))], expect=2)
                elif "seg" not in fence:
                    raise QueueDropped(queue.uid)
                else:
                    generation = max(fence["gen"], queue.generation)
                    if generation > fence["gen"]:
                        transaction.update([statement(key, {"$set": {"gen": generation}})], expect=1)
            if transaction.committed:
                return generation
        raise AssertionError("turns end by themselves")

    def drop_queue(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        key = {"_id": fence_id(queue.uid)}
        for turn in self._turns():
            with turn.transaction() as transaction:
                fence = transaction.get(key) or {}
                segment = fence.get("seg")
                if segment is not None:
                    transaction.update([put({"_id": segment_id("g", segment), "seg": segment})], expect=1)
                if remember > 0:
                    end = max(now + remember, fence.get("end", 0.0))
                    transaction.update([put({**key, "gen": queue.generation, "end": end})], expect=1)
                    transaction.beside(DROPPED).update([put(tombstone(queue.uid, end))], expect=1)
                elif segment is not None:
                    transaction.delete(key)
            if transaction.committed:
                self._forget(queue.uid)
                self._clear_up(segment)
                return

    def purge(self, *, queue: Queue, now: float) -> None:
        new: Document = {"seg": ObjectId(), "ready": 0, "delayed": 0}
        for turn in self._turns():
            with turn.transaction() as transaction:
                fence = transaction.get(in_force(queue))
                if fence is None:
                    raise StaleQueue(queue.uid)
                garbage = {"_id": segment_id("g", fence["seg"]), "seg": fence["seg"]}
                change = {"$set": {**new, "from": fence["next"]}}
                changes = [statement({"_id": fence["_id"]}, change), put(garbage), put(new_counts(new["seg"]))]
                transaction.update(changes, expect=3)
            if transaction.committed:
                self._forget(queue.uid)
                self._clear_up(fence["seg"])
                return

    def durability(self) -> Mapping[str, str]:
        return self._set.durability()

    def ping(self) -> None:
        self._set.ping()

    def close(self) -> None:
        self._set.close()

    # -- checking the fence ------------------------------------------------------------------------------------------

    def _turns(self, *, more: float = 0.0, brief: bool = False) -> Turns:
        """``brief`` is for what an operation does after its own work is done, which must not take long besides."""
        return Turns(self._set, more=BRIEF - PATIENCE if brief else more)

    def _hint(self, turn: Turns, queue: Queue) -> Hint:
        """Where the messages of the queue seem to be; StaleQueue where the queue is not as the fence has it."""
        hint = self._hints.get(queue.uid)
        if hint is None:
            found = turn.peek([{"$match": in_force(queue)}], expect=2)
            if not found:
                raise StaleQueue(queue.uid)
            hint = Hint(found[0]["seg"], found[0]["from"], found[0]["next"])
            with self._hints_lock:
                if len(self._hints) >= MOST_HINTS:
                    self._hints.clear()
                hint = self._hints.setdefault(queue.uid, hint)
        return hint

    def _forget(self, uid: str) -> None:
        with self._hints_lock:
            self._hints.pop(uid, None)

    def _look(
        self,
        turn: Turns,
        queue: Queue,
        hint: Hint,
        parts: Sequence[Sequence[Document]],
        *,
        expect: int,
        latest: bool = False,
    ) -> Look | None:
        """Read the fence and more at one moment; None when the hint was wrong, which it is not any longer then."""
        pipeline: list[Document] = [{"$match": {**in_force(queue), "seg": hint.segment}}]
        pipeline += [{"$unionWith": {"coll": COLLECTION, "pipeline": list(part)}} for part in parts]
        documents = (turn.peek if latest else turn.read)(pipeline, expect=expect + 4)
        if not documents or "gen" not in documents[0]:
            self._forget(queue.uid)
            return None
        return Look(hint, documents[0], documents[1:])

    def _settled(
        self, turn: Turns, queue: Queue, now: float, parts: Parts, *, expect: int, latest: bool = False
    ) -> Look | None:
        """The same for what needs READY messages in order; None where it has to look again.

        That takes that nothing is due, and that the scan began no later than ``from`` of the same moment says.
        """
        hint = self._hint(turn, queue)
        begin = hint.ready_from
        due: list[Document] = [
            {"$match": {"s": hint.segment, "d": {"$lte": now}}},
            {"$limit": 1},
            {"$project": {"_id": 0, "due": {"$literal": True}}},
        ]
        look = self._look(turn, queue, hint, [due, *parts(hint.segment, begin)], expect=expect, latest=latest)
        if look is None:
            return None
        hint.ready_from = look.fence["from"]
        if look.documents and "due" in look.documents[0]:
            self._ripen(queue.uid, hint.segment, now)
            turn.begin_anew()
            return None
        return look if begin <= look.fence["from"] else None

    def _desk(self, key: Hashable, most: int) -> Desk[Any]:
        """Where those meet who want the same of a queue at the same time."""
        with self._hints_lock:
            desk = self._desks.get(key)
            if desk is None:
                if len(self._desks) >= MOST_HINTS:
                    self._desks.clear()  # who is at one of them stays there
                desk = self._desks[key] = Desk(most)
        return desk

    # -- what time does ----------------------------------------------------------------------------------------------

    def _ripen(self, uid: str, segment: ObjectId, now: float) -> None:
        """Bring one batch of what is due where it belongs; also done when others did, or the segment was purged."""
        for turn in self._turns():
            if self._try_to_ripen(turn, uid, segment, now):
                return

    def _try_to_ripen(self, turn: Turns, uid: str, segment: ObjectId, now: float) -> bool:
        """One attempt at that; False if others were faster."""
        first = {"$match": {"s": segment, "d": {"$lte": now}}}
        batch = [first, {"$sort": {"d": 1}}, {"$limit": BATCH}, {"$project": {"q": 1, "t": 1, "x": 1}}]
        pipeline: list[Document] = [
            {"$match": {"_id": fence_id(uid), "seg": segment}},
            {"$unionWith": {"coll": COLLECTION, "pipeline": batch}},
        ]
        fence, *due = turn.peek(pipeline, expect=BATCH + 2) or [{}]
        return not due or "seg" not in fence or turn.write(ripening(uid, segment, due, now), expect=2 + len(due))

    def _expire(self, uid: str, segment: ObjectId, now: float, *, limit: int, brief: bool = False) -> int:
        """Remove up to ``limit`` expired messages of a queue; how many."""
        for turn in self._turns(brief=brief):
            with turn.transaction() as transaction:
                found = transaction.find({"s": segment, "x": {"$lte": now}}, limit=limit, order="x", fields="t")
                if found:
                    fence = statement({"_id": fence_id(uid), "seg": segment}, {"$set": {"seg": segment}})
                    counted = count(segment, slot(), **counts_of(0, [each["t"] for each in found]))
                    transaction.update([fence, counted], expect=2)
                    transaction.delete({"_id": {"$in": ids_of(found)}})
                else:
                    transaction.reads_only = True
            if transaction.committed:
                return len(found)
            if not turn.peek([{"$match": {"_id": fence_id(uid), "seg": segment}}], expect=2):
                return 0  # purged or dropped meanwhile: the segment is garbage
        raise AssertionError("turns end by themselves")

    def _move_ready_from(self, seen: Document, now: float) -> None:
        """After a scan that passed many numbers in vain, so that the next one does not; ``seen`` is the fence it read.

        Whoever brings messages back adds to ``back``, which is read before they are looked for and may not have changed
        when ``from`` does. Posts only add above ``next``, which is read before that.
        """
        with suppress(StoreUnavailable):  # this only makes others faster
            for turn in self._turns(brief=True):
                if self._try_to_move_ready_from(turn, seen, now):
                    return

    def _try_to_move_ready_from(self, turn: Turns, seen: Document, now: float) -> bool:
        """One attempt at that; False if others were faster."""
        segment, begin = seen["seg"], seen["from"]
        fence = {"_id": seen["_id"], "seg": segment, "from": begin}
        ready = {"s": segment, "t": READY, "q": {"$gte": begin}, "x": {"$gt": now}}
        first: list[Document] = [{"$match": ready}, {"$sort": {"q": 1}}, {"$limit": 1}, {"$project": {"q": 1}}]
        pipeline: list[Document] = [
            {"$match": fence},
            {"$unionWith": {"coll": COLLECTION, "pipeline": [{"$match": {"_id": counts_id(segment, BACK)}}]}},
            {"$unionWith": {"coll": COLLECTION, "pipeline": first}},
        ]
        found = turn.peek(pipeline, expect=4)
        if len(found) < 2 or "gen" not in found[0]:
            return True
        end = found[2]["q"] if len(found) > 2 else found[0]["next"]
        if end <= begin + FAR:
            return True
        nobody_back = statement({"_id": found[1]["_id"], "back": found[1]["back"]}, {"$inc": {"back": 1}})
        return turn.write([nobody_back, statement(fence, {"$set": {"from": end}})], expect=2)

    # -- what is left behind -----------------------------------------------------------------------------------------

    def _removed(self, hint: Hint, more: int) -> None:
        """Count what was deleted, and now and then remove it for good."""
        hint.gone += more
        if hint.gone >= REMOVE_EVERY:
            hint.gone = 0
            with suppress(StoreUnavailable):  # the deletion is done; a sweep removes the rest
                self._remove_gone({"z": hint.segment}, limit=4 * REMOVE_EVERY, brief=True)

    def _remove_gone(self, which: Document, *, limit: int, brief: bool = False) -> int:
        for turn in self._turns(brief=brief):
            ids = ids_of(turn.peek([{"$match": which}, {"$limit": limit}, {"$project": {"_id": 1}}], expect=limit))
            if ids:
                turn.delete({"_id": {"$in": ids}, "z": {"$exists": True}})
            return len(ids)
        raise AssertionError("turns end by themselves")

    def _clear_up(self, segment: ObjectId | None) -> None:
        """Remove the first documents of a segment that nobody can reach any more; a sweep removes the rest."""
        if segment is None:
            return
        with suppress(StoreUnavailable):  # the purge or drop is done; what is left is nobody's but the sweep's
            for _ in range(4):
                if self._remove_garbage(segment, limit=BATCH, brief=True) < BATCH:
                    return

    def _remove_garbage(self, segment: ObjectId, *, limit: int, brief: bool = False) -> int:
        """Remove up to ``limit`` documents, at last the one that says that there are some; how many."""
        removed = 0
        for kind in "mcsg":
            turn = next(self._turns(brief=brief))
            found = turn.peek(
                [{"$match": {"_id": within(kind, segment)}}, {"$limit": limit - removed}, {"$project": {"_id": 1}}],
                expect=limit,
            )
            if found:
                turn.delete({"_id": {"$in": ids_of(found)}})
                removed += len(found)
            if removed >= limit:
                break
        return removed
