# SPDX-License-Identifier: Apache-2.0
"""Messages: post, list, get and delete. ``pop`` takes the first free messages as a claim does; see ``first_free``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bson import ObjectId

from zaqar.errors import ClaimOver, Forbidden, StaleQueue, StoreUnavailable
from zaqar.model import Draft, Message, Queue
from zaqar.storage.base import QueuedMessageStore
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.group_commit import Request
from zaqar.storage.mongodb.client.statements import ids_of, put, statement
from zaqar.storage.mongodb.client.transactions import Attempt, Transaction, TransactionConflict
from zaqar.storage.mongodb.core import Core, KnownFence, segment_in
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    DELAYED,
    READY,
    Field,
    claim_key,
    document_of,
    message_key,
    message_of,
    messages_in_order,
    messages_of,
)
from zaqar.storage.mongodb.first_free import FirstFree
from zaqar.storage.mongodb.housekeeping import BRIEF_SECONDS
from zaqar.storage.mongodb.outbox import posted_documents
from zaqar.storage.mongodb.statements import changes_of_counts, check_fence, count, delete, in_force

EXPIRE_EVERY = 64
"""A post that passes a multiple of this number removes up to twice as many expired messages.

So a queue that nobody reads takes bounded space without a sweep, and posts beside expired messages cost the same.
"""

MAX_GUESSED_MESSAGES = 50
"""Messages that a post stores with guessed numbers, at most."""

MAX_GROUP_BYTES = 1024 * 1024
"""Bytes of posts that are stored together, or with guessed numbers, at most."""

_MESSAGE_OVERHEAD = 1024
"""Bytes that are counted for a message besides its body."""

MAX_POSTS_WITHOUT_GUESS = 64
"""Posts that read the fence first after wrong guesses, at most. The number doubles with each wrong guess."""


@dataclass(eq=False, slots=True, kw_only=True)
class Post(Request):
    """The messages of one caller. The answer is the range of their numbers."""

    drafts: Sequence[Draft]
    client_id: str
    now: float
    request_id: str


class MongoMessages(QueuedMessageStore):
    def __init__(self, core: Core, first_free: FirstFree) -> None:
        self._core = core
        self._first_free = first_free

    # -- posting -----------------------------------------------------------------------------------------------------

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        size = sum(len(draft.body) + _MESSAGE_OVERHEAD for draft in drafts)
        request = Post(size=size, drafts=drafts, client_id=client_id, now=now, request_id=request_id)
        group = self._core.group_commit(("post", queue.uid, queue.generation), MAX_GROUP_BYTES)
        numbers: range = group.submit(request, lambda posts: self._post_together(queue, posts))
        return numbers

    def _post_together(self, queue: Queue, posts: Sequence[Post]) -> None:
        many = sum(len(post.drafts) for post in posts)
        # Thousands of messages in one post take a while without any conflict.
        self._core.retry(lambda attempt: self._try_to_post(attempt, queue, posts, many), extra=many // 1000 / 4)

    def _try_to_post(self, attempt: Attempt, queue: Queue, posts: Sequence[Post], many: int) -> None:
        """Store the posts in one transaction, with numbers that are guessed if possible.

        The numbers come from ``next`` of the fence. To read it first costs a round trip. If no other process posts to
        the queue, ``next`` is where the last post of this process ended, so the messages go along in one command, which
        checks the guess. If the guess was wrong, nothing is stored, and the fence is read for this post and a few more.
        """
        delayed = sum(draft.delay > 0 for post in posts for draft in post.drafts)
        growth = {"$inc": {"next": many, "ready": many - delayed, "delayed": delayed}}
        uid_to_notify = queue.uid if queue.notify else None
        known = self._core.known_fence(attempt, queue)
        is_small = many <= MAX_GUESSED_MESSAGES and sum(post.size for post in posts) <= MAX_GROUP_BYTES
        if is_small and known.next is not None:
            first = known.next
            documents = _documents_of(known.segment, first, posts, uid_to_notify)
            fence = {**in_force(queue), "segment": known.segment, "next": first}
            try:
                # An update command has no plain insert. To put a message replaces nothing: if the fence matches, its
                # number was never given out.
                attempt.update([statement(fence, growth), *map(put, documents)], expect=1 + len(documents))
            except TransactionConflict:
                known.wrong_guesses = min(MAX_POSTS_WITHOUT_GUESS, 2 * known.wrong_guesses + 1)
                known.posts_without_guess, known.next = known.wrong_guesses, None
                raise
            known.wrong_guesses = 0
        else:
            with attempt.transaction() as transaction:
                # Another post that writes the fence now conflicts with this one. So the transactions that change the
                # fence commit one after the other, and numbers become visible in their order.
                changed = transaction.find_one_and_update(in_force(queue), growth)
                if changed is None:
                    raise StaleQueue(queue.uid)
                first = changed["next"] - many
                transaction.insert(_documents_of(changed["segment"], first, posts, uid_to_notify))
            known.posts_without_guess -= 1
            if changed["segment"] != known.segment:
                # Another process has purged the queue. The post went into the new segment.
                self._core.forget_fence(queue.uid)
        self._after_post(queue, known, first, posts)

    def _after_post(self, queue: Queue, known: KnownFence, first: int, posts: Sequence[Post]) -> None:
        """Answer each post, remember where the next one may begin, and remove expired messages now and then."""
        end = first
        for post in posts:
            post.answer = range(end, end := end + len(post.drafts))
        if known.posts_without_guess <= 0:
            known.next = end
        passed = end // EXPIRE_EVERY - first // EXPIRE_EVERY
        if passed:
            with suppress(StoreUnavailable):  # The posts are stored. A sweep does the same.
                self._core.housekeeping.remove_expired(
                    queue.uid,
                    known.segment,
                    posts[0].now,
                    limit=min(1000, 2 * EXPIRE_EVERY * passed),
                    seconds=BRIEF_SECONDS,
                )

    # -- reading -----------------------------------------------------------------------------------------------------

    def list_after(
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
        other_states = [CLAIMED] * include_claimed + [DELAYED] * include_delayed

        def page(segment: ObjectId, begin: int) -> list[list[Document]]:
            wanted = messages_in_order(segment, other_states, ready_from=max(after + 1, begin), after=after, now=now)
            if exclude_client is not None:
                wanted = {"$and": [wanted, {Field.CLIENT: {"$ne": exclude_client}}]}
            return [[{"$match": wanted}, {"$sort": {Field.SEQUENCE: 1}}, {"$limit": limit}]]

        look = self._core.retry(lambda attempt: self._core.look_in_order(attempt, queue, now, page, expect=limit))
        listed = messages_of(queue.uid, look.documents, now)
        if after < look.fence["ready_from"] and not other_states:
            self._core.note_first_ready(look.fence, listed[0].sequence if listed else look.fence["next"], now)
        return listed

    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        def read(attempt: Attempt) -> list[Message]:
            known = self._core.known_fence(attempt, queue)
            keys = [message_key(known.segment, sequence) for sequence in sequences]
            part = [{"$match": {"_id": {"$in": keys}, Field.EXPIRES: {"$gt": now}}}]
            look = self._core.look(attempt, queue, known, [part], expect=len(keys))
            return messages_of(queue.uid, look.documents, now)

        return self._core.retry(read)

    # -- removing ----------------------------------------------------------------------------------------------------

    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        def delete_one(attempt: Attempt) -> None:
            known = self._core.known_fence(attempt, queue)
            this: Document = {"_id": message_key(known.segment, sequence), Field.EXPIRES: {"$gt": now}}
            # Nearly every message that is deleted exists and may be deleted. One command does that. If it does not
            # match, a second transaction finds out why.
            if claim_id is None:
                this[Field.STATE], counted = READY, count(known.segment, ready=-1)
            else:
                this |= {Field.STATE: CLAIMED, Field.CLAIM: claim_id, Field.DUE: {"$gt": now}}
                counted = count(known.segment, claimed=-1)
            changes = [check_fence(queue, known.segment), delete(known.segment, this, many=False), counted]
            with suppress(TransactionConflict):
                attempt.update(changes, expect=3)
                self._core.note_deleted(known, 1)
                return
            self._examine_and_delete(attempt, queue, sequence, claim_id, now)
            self._core.note_deleted(known, 1)

        self._core.retry(delete_one)

    def _examine_and_delete(
        self, attempt: Attempt, queue: Queue, sequence: int, claim_id: str | None, now: float
    ) -> None:
        """Delete a message if the rules allow it. Absent ones are no error."""
        try:
            with attempt.transaction() as transaction:
                segment = segment_in(transaction, queue)
                found = transaction.find_one({"_id": message_key(segment, sequence), Field.EXPIRES: {"$gt": now}})
                if found is None:
                    transaction.reads_only = True
                    return
                message = message_of(queue.uid, found, now)
                if claim_id is not None and message.claim_id != claim_id:
                    _refuse(transaction, segment, claim_id, message, now)
                if claim_id is None and message.claim_id is not None:
                    raise Forbidden("The message is claimed.")
                _delete(transaction, segment, [found])
        except TransactionConflict:
            self._core.forget_fence(queue.uid)
            raise

    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        wanted = sorted(set(sequences))

        def delete_all(attempt: Attempt) -> None:
            known = self._core.known_fence(attempt, queue)
            if claim_ids is not None and wanted:
                keys = [message_key(known.segment, sequence) for sequence in wanted]
                held: Document = {"_id": {"$in": keys}, Field.STATE: CLAIMED, Field.CLAIM: {"$in": list(claim_ids)}}
                held |= {Field.DUE: {"$gt": now}, Field.EXPIRES: {"$gt": now}}
                counted = count(known.segment, claimed=-len(keys))
                with suppress(TransactionConflict):
                    changes = [check_fence(queue, known.segment), delete(known.segment, held), counted]
                    attempt.update(changes, expect=2 + len(keys))
                    self._core.note_deleted(known, len(keys))
                    return
            self._core.note_deleted(known, self._examine_and_delete_many(attempt, queue, wanted, claim_ids, now))

        self._core.retry(delete_all)

    def _examine_and_delete_many(
        self, attempt: Attempt, queue: Queue, wanted: Sequence[int], claim_ids: Collection[str] | None, now: float
    ) -> int:
        """Delete the messages that exist, if the rules allow it; return how many."""
        try:
            with attempt.transaction() as transaction:
                segment = segment_in(transaction, queue)
                keys = [message_key(segment, sequence) for sequence in wanted]
                exist = {"_id": {"$in": keys}, Field.EXPIRES: {"$gt": now}}
                found = transaction.find(exist, fields=[Field.STATE, Field.CLAIM, Field.DUE])
                if claim_ids is not None and not all(_is_held(each, claim_ids, now) for each in found):
                    raise ClaimOver("A message is not held by one of the claims.")
                if found:
                    _delete(transaction, segment, found)
                else:
                    transaction.reads_only = True
                return len(found)
        except TransactionConflict:
            self._core.forget_fence(queue.uid)
            raise

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        return self._first_free.pop(queue=queue, limit=limit, now=now)


def _documents_of(segment: ObjectId, first: int, posts: Sequence[Post], uid_to_notify: str | None) -> list[Document]:
    """The messages of the posts, and with ``uid_to_notify``, the uid of their queue, a post for the outbox of each."""
    documents: list[Document] = []
    for post in posts:
        now = post.now
        if uid_to_notify is not None:
            documents += posted_documents(
                uid_to_notify, first, post.drafts, post.client_id, now, request_id=post.request_id
            )
        for sequence, draft in enumerate(post.drafts, first):
            message = Message(
                "",
                sequence,
                draft.body,
                now,
                now + draft.ttl,
                post.client_id,
                checksum=draft.checksum,
                trace=draft.trace,
            )
            document = document_of(segment, message)
            if draft.delay > 0:
                document |= {Field.STATE: DELAYED, Field.DUE: now + draft.delay}
            documents.append(document)
        first += len(post.drafts)
    return documents


def _is_held(document: Document, claim_ids: Collection[str], now: float) -> bool:
    return document[Field.STATE] == CLAIMED and document[Field.DUE] > now and document[Field.CLAIM] in claim_ids


def _refuse(transaction: Transaction, segment: ObjectId, claim_id: str, message: Message, now: float) -> None:
    """Say why the claim cannot delete the message, which it does not hold."""
    live = transaction.find_one({"_id": claim_key(segment, claim_id), "end": {"$gt": now}})
    if live is None or message.claim_id is None:
        raise ClaimOver("The claim is over, or the message is not claimed.")
    raise Forbidden("The message is held by another claim.")


def _delete(transaction: Transaction, segment: ObjectId, found: Sequence[Document]) -> None:
    changes = changes_of_counts(to_ready=0, leaving=[each[Field.STATE] for each in found])
    these = {"_id": {"$in": ids_of(found)}}
    transaction.update([delete(segment, these), count(segment, **changes)], expect=1 + len(found))
