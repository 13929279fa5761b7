# SPDX-License-Identifier: Apache-2.0
"""What the parts of the message store share: the fences that this process knows, and reads that check a fence.

The fence and its retry
    Each operation needs the segment of the queue, which is in the fence. To read it first would double the round trips
    of a warm operation. So a process remembers fences, and each operation checks what it remembers in its own atomic
    step: the one read of what it shows (:meth:`Core.look`), or the transaction that changes something
    (``statements.check_fence``). If a check fails, either the remembered fence is stale or the queue has changed. The
    process forgets the fence, and the step begins again with the fence as it is stored. If that one does not have the
    generation of the caller's queue, the caller gets StaleQueue.

Two operations on one queue
    An operation that changes the fence (a post, a purge, a drop, a change of generation) conflicts with every other one
    of that kind, so these run one after the other. An operation that only checks the fence (a claim, a delete) takes
    place at the moment of its snapshot, which is within the call. If a purge commits after that moment, what the
    operation changes in the old segment can be reached by nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

from bson import ObjectId

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.model import Queue
from zaqar.storage.mongodb.client.connection import Connection, Document, ReplicaSet
from zaqar.storage.mongodb.client.group_commit import GroupCommit
from zaqar.storage.mongodb.client.transactions import Attempt, Transaction, TransactionConflict, retry_on_conflict
from zaqar.storage.mongodb.documents import MESSAGES, Field
from zaqar.storage.mongodb.housekeeping import BRIEF_SECONDS, MAX_SKIPPED, Housekeeping
from zaqar.storage.mongodb.statements import in_force

T = TypeVar("T")

REMOVE_EVERY = 64
"""Deleted messages of a queue after which this process removes them for good."""

MAX_QUEUES = 20_000
"""Queues of which this process remembers something."""

Parts: TypeAlias = Callable[[ObjectId, int], Sequence[Sequence[Document]]]
"""Makes the pipelines that read something besides the fence: of a segment and the first number that may be READY."""


@dataclass
class KnownFence:
    """What this process remembers of a fence. It may be stale, so each operation checks it in its own atomic step."""

    segment: ObjectId
    ready_from: int
    next: int | None = None
    """The number of the next message, if no other process seems to post; see ``MongoMessages.post``."""
    wrong_guesses: int = 0
    posts_without_guess: int = 0
    """Posts until ``next`` is guessed again."""
    deleted: int = 0
    """Messages that this process has deleted and not removed for good."""


class Look(NamedTuple):
    """The result of one read: the fence, and the documents that were read with it."""

    known: KnownFence
    fence: Document
    documents: list[Document]


class Core:
    """The replica set of a message store, and the fences that this process knows. All parts share one Core."""

    def __init__(self, replica_set: ReplicaSet) -> None:
        self.replica_set = replica_set
        self.housekeeping = Housekeeping(replica_set)
        self._fences: dict[str, KnownFence] = {}
        self._group_commits: dict[Hashable, GroupCommit[Any]] = {}
        self._lock = threading.Lock()

    # -- steps -------------------------------------------------------------------------------------------------------

    def retry(self, step: Callable[[Attempt], T], *, extra: float = 0.0) -> T:
        """Call ``step`` until it returns; see ``retry_on_conflict``. ``extra`` is time for a large step, in seconds."""
        return retry_on_conflict(self.replica_set, step, extra=extra)

    def attempt(self) -> Attempt:
        """For a step that has no transaction, and so no conflicts."""
        return Attempt(self.replica_set)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a read that is a step of its own."""
        return Attempt(self.replica_set).read(query)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Run an idempotent write that is a step of its own; see ``Attempt.write``."""
        return Attempt(self.replica_set).write(change)

    def group_commit(self, key: Hashable, max_size: int) -> GroupCommit[Any]:
        """The group commit of all requests of this process that have the same key."""
        with self._lock:
            found = self._group_commits.get(key)
            if found is None:
                if len(self._group_commits) >= MAX_QUEUES:
                    # A request that waits in one of them keeps it. A new request may begin a second one for the same
                    # queue, whose transaction conflicts with that of the first, and is retried.
                    self._group_commits.clear()
                found = self._group_commits[key] = GroupCommit(max_size)
        return found

    # -- fences ------------------------------------------------------------------------------------------------------

    def known_fence(self, attempt: Attempt, queue: Queue) -> KnownFence:
        """The fence as this process remembers it, or as it is stored now. Raises StaleQueue only in the latter case."""
        known = self._fences.get(queue.uid)
        if known is None:
            found = attempt.read_latest([{"$match": in_force(queue)}], expect=2)
            if not found:
                raise StaleQueue(queue.uid)
            known = KnownFence(found[0]["segment"], found[0]["ready_from"], found[0]["next"])
            with self._lock:
                if len(self._fences) >= MAX_QUEUES:
                    self._fences.clear()
                known = self._fences.setdefault(queue.uid, known)
        return known

    def forget_fence(self, uid: str) -> None:
        with self._lock:
            self._fences.pop(uid, None)

    def look(
        self,
        attempt: Attempt,
        queue: Queue,
        known: KnownFence,
        parts: Sequence[Sequence[Document]],
        *,
        expect: int,
        latest: bool = False,
    ) -> Look:
        """Read the fence and, with pipelines, something more, in one command.

        ``expect`` is the number of documents besides the fence. Everything is of one moment. With ``latest`` it is what
        the primary has, perhaps of several moments, for a step whose transaction checks it again. Raises
        TransactionConflict, and forgets the fence, if ``known`` is stale.
        """
        pipeline: list[Document] = [{"$match": {**in_force(queue), "segment": known.segment}}]
        pipeline += [{"$unionWith": {"coll": MESSAGES, "pipeline": list(part)}} for part in parts]
        read = attempt.read_latest if latest else attempt.read_snapshot
        documents = read(pipeline, expect=expect + 4)
        # Without the fence the first document, if there is one, is from another part.
        if not documents or "generation" not in documents[0]:
            self.forget_fence(queue.uid)
            raise TransactionConflict
        return Look(known, documents[0], documents[1:])

    def look_in_order(
        self, attempt: Attempt, queue: Queue, now: float, parts: Parts, *, expect: int, latest: bool = False
    ) -> Look:
        """The same for a step that needs READY messages in their order.

        Two things are necessary for that, both of the moment of the read. No message may be due, because it would
        belong among the READY ones: due messages are promoted here, and the step begins again. And the scan must not
        have begun after ``ready_from`` of the fence, because a READY message might lie before it.
        """
        known = self.known_fence(attempt, queue)
        begin = known.ready_from
        due: list[Document] = [
            {"$match": {Field.SEGMENT: known.segment, Field.DUE: {"$lte": now}}},
            {"$limit": 1},
            {"$project": {"_id": 0, "is_due": {"$literal": True}}},
        ]
        look = self.look(attempt, queue, known, [due, *parts(known.segment, begin)], expect=expect, latest=latest)
        known.ready_from = look.fence["ready_from"]
        if look.documents and "is_due" in look.documents[0]:
            self.housekeeping.promote_due(queue.uid, known.segment, now)
            attempt.start_over()
            raise TransactionConflict
        if begin > known.ready_from:
            raise TransactionConflict
        return look

    # -- after an operation ------------------------------------------------------------------------------------------

    def note_deleted(self, known: KnownFence, many: int) -> None:
        """Count deleted messages, and remove them for good now and then."""
        known.deleted += many
        if known.deleted >= REMOVE_EVERY:
            known.deleted = 0
            with suppress(StoreUnavailable):  # The deletion is done. A sweep removes the rest.
                self.housekeeping.remove_deleted(segment=known.segment, limit=4 * REMOVE_EVERY, seconds=BRIEF_SECONDS)

    def note_first_ready(self, fence: Document, first: int, now: float) -> None:
        """After a scan that found ``first`` as the first READY number: let later scans not pass the same numbers."""
        if first > fence["ready_from"] + MAX_SKIPPED:
            self.housekeeping.move_ready_from(fence, now)


def segment_in(transaction: Transaction, queue: Queue) -> ObjectId:
    """The segment of the queue at the moment of the transaction. Raises StaleQueue."""
    fence = transaction.find_one(in_force(queue))
    if fence is None:
        raise StaleQueue(queue.uid)
    segment: ObjectId = fence["segment"]
    return segment
