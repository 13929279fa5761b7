# SPDX-License-Identifier: Apache-2.0
"""The two contracts of a store. The conformance suite runs every driver through all of them.

A driver is safe to use from several threads and, where its store is shared, from several processes. It raises
:class:`~zaqar.errors.StoreUnavailable` when its store is away, within bounded time, and heals by itself.

``now`` is the caller's clock in seconds since the epoch. Timers act by it: a message is gone from ``now >= expires``, a
claim is over from ``now >= started + ttl``, a delay ends at ``created + delay``.
"""

from zaqar.storage.base.deliveries import (
    DROPPED_LIFETIME,
    MOST_PASSED,
    PIECE_BYTES,
    PIECE_DELIVERIES,
    DeliveryStore,
)
from zaqar.storage.base.management import ManagementStore
from zaqar.storage.base.messages import TOMBSTONE_LIFETIME, MessageStore
from zaqar.storage.base.nodes import Node, NodeStore, NodeSubscription
from zaqar.storage.base.outages import Outage
from zaqar.storage.base.posted import first_sealed, pack_letter, pack_posted, unpack_posted
from zaqar.storage.base.sealed import DELIVERY, MESSAGE, POST, Position, SealedBody
from zaqar.storage.base.trusts import TrustStore
from zaqar.storage.base.wakeups import Wakeups

__all__ = [
    "DELIVERY",
    "DROPPED_LIFETIME",
    "MESSAGE",
    "MOST_PASSED",
    "PIECE_BYTES",
    "PIECE_DELIVERIES",
    "POST",
    "TOMBSTONE_LIFETIME",
    "DeliveryStore",
    "ManagementStore",
    "MessageStore",
    "Node",
    "NodeStore",
    "NodeSubscription",
    "Outage",
    "Position",
    "SealedBody",
    "TrustStore",
    "Wakeups",
    "first_sealed",
    "pack_letter",
    "pack_posted",
    "unpack_posted",
]
