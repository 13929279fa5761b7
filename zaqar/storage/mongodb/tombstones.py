# SPDX-License-Identifier: Apache-2.0
"""Tombstones of dropped queues and subscriptions, by which their posts and deliveries are out of reach at once.

They are in a collection of their own: an index of it is made in no time, however large the others are. The ``_id`` is
the uid of a queue, or ``uid/subscription``. ``until`` is when it may be forgotten, and ``look`` when a sweep looks at
it: first as soon as it can (0), then once more when it is to be forgotten, as what somebody stored at the moment of the
drop may have come after the first look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zaqar.storage.mongodb.client.connection import Opened
from zaqar.storage.mongodb.documents import Document, Index

DROPPED = "dropped"

DROPPED_INDEXES = (Index("look", ("look",), "look"),)

AFTER_SLASH = "0"
"""The character after the one that ends the parts of an id."""


def name_of(queue_uid: str, subscription_id: str) -> str:
    return f"{queue_uid}/{subscription_id}"


def tombstone(name: str, until: float) -> Document:
    return {"_id": name, "look": 0.0, "until": until}


def any_of(names: Iterable[str]) -> Document:
    """The tombstones of subscriptions, or of their queues."""
    subscriptions = set(names)
    return {"_id": {"$in": [*subscriptions, *{name.partition("/")[0] for name in subscriptions}]}}


def dropped_among(opened: Opened, names: Collection[str]) -> set[str]:
    """Which queues or subscriptions were dropped, as the primary knows; read from the index alone."""
    if not names:
        return set()
    found = opened.beside(DROPPED).latest.find(any_of(names), {"_id": 1}, batch_size=2 * len(names) + 1)
    tombstones = {each["_id"] for each in found}
    return {name for name in names if name in tombstones or name.partition("/")[0] in tombstones}


def deliveries_under(name: str) -> Document:
    """The deliveries of a queue or a subscription, by their ids."""
    return {"_id": {"$gte": f"{name}/", "$lt": f"{name}{AFTER_SLASH}"}}
