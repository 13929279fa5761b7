# SPDX-License-Identifier: Apache-2.0
"""Claims. The end of a claim is the ``d`` of its messages, always, so the messages of a claim that ended are free."""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId

from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, DeadLetters, Message, Queue
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    FREE,
    READY,
    Document,
    count,
    messages_of,
    put,
    segment_id,
    statement,
)
from zaqar.storage.mongodb.fences import FAR, FenceStore, Look, check, ids_of, in_force, lower_ready_from, slot
from zaqar.storage.mongodb.transactions import Transaction, Turns

_OVER = 0.0
"""The ``end`` of a claim that was released; a sweep removes it."""


class ClaimStore(FenceStore):
    """The part of the message store that is about claims."""

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        passed_over = dead_letters.max_claim_count if dead_letters and dead_letters.queue is None else None
        worn_out = dead_letters.max_claim_count if dead_letters and dead_letters.queue else None
        for turn in self._turns():
            look = self._first_free(turn, queue, limit, now, below=passed_over)
            if look is None:
                continue
            taken = look.documents
            if worn_out is not None and any(each["n"] >= worn_out for each in taken):
                assert dead_letters is not None
                taken_past = self._claim_past(turn, queue, look, claim, limit, now, dead_letters)
                if taken_past is not None:
                    return taken_past
                continue
            if taken:
                leasing = [check(queue, look.hint.segment), *lease(look.hint.segment, claim, taken, now)]
                if not turn.write(leasing, expect=3 + len(taken)):
                    continue
            self._passed(queue, look, now)
            return leased(queue, claim, taken, now)
        raise AssertionError("turns end by themselves")

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

    def _claim_past(
        self, turn: Turns, queue: Queue, look: Look, claim: Claim, limit: int, now: float, rules: DeadLetters
    ) -> list[Message] | None:
        raise NotImplementedError

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        for turn in self._turns():
            hint = self._hint(turn, queue)
            segment = hint.segment
            held = [{"$match": {"s": segment, "k": claim_id, "x": {"$gt": now}}}]
            theirs = {
                "from": self._set.opened.collection.name,
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


def lease(segment: ObjectId, claim: Claim, taken: Sequence[Document], now: float) -> list[Document]:
    """Statements that match ``len(taken) + 2`` documents when all of these are still free."""
    change = {
        "$set": {"t": CLAIMED, "d": claim.expires, "k": claim.id},
        "$inc": {"n": 1},
        "$max": {"x": claim.expires + claim.grace},
    }
    still_free = {"_id": {"$in": ids_of(taken)}, "t": READY, "x": {"$gt": now}}
    return [
        statement(still_free, change, many=True),
        count(segment, slot(), ready=-len(taken), claimed=len(taken)),
        put(_document_of(segment, claim)),
    ]


def leased(queue: Queue, claim: Claim, taken: Sequence[Document], now: float) -> list[Message]:
    """The messages as that change leaves them."""
    life = claim.expires + claim.grace
    held = {"t": CLAIMED, "d": claim.expires, "k": claim.id}
    changed = [{**each, **held, "n": each["n"] + 1, "x": max(each["x"], life)} for each in taken]
    return messages_of(queue.uid, changed, now)


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
