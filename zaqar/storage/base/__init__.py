# SPDX-License-Identifier: Apache-2.0
"""The two contracts of a store, each made of parts. The conformance suite runs every driver through all of them.

A :class:`MessageStore` and a :class:`ManagementStore` have their parts as attributes; a caller writes
``store.claims.renew(...)``.

A driver is safe to use from several threads and, if its store is shared, from several processes. It raises
:class:`~zaqar.errors.StoreUnavailable` when its store is away, within bounded time, and heals by itself.

``now`` is the caller's clock in seconds since the epoch. Timers act by it: a message is gone from ``now >= expires``, a
claim is over from ``now >= started + ttl``, a delay ends at ``created + delay``.
"""

from zaqar.storage.base.catalog import CatalogStore
from zaqar.storage.base.claims import ClaimStore
from zaqar.storage.base.dead_letters import DeadLetterStore
from zaqar.storage.base.deliveries import MOST_PASSED, DeliveryStore
from zaqar.storage.base.delivery_log import DROPPED_LIFETIME, DeliveryLogStore
from zaqar.storage.base.management_store import ManagementStore
from zaqar.storage.base.message_store import MessageStore
from zaqar.storage.base.messages import QueuedMessageStore
from zaqar.storage.base.nodes import Node, NodeStore, NodeSubscription
from zaqar.storage.base.outages import Outage
from zaqar.storage.base.outbox import PIECE_BYTES, PIECE_DELIVERIES, OutboxStore
from zaqar.storage.base.packed_posts import first_sealed, pack_letter, pack_posted, unpack_posted
from zaqar.storage.base.queue_records import QueueRecordStore
from zaqar.storage.base.queues import TOMBSTONE_LIFETIME, QueueStore
from zaqar.storage.base.sealed_bodies import DELIVERY, MESSAGE, POST, Position, SealedBody, SealedBodyStore
from zaqar.storage.base.subscriptions import SubscriptionStore
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
    "CatalogStore",
    "ClaimStore",
    "DeadLetterStore",
    "DeliveryLogStore",
    "DeliveryStore",
    "ManagementStore",
    "MessageStore",
    "Node",
    "NodeStore",
    "NodeSubscription",
    "Outage",
    "OutboxStore",
    "Position",
    "QueueRecordStore",
    "QueueStore",
    "QueuedMessageStore",
    "SealedBody",
    "SealedBodyStore",
    "SubscriptionStore",
    "TrustStore",
    "Wakeups",
    "first_sealed",
    "pack_letter",
    "pack_posted",
    "unpack_posted",
]
