# SPDX-License-Identifier: Apache-2.0
"""The data plane on MongoDB: messages, and the counts of a queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from bson import ObjectId

from zaqar.errors import ClaimOver, Forbidden, StaleQueue, StoreUnavailable
from zaqar.model import Draft, Message, Queue, Stats
from zaqar.storage.mongodb.claims import Take, segment_in
from zaqar.storage.mongodb.client.group_commit import Request
from zaqar.storage.mongodb.client.transactions import Transaction, Turns
from zaqar.storage.mongodb.core import BATCH, BRIEF, FAR, Hint
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    DELAYED,
    READY,
    Document,
    document_of,
    message_key,
    message_of,
    messages_of,
    segment_id,
    within,
)
from zaqar.storage.mongodb.outbox import posted_documents
from zaqar.storage.mongodb.queues import PositionStore
from zaqar.storage.mongodb.statements import check, count, counts_of, ids_of, in_force, put, remove, slot, statement

TIDY_EVERY = 64
"""A post that passes a multiple of this number removes twice as many expired messages.

So a queue that nobody reads takes bounded space without a sweep, and posts beside expired messages cost the same.
"""

FEW = 50
"""Messages that a post sends along with a guess at their numbers."""

LITTLE = 1024 * 1024
"""Bytes of posts that are stored together, or with a guess at their numbers."""

LIGHT = 1024
"""What a message weighs there without its body."""

MOST_POSTS_WITHOUT_A_GUESS = 64


@dataclass(eq=False, slots=True, kw_only=True)
class Post(Request):
    drafts: Sequence[Draft]
    client_id: str
    now: float


class MongoMessageStore(PositionStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD"})

    # -- posting -----------------------------------------------------------------------------------------------------

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        weight = sum(len(draft.body) + LIGHT for draft in drafts)
        request = Post(weight=weight, drafts=drafts, client_id=client_id, now=now)
        desk = self._desk(("post", queue.uid, queue.generation), LITTLE)
        numbers: range = desk.serve(request, lambda posts: self._post_together(queue, posts))
        return numbers

    def _post_together(self, queue: Queue, posts: Sequence[Post]) -> None:
        many = sum(len(post.drafts) for post in posts)
        delayed = sum(draft.delay > 0 for post in posts for draft in post.drafts)
        growth = {"$inc": {"next": many, "ready": many - delayed, "delayed": delayed}}
        notify = queue.uid if queue.notify else None
        few = many <= FEW and sum(post.weight for post in posts) <= LITTLE
        # Thousands of messages in one post take a while on their own.
        for turn in self._turns(more=many // 1000 / 4):
            hint = self._hint(turn, queue)
            guess = hint.next if few else None
            if guess is not None:
                documents = _documents_of(hint.segment, guess, posts, notify=notify)
                fence = {**in_force(queue), "seg": hint.segment, "next": guess}
                if turn.write([statement(fence, growth), *map(put, documents)], expect=1 + len(documents)):
                    return self._posted(queue, hint, guess, posts, guessed=True)
                hint.misses = min(MOST_POSTS_WITHOUT_A_GUESS, 2 * hint.misses + 1)
                hint.wait, hint.next = hint.misses, None
                continue
            with turn.transaction() as transaction:
                # Whoever writes the fence commits before whoever writes it next, so numbers appear in their order.
                changed = transaction.change(in_force(queue), growth)
                if changed is None:
                    raise StaleQueue(queue.uid)
                first = changed["next"] - many
                transaction.insert(_documents_of(changed["seg"], first, posts, notify=notify))
            if transaction.committed:
                if changed["seg"] != hint.segment:  # purged by another process
                    self._forget(queue.uid)
                return self._posted(queue, hint, first, posts, guessed=False)
        raise AssertionError("turns end by themselves")

    def _posted(self, queue: Queue, hint: Hint, first: int, posts: Sequence[Post], *, guessed: bool) -> None:
        """Tell each its numbers, learn from it, and tidy up now and then."""
        end = first
        for post in posts:
            post.answer = range(end, end := end + len(post.drafts))
        if guessed:
            hint.misses = 0
        else:
            hint.wait -= 1
        if hint.wait <= 0:
            hint.next = end
        rounds = end // TIDY_EVERY - first // TIDY_EVERY
        if rounds:
            with suppress(StoreUnavailable):  # the post is done; a sweep does the same
                some = min(1000, 2 * TIDY_EVERY * rounds)
                self._expire(queue.uid, hint.segment, posts[0].now, limit=some, brief=True)

    # -- reading -----------------------------------------------------------------------------------------------------

    def list_messages(
        self,
        *,
        queue: Queue,
        after: int,
        limit: int,
        now: float,
        exclude_client: str | None = None,
        include_claimed: bool = False,
        include_delayed: bool = False,
    ) -> list[Message]:
        others = [CLAIMED] * include_claimed + [DELAYED] * include_delayed

        def page(segment: ObjectId, begin: int) -> list[list[Document]]:
            wanted = _in_order(segment, now, others, begin=max(after + 1, begin), after=after)
            if exclude_client is not None:
                wanted = {"$and": [wanted, {"u": {"$ne": exclude_client}}]}
            return [[{"$match": wanted}, {"$sort": {"q": 1}}, {"$limit": limit}]]

        for turn in self._turns():
            look = self._settled(turn, queue, now, page, expect=limit)
            if look is not None:
                listed = messages_of(queue.uid, look.documents, now)
                first = listed[0].sequence if listed else look.fence["next"]
                if after < look.fence["from"] < first - FAR and not others:
                    self._move_ready_from(look.fence, now)
                return listed
        raise AssertionError("turns end by themselves")

    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        for turn in self._turns():
            hint = self._hint(turn, queue)
            keys = [message_key(hint.segment, sequence) for sequence in sequences]
            part = [{"$match": {"_id": {"$in": keys}, "x": {"$gt": now}}}]
            look = self._look(turn, queue, hint, [part], expect=len(keys))
            if look is not None:
                return messages_of(queue.uid, look.documents, now)
        raise AssertionError("turns end by themselves")

    def stats(self, *, queue: Queue, now: float) -> Stats:
        def counts_and_ends(segment: ObjectId, begin: int) -> list[list[Document]]:
            every = {"$match": _in_order(segment, now, [CLAIMED], begin=begin, after=0)}
            sums = {"_id": None, "ready": {"$sum": "$ready"}, "claimed": {"$sum": "$claimed"}}
            return [
                [{"$match": {"_id": within("s", segment)}}, {"$group": sums}],
                [{"$match": {"s": segment, "x": {"$lte": now}, "t": READY}}, {"$count": "expired"}],
                [every, {"$sort": {"q": 1}}, {"$limit": 1}],
                [every, {"$sort": {"q": -1}}, {"$limit": 1}],
            ]

        for turn in self._turns():
            look = self._settled(turn, queue, now, counts_and_ends, expect=10)
            if look is not None:
                sums: Counter[str] = Counter()
                ends = []
                for document in look.documents:
                    if "b" in document:
                        ends.append(message_of(queue.uid, document, now))
                    else:
                        sums.update({name: number for name, number in document.items() if name != "_id"})
                if sums["expired"] > BATCH:
                    self._remove_expired(queue.uid, look.hint.segment, now)  # or the next count takes as long
                free = look.fence["ready"] + sums["ready"] - sums["expired"]
                return Stats(free, sums["claimed"], *ends)
        raise AssertionError("turns end by themselves")

    def _remove_expired(self, uid: str, segment: ObjectId, now: float) -> None:
        end = time.monotonic() + BRIEF
        with suppress(StoreUnavailable):  # whoever calls is done; a sweep does the same
            while self._expire(uid, segment, now, limit=2 * BATCH, brief=True) and time.monotonic() < end:
                pass

    # -- removing ----------------------------------------------------------------------------------------------------

    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        for turn in self._turns():
            hint = self._hint(turn, queue)
            this: Document = {"_id": message_key(hint.segment, sequence), "x": {"$gt": now}}
            # What nearly every delete is about, in one command; else the transaction below finds out.
            if claim_id is None:
                this["t"], counted = READY, count(hint.segment, slot(), ready=-1)
            else:
                this |= {"t": CLAIMED, "k": claim_id, "d": {"$gt": now}}
                counted = count(hint.segment, slot(), claimed=-1)
            deleting = [check(queue, hint.segment), remove(hint.segment, this, many=False), counted]
            if turn.write(deleting, expect=3) or self._examine_and_delete(turn, queue, sequence, claim_id, now):
                self._removed(hint, 1)
                return

    def _examine_and_delete(self, turn: Turns, queue: Queue, sequence: int, claim_id: str | None, now: float) -> bool:
        with turn.transaction() as transaction:
            segment = segment_in(transaction, queue)
            found = transaction.get({"_id": message_key(segment, sequence), "x": {"$gt": now}})
            if found is None:
                transaction.reads_only = True
            else:
                message = message_of(queue.uid, found, now)
                if claim_id is not None and message.claim_id != claim_id:
                    _refuse(transaction, segment, claim_id, message, now)
                if claim_id is None and message.claim_id is not None:
                    raise Forbidden("The message is claimed.")
                _delete(transaction, segment, [found])
        if not transaction.committed:
            self._forget(queue.uid)
        return transaction.committed

    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        wanted = sorted(set(sequences))
        for turn in self._turns():
            hint = self._hint(turn, queue)
            if claim_ids is not None and wanted:
                keys = [message_key(hint.segment, sequence) for sequence in wanted]
                held: Document = {"_id": {"$in": keys}, "t": CLAIMED, "k": {"$in": list(claim_ids)}}
                held |= {"d": {"$gt": now}, "x": {"$gt": now}}
                counted = count(hint.segment, slot(), claimed=-len(keys))
                deleting = [check(queue, hint.segment), remove(hint.segment, held), counted]
                if turn.write(deleting, expect=2 + len(keys)):
                    self._removed(hint, len(keys))
                    return
            with turn.transaction() as transaction:
                segment = segment_in(transaction, queue)
                there = {"_id": {"$in": [message_key(segment, each) for each in wanted]}, "x": {"$gt": now}}
                found = transaction.find(there, fields="tkd")
                if claim_ids is not None and not all(_held_by(each, claim_ids, now) for each in found):
                    raise ClaimOver("A message is not held by one of the claims.")
                if found:
                    _delete(transaction, segment, found)
                else:
                    transaction.reads_only = True
            if transaction.committed:
                self._removed(hint, len(found))
                return
            self._forget(queue.uid)

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        return self._take(queue, Take(weight=limit, claim=None, limit=limit, now=now), None)


def _documents_of(segment: ObjectId, first: int, posts: Sequence[Post], *, notify: str | None) -> list[Document]:
    """The messages of the posts, and with ``notify``, the uid of their queue, each post as one to notify."""
    documents: list[Document] = []
    for post in posts:
        now = post.now
        if notify is not None:
            documents += posted_documents(notify, first, post.drafts, post.client_id, now)
        for sequence, draft in enumerate(post.drafts, first):
            message = Message("", sequence, draft.body, now, now + draft.ttl, post.client_id, checksum=draft.checksum)
            document = document_of(segment, message)
            if draft.delay > 0:
                document |= {"t": DELAYED, "d": now + draft.delay}
            documents.append(document)
        first += len(post.drafts)
    return documents


def _in_order(segment: ObjectId, now: float, others: Sequence[int], *, begin: int, after: int) -> Document:
    """READY messages from ``begin`` on, and those of other states after ``after``: one scan of the index for each."""
    alive = {"$gt": now}
    ready: Document = {"s": segment, "t": READY, "q": {"$gte": begin}, "x": alive}
    more = [{"s": segment, "t": state, "q": {"$gt": after}, "x": alive} for state in others]
    return {"$or": [ready, *more]} if more else ready


def _held_by(document: Document, claim_ids: Collection[str], now: float) -> bool:
    return document["t"] == CLAIMED and document["d"] > now and document["k"] in claim_ids


def _refuse(transaction: Transaction, segment: ObjectId, claim_id: str, message: Message, now: float) -> None:
    """Say why a claim id cannot delete the message, which is not held by it."""
    live = transaction.get({"_id": segment_id("c", segment, claim_id), "end": {"$gt": now}})
    if live is None or message.claim_id is None:
        raise ClaimOver("The claim is over, or the message is not claimed.")
    raise Forbidden("The message is held by another claim.")


def _delete(transaction: Transaction, segment: ObjectId, found: Sequence[Document]) -> None:
    counted = count(segment, slot(), **counts_of(0, [each["t"] for each in found]))
    transaction.update([remove(segment, {"_id": {"$in": ids_of(found)}}), counted], expect=1 + len(found))
