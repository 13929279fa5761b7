# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies. Messages, deliveries and posts are walked one kind after the other, each by ``_id``.

MongoDB cannot compare the beginning of binary data, so a walk reads all bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pymongo import UpdateMany

from zaqar.model import is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, SealedBodyStore, first_sealed
from zaqar.storage.mongodb.client.connection import Document
from zaqar.storage.mongodb.client.statements import under
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.delivery_documents import DELIVERIES
from zaqar.storage.mongodb.documents import MESSAGES, Field


class _Walk(NamedTuple):
    """Where the bodies of one kind are: the collection, a condition for the ids, and the field."""

    kind: str
    collection: str
    ids: Document
    field: str


_WALKS = (
    _Walk(MESSAGE, MESSAGES, under("message"), Field.BODY),
    _Walk(DELIVERY, DELIVERIES, {"$gte": ""}, "body"),
    _Walk(POST, MESSAGES, under("post"), "body"),
)


class MongoSealedBodies(SealedBodyStore):
    """A position is the index of a walk and the last id that was read. The key of a body is made in the same way."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        number, last = after or (0, None)
        walk = _WALKS[number]
        ids = walk.ids if last is None else {**walk.ids, "$gt": last}
        # A message that was deleted has no body.
        which: Document = {"_id": ids, walk.field: {"$exists": True}}
        documents = self._core.read(
            lambda connection: list(
                connection[walk.collection].majority.find(
                    which, {walk.field: 1}, sort={"_id": 1}, limit=limit, batch_size=limit
                )
            )
        )
        found = []
        for each in documents:
            body = each[walk.field]
            sealed = first_sealed(body, without) if walk.kind == POST else _if_sealed(body, without)
            if sealed is not None:
                found.append(SealedBody(walk.kind, (number, each["_id"]), sealed))
        if len(documents) == limit:
            return found, (number, documents[-1]["_id"])
        following = number + 1
        return found, (following, None) if following < len(_WALKS) else None

    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        for number, walk in enumerate(_WALKS):
            changes = [
                UpdateMany({"_id": old.key[1], walk.field: old.body}, {"$set": {walk.field: new}})
                for old, new in replacements
                if old.key[0] == number and walk.kind != POST
            ]
            if changes:
                replaced += self._write(walk.collection, changes)
        return replaced

    def _write(self, collection: str, changes: list[UpdateMany]) -> int:
        # If the answer is lost and the write is repeated, what took effect before is not found, and does not count.
        return self._core.write(
            lambda connection: connection[collection].majority.bulk_write(changes, ordered=False).modified_count
        )


def _if_sealed(body: bytes, without: bytes) -> bytes | None:
    return body if is_sealed(body) and not (without and body.startswith(without)) else None
