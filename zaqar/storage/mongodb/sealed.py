# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies on MongoDB: messages and posts lie in one collection, deliveries in another, each walked by ``_id``.

MongoDB cannot compare the beginning of binary data, so a walk reads all bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateMany

from zaqar.model import is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, first_sealed
from zaqar.storage.mongodb.deliveries import DELIVERIES
from zaqar.storage.mongodb.documents import COLLECTION, Document
from zaqar.storage.mongodb.sweep import SweepStore
from zaqar.storage.mongodb.transactions import Turns

_WALKS = ((MESSAGE, COLLECTION, "m", "n"), (DELIVERY, DELIVERIES, "", "g"), (POST, COLLECTION, "p", "q"))
"""What lies where, and between which ids. Those of deliveries begin with a hexadecimal digit."""


class SealedBodyStore(SweepStore):
    """The part of the message store that is about sealed bodies."""

    def find_sealed_bodies(
        self, *, without: bytes, after: Position | None, limit: int
    ) -> tuple[list[SealedBody], Position | None]:
        number, last = after or (0, _WALKS[0][2])
        kind, collection, _, end = _WALKS[number]
        # A message that was deleted has no body.
        these: Document = {"_id": {"$gt": last, "$lt": end}, "b": {"$exists": True}}
        documents = Turns(self._set).look(
            lambda opened: list(
                opened.beside(collection).collection.find(
                    these, {"b": 1}, sort={"_id": 1}, limit=limit, batch_size=limit
                )
            )
        )
        found = []
        for each in documents:
            body = each["b"]
            sealed = first_sealed(body, without) if kind == POST else _wanted(body, without)
            if sealed is not None:
                found.append(SealedBody(kind, (number, each["_id"]), sealed))
        if len(documents) == limit:
            return found, (number, documents[-1]["_id"])
        following = number + 1
        return found, (following, _WALKS[following][2]) if following < len(_WALKS) else None

    def replace_bodies(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        for number, (kind, collection, _, _) in enumerate(_WALKS):
            changes = [
                UpdateMany({"_id": old.key[1], "b": old.body}, {"$set": {"b": new}})
                for old, new in replacements
                if old.key[0] == number and kind != POST
            ]
            if changes:
                replaced += self._replace(collection, changes)
        return replaced

    def _replace(self, collection: str, changes: list[UpdateMany]) -> int:
        # What took effect before an answer was lost is not found the second time, and does not count.
        return Turns(self._set).patiently(
            lambda opened: opened.beside(collection).collection.bulk_write(changes, ordered=False).modified_count
        )


def _wanted(body: bytes, without: bytes) -> bytes | None:
    return body if is_sealed(body) and not (without and body.startswith(without)) else None
