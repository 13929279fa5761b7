# SPDX-License-Identifier: Apache-2.0
"""Leases of posts and of deliveries: the outbox and the deliveries take what is due in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bson import ObjectId

from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.transactions import Attempt

MAX_LOOKS = 3
"""How often one call looks for what is due, if others were faster to lease all that it had found."""


def lease_due(
    attempt: Attempt, collection: str, choose: Callable[[], Sequence[str]], change: Document, now: float
) -> list[Document]:
    """Choose ids of documents that are due, and lease them by writing ``change``. Return those that were leased."""
    taken: list[Document] = []
    for _ in range(MAX_LOOKS):
        chosen = choose()
        taken = _lease(attempt, collection, chosen, change, now)
        if taken or not chosen:
            break
    return taken


def _lease(attempt: Attempt, collection: str, ids: Sequence[str], change: Document, now: float) -> list[Document]:
    """Lease those of the documents that are still due; return them in the order of the ids.

    One update writes a token that no other call has, into each document that is still due at that moment. A document
    that has the token afterwards was leased by this call and by no other. If the process is killed before it reads them
    back, the leases run out like any others. If the update is repeated because its answer was lost, it finds none due,
    and the token shows what the first one has leased.
    """
    if not ids:
        return []
    token = ObjectId()
    still_due = {"_id": {"$in": ids}, "due": {"$lte": now}}
    leased = {"$set": {**change, "token": token}}
    attempt.write(lambda connection: connection[collection].majority.update_many(still_due, leased))
    mine = {"_id": {"$in": ids}, "token": token}
    taken = attempt.read(lambda connection: list(connection[collection].majority.find(mine, batch_size=len(ids) + 1)))
    order = {id_: index for index, id_ in enumerate(ids)}
    return sorted(taken, key=lambda document: order[document["_id"]])
