# SPDX-License-Identifier: Apache-2.0
"""Claims. The end of a claim is the ``d`` of its messages, always, so the messages of a claim that ended are free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bson import ObjectId

from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, DeadLetters, Message, Queue
from zaqar.storage.mongodb.desk import Request
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    FREE,
    READY,
    Document,
    count,
    messages_of,
    put,
    remove,
    segment_id,
    statement,
)
from zaqar.storage.mongodb.fences import (
    COLLECTION,
    FAR,
    FenceStore,
    Look,
    check,
    ids_of,
    in_force,
    lower_ready_from,
    slot,
)
from zaqar.storage.mongodb.transactions import Transaction, Turns

_OVER = 0.0
"""The ``end`` of a claim that was released; a sweep removes it."""


MOST_TOGETHER = 200
"""Messages that claims and pops of one process take in one transaction, or one of them alone."""


@dataclass(eq=False, slots=True, kw_only=True)
class Take(Request):
    """A claim, or without ``claim`` a pop, of the first free messages."""

    claim: Claim | None
    limit: int
    now: float
    found: list[Document] = field(default_factory=list)

    def statements(self, segment: ObjectId, now: float) -> list[Document]:
        """They match all that were found when all are still free, the count, and the claim."""
        still_free = {"_id": {"$in": ids_of(self.found)}, "t": READY, "x": {"$gt": now}}
        many = len(self.found)
        if self.claim is None:
            return [remove(segment, still_free), count(segment, slot(), ready=-many)]
        change = {
            "$set": {"t": CLAIMED, "d": self.claim.expires, "k": self.claim.id},
            "$inc": {"n": 1},
            "$max": {"x": self.claim.expires + self.claim.grace},
        }
        return [
            statement(still_free, change, many=True),
            count(segment, slot(), ready=-many, claimed=many),
            put(_document_of(segment, self.claim)),
        ]

    def finish(self, queue: Queue) -> None:
        """Answer the messages as that change leaves them."""
        taken = self.found
        if self.claim is not None:
            life = self.claim.expires + self.claim.grace
            held = {"t": CLAIMED, "d": self.claim.expires, "k": self.claim.id}
            taken = [{**each, **held, "n": each["n"] + 1, "x": max(each["x"], life)} for each in taken]
        self.answer = messages_of(queue.uid, taken, self.now)


class ClaimStore(FenceStore):
    """The part of the message store that is about claims."""

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        return self._take(queue, Take(weight=limit, claim=claim, limit=limit, now=now), dead_letters)

    # -- taking the first free messages ------------------------------------------------------------------------------

    def _take(self, queue: Queue, take: Take, rules: DeadLetters | None) -> list[Message]:
        grave = rules.queue if rules else None
        same = rules and (grave and (grave.uid, grave.generation), rules.max_claim_count, rules.ttl)
        desk = self._desk(("take", queue.uid, queue.generation, same), MOST_TOGETHER)
        taken: list[Message] = desk.serve(take, lambda takes: self._take_together(queue, takes, rules))
        return taken

    def _take_together(self, queue: Queue, takes: Sequence[Take], rules: DeadLetters | None) -> None:
        now = max(take.now for take in takes)
        passed_over = rules.max_claim_count if rules and rules.queue is None else None
        worn_out = rules.max_claim_count if rules and rules.queue else math.inf
        for turn in self._turns():
            look = self._first_free(turn, queue, sum(take.limit for take in takes), now, below=passed_over)
            if look is None:
                continue
            if rules is not None and any(each["n"] >= worn_out for each in look.documents):
                self._take_past(queue, takes, now, rules)
                return
            statements, expect = _taking(queue, look, takes, now)
            if look.documents and not turn.write(statements, expect=expect):
                continue
            for take in takes:
                take.finish(queue)
            self._removed(look.hint, sum(len(take.found) for take in takes if take.claim is None))
            self._passed(queue, look, now)
            return

    def _take_past(self, queue: Queue, takes: Sequence[Take], now: float, rules: DeadLetters) -> None:
        """One claim after the other, each of which moves the worn out messages that it meets."""
        for take in takes:
            for turn in self._turns():
                look = self._first_free(turn, queue, 1, now)
                if look is not None and self._claim_past(turn, queue, look, take, now, rules):
                    take.served = True
                    break

    def _claim_past(self, turn: Turns, queue: Queue, look: Look, take: Take, now: float, rules: DeadLetters) -> bool:
        """What dead letters make of a claim; False where it has to begin again."""
        raise NotImplementedError

    def _first_free(
        self, turn: Turns, queue: Queue, limit: int, now: float, *, below: int | None = None
    ) -> Look | None:
        """The first free messages as the primary has them; None where it has to look again."""

        def first(segment: ObjectId, begin: int) -> list[list[Document]]:
            free: Document = {"s": segment, "t": READY, "q": {"$gte": begin}, "x": {"$gt": now}}
            if below is not None:
                free["n"] = {"$lt": below}
            return [[{"$match": free}, {"$sort": {"q": 1}}, {"$limit": limit}]]

        return self._settled(turn, queue, now, first, expect=limit, latest=True)

    def _passed(self, queue: Queue, look: Look, now: float) -> None:
        """After a scan for free messages: see that the next one does not pass the same numbers in vain."""
        first = look.documents[0]["q"] if look.documents else look.fence["next"]
        if first > look.fence["from"] + FAR:
            self._move_ready_from(queue, now)

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        for turn in self._turns():
            hint = self._hint(turn, queue)
            segment = hint.segment
            held = [{"$match": {"s": segment, "k": claim_id, "x": {"$gt": now}}}]
            theirs = {
                "from": COLLECTION,
                "localField": "end",
                "foreignField": "d",
                "pipeline": held,
                "as": "held",
            }
            part: list[Document] = [
                {"$match": {"_id": segment_id("c", segment, claim_id), "end": {"$gt": now}}},
                {"$lookup": theirs},
                {"$unwind": {"path": "$held", "preserveNullAndEmptyArrays": True}},
            ]
            look = self._look(turn, queue, hint, [part], expect=100)
            if look is None:
                continue
            if not look.documents:
                raise NotFound("There is no such claim.")
            messages = [each["held"] for each in look.documents if "held" in each]
            return _claim_of(claim_id, look.documents[0]), messages_of(queue.uid, messages, now)
        raise AssertionError("turns end by themselves")

    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        for turn in self._turns():
            with turn.transaction() as transaction:
                segment = segment_in(transaction, queue)
                old = transaction.get({"_id": segment_id("c", segment, claim_id), "end": {"$gt": now}})
                if old is None:
                    raise NotFound("There is no such claim.")
                new = Claim(claim_id, old["ttl"] if ttl is None else ttl, old["grace"] if grace is None else grace, now)
                held = transaction.find({"s": segment, "d": old["end"], "k": claim_id, "x": {"$gt": now}}, fields="q")
                longer = {"$set": {"d": new.expires}, "$max": {"x": new.expires + new.grace}}
                changes = [
                    put(_document_of(segment, new)),
                    statement({"_id": {"$in": ids_of(held)}}, longer, many=True),
                ]
                transaction.update(changes, expect=1 + len(held))
            if transaction.committed:
                return

    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        for turn in self._turns():
            with turn.transaction() as transaction:
                segment = segment_in(transaction, queue)
                old = transaction.get({"_id": segment_id("c", segment, claim_id)})
                if old is None or old["end"] == _OVER:
                    transaction.reads_only = True
                else:
                    self._free(transaction, queue, segment, old, claim_id)
            if transaction.committed:
                return

    def _free(self, transaction: Transaction, queue: Queue, segment: ObjectId, claim: Document, claim_id: str) -> None:
        held = transaction.find({"s": segment, "d": claim["end"], "k": claim_id}, fields="q")
        changes = [statement({"_id": claim["_id"]}, {"$set": {"end": _OVER}})]
        if held:
            changes += [
                statement({"_id": {"$in": ids_of(held)}}, FREE, many=True),
                count(segment, slot(), ready=len(held), claimed=-len(held)),
                lower_ready_from(queue.uid, segment, min(each["q"] for each in held)),
            ]
        transaction.update(changes, expect=1 + (2 + len(held) if held else 0))


def segment_in(transaction: Transaction, queue: Queue) -> ObjectId:
    """Where the messages of the queue are, as of the moment of the transaction."""
    fence = transaction.get(in_force(queue))
    if fence is None:
        raise StaleQueue(queue.uid)
    segment: ObjectId = fence["seg"]
    return segment


def _taking(queue: Queue, look: Look, takes: Sequence[Take], now: float) -> tuple[list[Document], int]:
    """Deal out what was found, in order; the statements that take it, and how many documents they match."""
    segment, left = look.hint.segment, list(look.documents)
    statements, expect = [check(queue, segment)], 1
    for take in takes:
        take.found, left = left[: take.limit], left[take.limit :]
        if take.found:
            statements += take.statements(segment, now)
            expect += len(take.found) + (2 if take.claim else 1)
    return statements, expect


def _document_of(segment: ObjectId, claim: Claim) -> Document:
    return {
        "_id": segment_id("c", segment, claim.id),
        "ttl": claim.ttl,
        "grace": claim.grace,
        "started": claim.started,
        "end": claim.expires,
    }


def _claim_of(claim_id: str, document: Document) -> Claim:
    return Claim(claim_id, document["ttl"], document["grace"], document["started"])
