# SPDX-License-Identifier: Apache-2.0
"""Claims. The end of a claim is the ``d`` of its messages, always, so the messages of a claim that ended are free."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from bson import ObjectId

from zaqar.errors import NotFound, SealedMessages, StaleQueue
from zaqar.model import Claim, DeadLetters, Message, Queue, is_sealed
from zaqar.storage.mongodb.client.group_commit import Request
from zaqar.storage.mongodb.client.transactions import Transaction, Turns
from zaqar.storage.mongodb.core import FAR, FenceStore, Look
from zaqar.storage.mongodb.documents import CLAIMED, COLLECTION, READY, Document, messages_of, segment_id
from zaqar.storage.mongodb.statements import (
    FREE,
    check,
    count,
    count_back,
    ids_of,
    in_force,
    lower_ready_from,
    put,
    remove,
    slot,
    statement,
)

_OVER = 0.0
"""The ``end`` of a claim that was released; a sweep removes it."""


MOST_TOGETHER = 200
"""Messages that claims and pops of one process take in one transaction, or one of them alone."""


@dataclass(eq=False, slots=True, kw_only=True)
class Take(Request):
    """A claim, or without ``claim`` a pop, of the first free messages.

    A pop that finds a sealed one takes none, and its answer is None.
    """

    claim: Claim | None
    limit: int
    now: float
    found: list[Document] = field(default_factory=list)
    sealed: bool = False

    def statements(self, segment: ObjectId, now: float) -> list[Document]:
        """They match all that were found when all are still free, the count, and the claim."""
        still_free = {**_as_found(self.found), "t": READY, "x": {"$gt": now}}
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
        if self.sealed:
            return
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
        """What was taken. Raises SealedMessages for a pop that must take nothing."""
        grave = rules.queue if rules else None
        same = rules and (grave and (grave.uid, grave.generation), rules.max_claim_count, rules.ttl)
        desk = self._desk(("take", queue.uid, queue.generation, same), MOST_TOGETHER)
        taken: list[Message] | None = desk.serve(take, lambda takes: self._take_together(queue, takes, rules))
        if taken is None:
            raise SealedMessages(queue.uid)
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
            if expect > 1 and not turn.write(statements, expect=expect):
                continue
            for take in takes:
                take.finish(queue)
            self._removed(look.hint, sum(len(take.found) for take in takes if take.claim is None))
            self._passed(look, now)
            return

    def _take_past(self, queue: Queue, takes: Sequence[Take], now: float, rules: DeadLetters) -> None:
        """One claim after the other, each of which moves the worn out messages that it meets."""
        for take in takes:
            for turn in self._turns():
                look = self._first_free(turn, queue, 1, now)
                if look is not None and self._claim_past(turn, queue, look, take, now, rules):
                    take.served = True
                    break

    @abstractmethod
    def _claim_past(self, turn: Turns, queue: Queue, look: Look, take: Take, now: float, rules: DeadLetters) -> bool:
        """What dead letters make of a claim; False where it has to begin again."""

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

    def _passed(self, look: Look, now: float) -> None:
        """After a scan for free messages: see that the next one does not pass the same numbers in vain."""
        first = look.documents[0]["q"] if look.documents else look.fence["next"]
        if first > look.fence["from"] + FAR:
            self._move_ready_from(look.fence, now)

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        for turn in self._turns():
            part = partial(_claim_and_held, claim_id, {"x": {"$gt": now}}, _WHOLE)
            found = self._look_at_claim(turn, queue, part, latest=False)
            if found is None:
                continue
            claim, held = found.claim, found.held
            if claim is None or claim["end"] <= now:
                raise NotFound("There is no such claim.")
            return _claim_of(claim_id, claim), messages_of(queue.uid, held, now)
        raise AssertionError("turns end by themselves")

    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        for turn in self._turns():
            found = self._look_at_claim(turn, queue, partial(_claim_and_held, claim_id, {"x": {"$gt": now}}, _NUMBER))
            if found is None:
                continue
            segment, old, held = found.segment, found.claim, found.held
            if old is None or old["end"] <= now:
                raise NotFound("There is no such claim.")
            new = Claim(claim_id, old["ttl"] if ttl is None else ttl, old["grace"] if grace is None else grace, now)
            longer = {"$set": {"d": new.expires}, "$max": {"x": new.expires + new.grace}}
            changes = [
                check(queue, segment),
                statement({"_id": old["_id"], "end": old["end"]}, _document_of(segment, new)),
                statement(_still_held(held, claim_id, old), longer, many=True),
            ]
            if turn.write(changes, expect=2 + len(held)):
                return

    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        for turn in self._turns():
            found = self._look_at_claim(turn, queue, partial(_claim_and_held, claim_id, {}, _NUMBER))
            if found is None:
                continue
            segment, old, held = found.segment, found.claim, found.held
            if old is None or old["end"] == _OVER:
                return
            first = min((each["q"] for each in held), default=math.inf)
            changes = [
                count_back(segment, ready=len(held), claimed=-len(held)),
                check(queue, segment),
                statement({"_id": old["_id"], "end": old["end"]}, {"$set": {"end": _OVER}}),
                statement(_still_held(held, claim_id, old), FREE, many=True),
                lower_ready_from(queue.uid, segment, first),
            ]
            if turn.write(changes, expect=4 + len(held)):
                return

    def _look_at_claim(
        self, turn: Turns, queue: Queue, part: Callable[[ObjectId], list[Document]], *, latest: bool = True
    ) -> _Found | None:
        """A claim, alive or not, and what it holds; None where one has to look again."""
        hint = self._hint(turn, queue)
        look = self._look(turn, queue, hint, [part(hint.segment)], expect=100, latest=latest)
        if look is None:
            return None
        claim = look.documents[0] if look.documents else None
        return _Found(hint.segment, claim, [each["held"] for each in look.documents if "held" in each])


class _Found(NamedTuple):
    segment: ObjectId
    claim: Document | None
    held: list[Document]


_WHOLE: list[Document] = []
_NUMBER: list[Document] = [{"$project": {"q": 1}}]


def _claim_and_held(claim_id: str, which: Document, shown: list[Document], segment: ObjectId) -> list[Document]:
    """The claim once with each message that it holds, or alone where it holds none."""
    held = [{"$match": {"s": segment, "k": claim_id, **which}}, *shown]
    theirs = {"from": COLLECTION, "localField": "end", "foreignField": "d", "pipeline": held, "as": "held"}
    return [
        {"$match": {"_id": segment_id("c", segment, claim_id)}},
        {"$lookup": theirs},
        {"$unwind": {"path": "$held", "preserveNullAndEmptyArrays": True}},
    ]


def _as_found(found: Sequence[Document]) -> Document:
    """Matches messages that no claim has held since they were read as READY.

    Each claim adds to the count ``n``, so it is the version of a READY message: one that was claimed and released in
    between is READY as before, but may have been claimed as often as it is allowed to be.
    """
    by_count: dict[int, list[Document]] = {}
    for each in found:
        by_count.setdefault(each["n"], []).append(each)
    versions: list[Document] = [{"_id": {"$in": ids_of(some)}, "n": n} for n, some in by_count.items()]
    return versions[0] if len(versions) == 1 else {"$or": versions}


def _still_held(held: Sequence[Document], claim_id: str, claim: Document) -> Document:
    """A claim only ever loses messages, so it still holds what it held when as many match."""
    return {"_id": {"$in": ids_of(held)}, "k": claim_id, "d": claim["end"]}


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
        found, rest = left[: take.limit], left[take.limit :]
        take.sealed = take.claim is None and any(is_sealed(each["b"]) for each in found)
        # What such a pop leaves is there for the next one.
        take.found, left = ([], left) if take.sealed else (found, rest)
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
