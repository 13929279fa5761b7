# SPDX-License-Identifier: Apache-2.0
"""The contract of storage: a message store and a management store, each made of parts.

A caller opens a :class:`MessageStore` or a :class:`ManagementStore` and calls its parts: ``store.claims.renew(...)``.
The service, the notifier and the commands call them; the packages beside this one implement them. The conformance suite
(``tests/conformance``) runs the tests of the contract on every driver.

These rules hold for every method:

- Several threads may use one store object. If the store is shared, several processes may use it too.
- If the store does not answer, the driver raises :class:`~zaqar.errors.StoreUnavailable` within bounded time. It
  connects again by itself.
- ``now`` is the clock of the caller in seconds since the epoch. A message has expired from ``now >= expires`` on, a
  claim from ``now >= started + ttl`` on, and a delay ends at ``created + delay``. No driver decides by another clock.
- A change of one queue or one record is one atomic step: a crash leaves all of it or nothing, and no other caller sees
  a part of it.
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
from zaqar.storage.base.packed_posts import first_sealed, pack_dead_letter, pack_posted, unpack_posted
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
    "pack_dead_letter",
    "pack_posted",
    "unpack_posted",
]
