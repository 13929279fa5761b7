# SPDX-License-Identifier: Apache-2.0
"""The documents of deliveries, in a collection of their own, and from documents to deliveries.

The ``_id`` is ``uid/subscription/number``. ``due`` is there while the delivery is WAITING, and ``was_due`` when it is
settled, so that the index of what may be taken has no other. A lease is an ``owner`` with a ``due`` in the future;
``token`` is of the call that made the lease (see ``leases``).
"""

from __future__ import annotations

from typing import Final

from zaqar.model import WAITING, Attempt, Delivery
from zaqar.storage.mongodb.client.connection import Document, Index
from zaqar.storage.mongodb.tombstones import name_of

DELIVERIES: Final = "deliveries"

DELIVERY_INDEXES: Final = (
    # What may be taken, by subscription. The index alone answers which.
    Index("waiting", ("subscription", "due", "queue", "number"), "due"),
    # The log of a subscription, by state.
    Index("log", ("queue", "subscription", "state", "number"), "state"),
    # The oldest that is waiting.
    Index("age", ("created",), "due"),
    # What a sweep removes.
    Index("keep", ("keep_until",), "keep_until"),
)


def delivery_id(queue_uid: str, subscription_id: str, number: int) -> str:
    return f"{name_of(queue_uid, subscription_id)}/{number:012x}"


def delivery_document(delivery: Delivery) -> Document:
    """A delivery as it is stored. A field that would be None is absent."""
    document: Document = {
        "_id": delivery_id(*delivery.key),
        "queue": delivery.queue_uid,
        "subscription": delivery.subscription_id,
        "number": delivery.number,
        "body": delivery.body,
        "ttl": delivery.ttl,
        "created": delivery.created,
        "client": delivery.client_id,
        "kind": delivery.kind,
        "trace": delivery.trace,
        "request": delivery.request_id or None,
        "owner": delivery.owner,
        **_outcome(delivery),
    }
    return {name: value for name, value in document.items() if value is not None}


def settlement(delivery: Delivery) -> Document:
    """The update that writes what has become of a delivery, and ends its lease."""
    outcome = {**_outcome(delivery), "owner": None, "token": None}
    return {
        "$set": {name: value for name, value in outcome.items() if value is not None},
        "$unset": {name: "" for name, value in outcome.items() if value is None},
    }


def _outcome(delivery: Delivery) -> Document:
    """The fields that change when a delivery is settled; None if one is absent."""
    is_waiting = delivery.state == WAITING
    return {
        "state": delivery.state,
        "due": delivery.due if is_waiting else None,
        "was_due": None if is_waiting else delivery.due,
        "tries": delivery.tries,
        "attempts": [list(attempt) for attempt in delivery.attempts],
        "keep_until": delivery.keep_until,
    }


def delivery_of(document: Document) -> Delivery:
    return Delivery(
        queue_uid=document["queue"],
        subscription_id=document["subscription"],
        number=document["number"],
        body=document["body"],
        # The ttl of a confirmation may need 64 bits; pymongo returns it as Int64.
        ttl=int(document["ttl"]),
        created=document["created"],
        client_id=document["client"],
        due=document["due"] if "due" in document else document["was_due"],
        kind=document["kind"],
        owner=document.get("owner"),
        state=document["state"],
        tries=document["tries"],
        attempts=tuple(Attempt(*attempt) for attempt in document["attempts"]),
        keep_until=document.get("keep_until"),
        trace=document.get("trace"),
        request_id=document.get("request", ""),
    )
