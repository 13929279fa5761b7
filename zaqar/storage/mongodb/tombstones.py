# SPDX-License-Identifier: Apache-2.0
"""Tombstones of dropped queues and subscriptions, because of which their posts and deliveries are out of reach at once.

They have a collection of their own. Its index is made in no time, however large the other collections are. The ``_id``
is the uid of a queue, or ``uid/subscription``. ``until`` is when the tombstone may be removed, and ``look`` when a
sweep looks at it: first as soon as it can (0), then once more at ``until``, because an operation that ran at the moment
of the drop may have stored something after the first look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zaqar.storage.mongodb.client.connection import Connection, Document, Index
from zaqar.storage.mongodb.client.statements import under

TOMBSTONES = "tombstones"

TOMBSTONE_INDEXES = (Index("look", ("look",), "look"),)


def name_of(queue_uid: str, subscription_id: str) -> str:
    """The name of a subscription here, which is also how the ids of its deliveries begin."""
    return f"{queue_uid}/{subscription_id}"


def tombstone(name: str, until: float) -> Document:
    return {"_id": name, "look": 0.0, "until": until}


def any_of(names: Iterable[str]) -> Document:
    """A query for the tombstones of subscriptions, or of their queues."""
    subscriptions = set(names)
    return {"_id": {"$in": [*subscriptions, *{name.partition("/")[0] for name in subscriptions}]}}


def dropped_among(connection: Connection, names: Collection[str]) -> set[str]:
    """Which of these queues or subscriptions were dropped, as the primary knows. It reads the index alone."""
    if not names:
        return set()
    found = connection[TOMBSTONES].latest.find(any_of(names), {"_id": 1}, batch_size=2 * len(names) + 1)
    tombstones = {each["_id"] for each in found}
    return {name for name in names if name in tombstones or name.partition("/")[0] in tombstones}


def deliveries_under(name: str) -> Document:
    """A query for the deliveries of a queue or a subscription, by their ids."""
    return {"_id": under(name)}
