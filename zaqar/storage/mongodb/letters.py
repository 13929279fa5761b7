# SPDX-License-Identifier: Apache-2.0
"""Dead letters: moved to a queue of this store by the claim that meets them, or set aside for another store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bson import ObjectId

from zaqar.errors import StaleQueue
from zaqar.model import DeadLetters, Draft, Message, Origin, Queue, message_id
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.mongodb.claims import ClaimStore, Take, segment_in
from zaqar.storage.mongodb.documents import ASIDE, READY, Document, document_of, message_key, messages_of
from zaqar.storage.mongodb.fences import BATCH, Look
from zaqar.storage.mongodb.outbox import posted_documents
from zaqar.storage.mongodb.statements import check, count, ids_of, in_force, put, remove, slot, statement
from zaqar.storage.mongodb.transactions import Lost, Transaction, Turns

_SET_ASIDE = {"$set": {"t": ASIDE}, "$rename": {"x": "y"}}
"""Without ``x`` it does not expire; ``y`` keeps when it would have."""


class LetterStore(ClaimStore):
    """The part of the message store that is about dead letters."""

    def _claim_past(self, turn: Turns, queue: Queue, look: Look, take: Take, now: float, rules: DeadLetters) -> bool:
        """A claim that moves the worn out among the first free messages; False where it has to begin again."""
        segment, limit = look.hint.segment, take.limit
        with turn.transaction() as transaction:
            begin = _begin_of(transaction, queue, segment)
            living, dead = _first_free(transaction, segment, begin, limit, rules.max_claim_count, now)
            unfinished = len(dead) == BATCH and len(living) < limit
            take.found = []
            changes = [check(queue, segment)]
            expect = 1
            if dead:
                self._move(transaction, queue, dead, now, rules)
                changes += [remove(segment, {"_id": {"$in": ids_of(dead)}}), count(segment, slot(), ready=-len(dead))]
                expect += len(dead) + 1
            if living and not unfinished:
                take.found = transaction.find({"_id": {"$in": ids_of(living)}})
                changes += take.statements(segment, now)
                expect += len(living) + 2
            transaction.update(changes, expect=expect)
        if not transaction.committed:
            return False
        self._removed(look.hint, len(dead))
        if unfinished:
            turn.begin_anew()
            return False
        take.finish(queue)
        return True

    def _move(
        self, transaction: Transaction, queue: Queue, dead: Sequence[Document], now: float, rules: DeadLetters
    ) -> None:
        """Put messages at the end of the dead letter queue."""
        grave = rules.queue
        assert grave is not None
        messages = []
        for letter in messages_of(queue.uid, transaction.find({"_id": {"$in": ids_of(dead)}}), now):
            origin = Origin(queue.name, message_id(queue.uid, letter.sequence), letter.claim_count)
            moved = replace(letter, claim_count=0, origin=origin)
            messages.append(moved if rules.ttl is None else replace(moved, created=now, expires=now + rules.ttl))
        append(transaction, grave, messages, now)

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        for turn in self._turns():
            look = self._settled(turn, queue, now, lambda segment, begin: [], expect=0, latest=True)
            if look is None:
                continue
            segment = look.hint.segment
            with turn.transaction() as transaction:
                begin = _begin_of(transaction, queue, segment)
                aside = transaction.find({"s": segment, "t": ASIDE}, limit=BATCH, order="q")
                _, dead = _first_free(transaction, segment, begin, limit, max_claim_count, now)
                dead = dead[: BATCH - len(aside)]
                changes, expect = [check(queue, segment)], 1
                if dead:
                    worn_out = {"_id": {"$in": ids_of(dead)}, "t": READY}
                    changes += [statement(worn_out, _SET_ASIDE, many=True), count(segment, slot(), ready=-len(dead))]
                    expect += len(dead) + 1
                transaction.update(changes, expect=expect)
                if dead:
                    aside = transaction.find({"s": segment, "t": ASIDE}, limit=BATCH, order="q")
            if transaction.committed:
                return messages_of(queue.uid, [{**each, "x": each["y"]} for each in aside], now)
        raise AssertionError("turns end by themselves")

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        marks: dict[str, Message] = {}
        for letter in messages:
            if letter.origin is None:
                raise ValueError("a dead letter without an origin")
            marks.setdefault(f"r{queue.uid}{letter.origin.message_id}", letter)
        for turn in self._turns():
            with turn.transaction() as transaction:
                segment_in(transaction, queue)
                known = set(ids_of(transaction.find({"_id": {"$in": list(marks)}}, fields="z")))
                new = {mark: letter for mark, letter in marks.items() if mark not in known}
                if new:
                    append(transaction, queue, [replace(letter, claim_count=0) for letter in new.values()], now)
                    end = now + TOMBSTONE_LIFETIME
                    transaction.update([put({"_id": mark, "end": end}) for mark in new], expect=len(new))
            if transaction.committed:
                return

    def forget_set_aside(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        for turn in self._turns():
            with turn.transaction() as transaction:
                segment = segment_in(transaction, queue)
                keys = [message_key(segment, sequence) for sequence in sequences]
                transaction.delete({"_id": {"$in": keys}, "t": ASIDE})
            if transaction.committed:
                return


def append(transaction: Transaction, queue: Queue, messages: Sequence[Message], now: float) -> None:
    """Put free messages at the end of a queue, whose fence is checked in the same step, each as a post to notify."""
    many = len(messages)
    fence = transaction.change(in_force(queue), {"$inc": {"next": many, "ready": many}})
    if fence is None:
        raise StaleQueue(queue.uid)
    first = fence["next"] - many
    numbered = [replace(message, sequence=first + n) for n, message in enumerate(messages)]
    documents = [document_of(fence["seg"], message) for message in numbered]
    for message in numbered if queue.notify else ():
        draft = Draft(message.body, message.ttl)
        documents += posted_documents(queue.uid, message.sequence, [draft], message.client_id, now)
    transaction.insert(documents)


def _begin_of(transaction: Transaction, queue: Queue, segment: ObjectId) -> int:
    """Where free messages begin at the moment of the transaction, as some may have come back since an earlier read.

    Lost if the queue was purged or changed since then.
    """
    fence = transaction.get({**in_force(queue), "seg": segment})
    if fence is None:
        raise Lost
    begin: int = fence["from"]
    return begin


def _first_free(
    transaction: Transaction, segment: ObjectId, begin: int, limit: int, most: int, now: float
) -> tuple[list[Document], list[Document]]:
    """The first ``limit`` free messages that are not worn out, and a batch at most of those before them that are."""
    living: list[Document] = []
    dead: list[Document] = []
    free = {"s": segment, "t": READY, "q": {"$gte": begin}, "x": {"$gt": now}}
    for each in transaction.find(free, limit=limit + BATCH, order="q", fields="qn"):
        if len(living) == limit or len(dead) == BATCH:
            break
        (dead if each["n"] >= most else living).append(each)
    return living, dead
