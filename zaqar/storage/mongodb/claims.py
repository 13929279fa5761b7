# SPDX-License-Identifier: Apache-2.0
"""Claims. The ``DUE`` of the messages of a claim is always the ``end`` of the claim.

So when a claim ends, each of its messages is free by its own fields, and no step is necessary for that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bson import ObjectId

from zaqar.errors import NotFound
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue
from zaqar.storage.base import ClaimStore
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import ids_of, statement
from zaqar.storage.mongodb.client.transactions import Attempt
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.documents import MESSAGES, Field, claim_key, messages_of
from zaqar.storage.mongodb.first_free import FirstFree, claim_document
from zaqar.storage.mongodb.statements import BECOME_READY, check_fence, count_returned, lower_ready_from

_RELEASED = 0.0
"""The ``end`` of a claim that was released. A sweep removes it."""


class _StoredClaim(NamedTuple):
    """A claim as it was read, live or over, with the messages that have its id and its end."""

    segment: ObjectId
    document: Document | None
    held: list[Document]

    def still_held(self, claim_id: str) -> Document:
        """A query for ``held``. A claim only ever loses messages, so it holds the same ones if as many match."""
        assert self.document is not None
        return {"_id": {"$in": ids_of(self.held)}, Field.CLAIM: claim_id, Field.DUE: self.document["end"]}

    def unchanged(self, change: Document) -> Document:
        """A statement that changes the claim if it was not renewed or released since it was read."""
        assert self.document is not None
        return statement({"_id": self.document["_id"], "end": self.document["end"]}, change)


class MongoClaims(ClaimStore):
    def __init__(self, core: Core, first_free: FirstFree) -> None:
        self._core = core
        self._first_free = first_free

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        return self._first_free.claim(queue=queue, claim=claim, limit=limit, now=now, dead_letters=dead_letters)

    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        def read(attempt: Attempt) -> tuple[Claim, list[Message]]:
            found = self._read(attempt, queue, claim_id, alive_at=now, whole=True, latest=False)
            document = _live(found.document, now)
            claim = Claim(claim_id, document["ttl"], document["grace"], document["started"])
            return claim, messages_of(queue.uid, found.held, now)

        return self._core.retry(read)

    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        def renew(attempt: Attempt) -> None:
            found = self._read(attempt, queue, claim_id, alive_at=now)
            old = _live(found.document, now)
            new = Claim(claim_id, old["ttl"] if ttl is None else ttl, old["grace"] if grace is None else grace, now)
            longer = {"$set": {Field.DUE: new.expires}, "$max": {Field.EXPIRES: new.expires + new.grace}}
            changes = [
                check_fence(queue, found.segment),
                found.unchanged(claim_document(found.segment, new)),
                statement(found.still_held(claim_id), longer, many=True),
            ]
            attempt.update(changes, expect=2 + len(found.held))

        self._core.retry(renew)

    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        def release(attempt: Attempt) -> None:
            found = self._read(attempt, queue, claim_id)
            if found.document is None or found.document["end"] == _RELEASED:
                return
            held = found.held
            changes = [
                count_returned(found.segment, ready=len(held), claimed=-len(held)),
                check_fence(queue, found.segment),
                found.unchanged({"$set": {"end": _RELEASED}}),
                statement(found.still_held(claim_id), BECOME_READY, many=True),
                # The messages become READY in the same transaction, so no scan may begin behind them afterwards.
                lower_ready_from(
                    queue.uid, found.segment, min((each[Field.SEQUENCE] for each in held), default=math.inf)
                ),
            ]
            attempt.update(changes, expect=4 + len(held))

        self._core.retry(release)

    def _read(
        self,
        attempt: Attempt,
        queue: Queue,
        claim_id: str,
        *,
        alive_at: float | None = None,
        whole: bool = False,
        latest: bool = True,
    ) -> _StoredClaim:
        """A claim and what it holds: messages that are alive at ``alive_at`` (all if it is None), ``whole`` or not."""
        known = self._core.known_fence(attempt, queue)
        held: Document = {Field.SEGMENT: known.segment, Field.CLAIM: claim_id}
        if alive_at is not None:
            held[Field.EXPIRES] = {"$gt": alive_at}
        pipeline: list[Document] = [{"$match": held}]
        if not whole:
            pipeline.append({"$project": {Field.SEQUENCE: 1}})
        joined = {"from": MESSAGES, "localField": "end", "foreignField": Field.DUE, "pipeline": pipeline, "as": "held"}
        # One document for each message that is held, each with the claim; one without ``held`` if there is none.
        part: list[Document] = [
            {"$match": {"_id": claim_key(known.segment, claim_id)}},
            {"$lookup": joined},
            {"$unwind": {"path": "$held", "preserveNullAndEmptyArrays": True}},
        ]
        look = self._core.look(attempt, queue, known, [part], expect=100, latest=latest)
        claim = look.documents[0] if look.documents else None
        return _StoredClaim(known.segment, claim, [each["held"] for each in look.documents if "held" in each])


def _live(document: Document | None, now: float) -> Document:
    if document is None or document["end"] <= now:
        raise NotFound("There is no such claim.")
    return document
