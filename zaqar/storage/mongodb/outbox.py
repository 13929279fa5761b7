# SPDX-License-Identifier: Apache-2.0
"""The outbox: posts of which a notifier has to make deliveries.

They are in the main collection (``post/<uid>/<number>``), because one command writes messages and post. The fields are
``queue``, ``first`` (the number of the first message), ``due`` (0, or the end of the lease), ``body`` (the packed post)
and ``position`` (how far the post is expanded; absent at first).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zaqar.model import NOT_EXPANDED, Delivery, Draft, Posted, PostPosition
from zaqar.storage.base import OutboxStore
from zaqar.storage.base.packed_posts import pack_posted, unpack_posted
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import ids_of, insert_if_absent
from zaqar.storage.mongodb.client.transactions import Attempt
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, delivery_document
from zaqar.storage.mongodb.documents import MESSAGES, post_id
from zaqar.storage.mongodb.leases import lease_due
from zaqar.storage.mongodb.round_robin import Found, RoundRobin
from zaqar.storage.mongodb.tombstones import TOMBSTONES, any_of, dropped_among

MAX_DOCUMENT_BYTES = 12 * 1024 * 1024
"""Bytes of bodies in one document. The server takes 16 MiB; a larger post is stored as several documents."""

_DRAFT_OVERHEAD = 400
"""Bytes that are counted for a draft besides its body."""


class MongoOutbox(OutboxStore):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._queues = RoundRobin()

    def take(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        attempt = self._core.attempt()
        shown = {"_id": 0, "queue": 1, "first": 1}

        def read_page(after: str, end: str | None, many: int) -> Found:
            which = {"queue": self._queues.between(after, end), "due": {"$lte": now}}
            order = {"queue": 1, "first": 1}
            found = attempt.read(
                lambda connection: list(
                    connection.main.latest.find(which, shown, sort=order, limit=many, batch_size=many)
                )
            )
            return [(each["queue"], post_id(each["queue"], each["first"])) for each in found]

        def without_dropped(found: Found) -> Found:
            dropped = attempt.read(lambda connection: dropped_among(connection, {queue for queue, _ in found}))
            return [each for each in found if each[0] not in dropped] if dropped else found

        taken = lease_due(
            attempt,
            MESSAGES,
            lambda: self._queues.choose(read_page, without_dropped, limit=limit, most_of_one=limit),
            {"due": until},
            now,
        )
        return [
            unpack_posted(each["body"], queue_uid=each["queue"], first=each["first"], position=_position_of(each))
            for each in taken
        ]

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        """One transaction writes the post first, then the deliveries.

        Two notifiers that expand one post at the same moment both write it. The server refuses the second one, which
        begins again and finds another position. A notifier that is killed before the commit leaves the post as it was:
        its transaction is ended, and when the lease is over another notifier makes the same deliveries, with the same
        ids. If it is killed after the commit, the deliveries are stored together with the position they lead to.

        The tombstones are read in the same transaction. A drop that commits after that moment may miss deliveries that
        are stored here, but its tombstone keeps them from being taken, and a sweep looks for them twice.
        """
        this = {"_id": post_id(posted.queue_uid, posted.first), "position": _stored_position(posted.position)}
        change: Document = (
            {"due": until} if position is None else {"due": until, "position": _stored_position(position)}
        )
        documents = {document["_id"]: document for document in map(delivery_document, deliveries)}
        subscriptions = {key: key.rpartition("/")[0] for key in documents}
        is_repeated = False

        def expand(attempt: Attempt) -> bool:
            nonlocal is_repeated
            # An insert of all is cheaper, but conflicts if one of the deliveries exists. Then the next attempt inserts
            # those that are absent.
            some_may_exist, is_repeated = is_repeated, True
            with attempt.transaction() as transaction:
                found = (
                    transaction.delete_many(this)
                    if position is None
                    else transaction.update_one(this, {"$set": change})
                )
                dropped: set[str] = set()
                if found:
                    tombstones = any_of([posted.queue_uid, *subscriptions.values()])
                    dropped.update(ids_of(transaction.on(TOMBSTONES).find(tombstones)))
                new = [document for key, document in documents.items() if subscriptions[key] not in dropped]
                if not found or posted.queue_uid in dropped:
                    transaction.reads_only = True
                elif new and some_may_exist:
                    transaction.on(DELIVERIES).update([insert_if_absent(each) for each in new], expect=len(new))
                elif new:
                    transaction.on(DELIVERIES).insert(new)
            return not transaction.reads_only

        return self._core.retry(expand)


def posted_documents(
    queue_uid: str, first: int, drafts: Sequence[Draft], client_id: str, now: float, *, request_id: str
) -> list[Document]:
    """A post as it is stored: one document, or several if it is very large. ``request_id`` is empty if it has none."""
    documents: list[Document] = []
    for part in _split_by_size(drafts):
        documents.append(
            {
                "_id": post_id(queue_uid, first),
                "queue": queue_uid,
                "first": first,
                "due": 0.0,
                "body": pack_posted(part, client_id, now, request_id),
            }
        )
        first += len(part)
    return documents


def _split_by_size(drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    begin = size = 0
    for index, draft in enumerate(drafts):
        draft_size = len(draft.body) + _DRAFT_OVERHEAD
        if index > begin and size + draft_size > MAX_DOCUMENT_BYTES:
            yield drafts[begin:index]
            begin, size = index, 0
        size += draft_size
    yield drafts[begin:]


def _stored_position(position: PostPosition) -> list[str | int] | None:
    """A position as it is stored. A new post has none, which None matches in a query."""
    return None if position == NOT_EXPANDED else list(position)


def _position_of(document: Document) -> PostPosition:
    return PostPosition(*(document.get("position") or ()))
