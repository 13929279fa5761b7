# SPDX-License-Identifier: Apache-2.0
"""Taking the first free messages of a queue, for claims and for pops.

:class:`FirstFree` serves ``MongoClaims.claim`` and ``MongoMessages.pop``. Requests that come at
the same time in one process share a transaction (``client.group_commit``), each whole and in the order in which they
came.

A claim's transaction::

    read_latest: fence, is something due, the first free messages      one aggregation on the primary
    update:      check the fence                                       one command, in one transaction
                 messages: READY and as they were read -> CLAIMED
                 counts: ready - n, claimed + n
                 insert the claim
    commit                                                             when a majority has journaled it

It is safe in each case:

* Another process takes one of the messages, or the queue is purged, between the read and the transaction. Then fewer
  documents match than were found, the transaction ends without effect, and the step reads again.
* Another process takes one of the messages at the same moment. Both transactions write the message; the server refuses
  the second one.
* The process is killed before the commit. The server ends the transaction, or another process does after a second
  (``transactions.end_abandoned``), and the messages are free as before.
* The process is killed after the commit, or the answer to the commit is lost. The claim exists, and its messages are
  free again when it ends. If only the answer was lost, the commit is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from bson import ObjectId

from zaqar.errors import SealedMessages
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue, is_sealed
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.group_commit import Request
from zaqar.storage.mongodb.client.statements import ids_of, put, statement
from zaqar.storage.mongodb.client.transactions import Attempt, TransactionConflict
from zaqar.storage.mongodb.core import Core, Look
from zaqar.storage.mongodb.dead_letters import current_ready_from, find_alive_and_exhausted, move_to_dead_letter_queue
from zaqar.storage.mongodb.documents import CLAIMED, READY, Field, claim_key, messages_of, ready_messages
from zaqar.storage.mongodb.housekeeping import BATCH
from zaqar.storage.mongodb.statements import check_fence, count, delete

MAX_TAKEN_TOGETHER = 200
"""Messages that the requests of a group take at most, unless it is a single request."""


@dataclass(eq=False, slots=True, kw_only=True)
class Take(Request):
    """A claim, or a pop if ``claim`` is None, of the first free messages.

    ``found`` is what the current attempt gives to the request. The answer is a list of messages, or None for a pop that
    met a sealed message and took nothing.
    """

    claim: Claim | None
    limit: int
    now: float
    found: list[Document] = field(default_factory=list)
    met_sealed: bool = False
    dead_lettered: int = 0
    """How many exhausted messages were moved for this claim, in transactions that were committed."""

    def statements(self, segment: ObjectId, now: float) -> list[Document]:
        """Take what was found. They match ``matches`` documents if all of it is still free."""
        still_free = {**_as_read(self.found), Field.STATE: READY, Field.EXPIRES: {"$gt": now}}
        many = len(self.found)
        if self.claim is None:
            return [delete(segment, still_free), count(segment, ready=-many)]
        change = {
            "$set": {Field.STATE: CLAIMED, Field.DUE: self.claim.expires, Field.CLAIM: self.claim.id},
            "$inc": {Field.CLAIM_COUNT: 1},
            "$max": {Field.EXPIRES: self.claim.expires + self.claim.grace},
        }
        return [
            statement(still_free, change, many=True),
            count(segment, ready=-many, claimed=many),
            put(claim_document(segment, self.claim)),
        ]

    @property
    def matches(self) -> int:
        """The messages, the counts and, for a claim, the claim."""
        return len(self.found) + (1 if self.claim is None else 2)

    def set_answer(self, queue: Queue) -> None:
        """Answer the messages as the transaction has left them, or as they were before a pop."""
        if self.met_sealed:
            return
        taken = self.found
        if self.claim is not None:
            min_expires = self.claim.expires + self.claim.grace
            held = {Field.STATE: CLAIMED, Field.DUE: self.claim.expires, Field.CLAIM: self.claim.id}
            taken = [
                {
                    **each,
                    **held,
                    Field.CLAIM_COUNT: each[Field.CLAIM_COUNT] + 1,
                    Field.EXPIRES: max(each[Field.EXPIRES], min_expires),
                }
                for each in taken
            ]
        self.answer = messages_of(queue.uid, taken, self.now)


class FirstFree:
    """Claims and pops of the first free messages; the claims and the messages of a store share one."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None
    ) -> ClaimResult:
        take = Take(size=limit, claim=claim, limit=limit, now=now)
        messages = self._take(queue, take, dead_letters)
        return ClaimResult(messages, take.dead_lettered)

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        """Raises SealedMessages if it must take nothing."""
        return self._take(queue, Take(size=limit, claim=None, limit=limit, now=now), None)

    def _take(self, queue: Queue, take: Take, rules: DeadLetters | None) -> list[Message]:
        # Only requests with equal rules may share a transaction, because the leader applies its own.
        target = rules.queue if rules else None
        key_of_rules = rules and (target and (target.uid, target.generation), rules.max_claim_count, rules.ttl)
        group = self._core.group_commit(("take", queue.uid, queue.generation, key_of_rules), MAX_TAKEN_TOGETHER)
        taken: list[Message] | None = group.submit(take, lambda takes: self._take_together(queue, takes, rules))
        if taken is None:
            raise SealedMessages(queue.uid)
        return taken

    def _take_together(self, queue: Queue, takes: Sequence[Take], rules: DeadLetters | None) -> None:
        now = max(take.now for take in takes)
        if not self._core.retry(lambda attempt: self._try_to_take(attempt, queue, takes, now, rules)):
            assert rules is not None
            self._take_past_exhausted(queue, takes, now, rules)

    def _try_to_take(
        self, attempt: Attempt, queue: Queue, takes: Sequence[Take], now: float, rules: DeadLetters | None
    ) -> bool:
        """Take what is free in one transaction. False, and nothing is taken, if exhausted messages have to be moved."""
        max_count = rules.max_claim_count if rules else math.inf
        are_passed_over = rules is not None and rules.queue is None
        look = self._first_free(
            attempt, queue, sum(take.limit for take in takes), now, below=max_count if are_passed_over else None
        )
        if any(each[Field.CLAIM_COUNT] >= max_count for each in look.documents):
            return False
        statements, expect = _take_in_turn(queue, look, takes, now)
        if expect > 1:
            attempt.update(statements, expect=expect)
        for take in takes:
            take.set_answer(queue)
        self._core.note_deleted(look.known, sum(len(take.found) for take in takes if take.claim is None))
        first = look.documents[0][Field.SEQUENCE] if look.documents else look.fence["next"]
        self._core.note_first_ready(look.fence, first, now)
        return True

    def _first_free(
        self, attempt: Attempt, queue: Queue, limit: int, now: float, *, below: float | None = None
    ) -> Look:
        """The first free messages as the primary has them, with a claim count less than ``below``."""

        def first(segment: ObjectId, begin: int) -> list[list[Document]]:
            free = ready_messages(segment, begin, now)
            if below is not None:
                free[Field.CLAIM_COUNT] = {"$lt": below}
            return [[{"$match": free}, {"$sort": {Field.SEQUENCE: 1}}, {"$limit": limit}]]

        return self._core.look_in_order(attempt, queue, now, first, expect=limit, latest=True)

    # -- claims that move exhausted messages ---------------------------------------------------------------------------

    def _take_past_exhausted(self, queue: Queue, takes: Sequence[Take], now: float, rules: DeadLetters) -> None:
        """One claim after the other. Each moves the exhausted messages that it meets to the dead letter queue.

        A claim is done as soon as its own transaction is committed, so a failure of a later one does not take it back.
        """
        for take in takes:
            self._core.retry(partial(self._claim_past, queue=queue, take=take, now=now, rules=rules))
            take.is_done = True

    def _claim_past(self, attempt: Attempt, queue: Queue, take: Take, now: float, rules: DeadLetters) -> None:
        """A claim and the move of the exhausted messages before its own, in one transaction.

        If there are more exhausted messages than a BATCH, a transaction moves a BATCH of them and takes nothing, and
        the step begins again. A crash in between leaves messages that were moved, each once, and no claim.
        """
        # This promotes due messages. What it finds is read again in the transaction.
        look = self._first_free(attempt, queue, 1, now)
        segment = look.known.segment
        with attempt.transaction() as transaction:
            begin = current_ready_from(transaction, queue, segment)
            alive, exhausted = find_alive_and_exhausted(
                transaction, segment, begin, now, limit=take.limit, max_claim_count=rules.max_claim_count
            )
            are_more = len(exhausted) == BATCH and len(alive) < take.limit
            take.found = []
            changes = [check_fence(queue, segment)]
            expect = 1
            if exhausted:
                move_to_dead_letter_queue(transaction, queue, exhausted, now, rules)
                changes += [
                    delete(segment, {"_id": {"$in": ids_of(exhausted)}}),
                    count(segment, ready=-len(exhausted)),
                ]
                expect += len(exhausted) + 1
            if alive and not are_more:
                take.found = transaction.find({"_id": {"$in": ids_of(alive)}})
                changes += take.statements(segment, now)
                expect += take.matches
            transaction.update(changes, expect=expect)
        # A transaction that was not committed has moved nothing, and its attempt does not come here.
        take.dead_lettered += len(exhausted)
        self._core.note_deleted(look.known, len(exhausted))
        if are_more:
            attempt.start_over()
            raise TransactionConflict
        take.set_answer(queue)


def _take_in_turn(queue: Queue, look: Look, takes: Sequence[Take], now: float) -> tuple[list[Document], int]:
    """Give the found messages to the requests, in order. Return statements, and how many documents they match."""
    segment, left = look.known.segment, list(look.documents)
    statements, expect = [check_fence(queue, segment)], 1
    for take in takes:
        found, rest = left[: take.limit], left[take.limit :]
        take.met_sealed = take.claim is None and any(is_sealed(each[Field.BODY]) for each in found)
        # A pop that meets a sealed message takes nothing, so the next request gets what was meant for it.
        take.found, left = ([], left) if take.met_sealed else (found, rest)
        if take.found:
            statements += take.statements(segment, now)
            expect += take.matches
    return statements, expect


def _as_read(found: Sequence[Document]) -> Document:
    """A query for messages that no claim has held since they were read as READY.

    Each claim adds to the claim count, so the count is the version of a READY message. A message that was claimed and
    released in between is READY as before, but may be exhausted now.
    """
    by_count: dict[int, list[Document]] = {}
    for each in found:
        by_count.setdefault(each[Field.CLAIM_COUNT], []).append(each)
    versions: list[Document] = [
        {"_id": {"$in": ids_of(some)}, Field.CLAIM_COUNT: claim_count} for claim_count, some in by_count.items()
    ]
    return versions[0] if len(versions) == 1 else {"$or": versions}


def claim_document(segment: ObjectId, claim: Claim) -> Document:
    return {
        "_id": claim_key(segment, claim.id),
        "ttl": claim.ttl,
        "grace": claim.grace,
        "started": claim.started,
        "end": claim.expires,
    }
