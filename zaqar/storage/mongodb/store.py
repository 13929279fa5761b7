# SPDX-License-Identifier: Apache-2.0
"""The message store on MongoDB, made of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from zaqar.model import Swept, Volume
from zaqar.storage.base import MessageStore, Wakeups
from zaqar.storage.mongodb.claims import MongoClaims
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.core import Core
from zaqar.storage.mongodb.dead_letters import MongoDeadLetters
from zaqar.storage.mongodb.deliveries import MongoDeliveries
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, DELIVERY_INDEXES
from zaqar.storage.mongodb.delivery_log import MongoDeliveryLog
from zaqar.storage.mongodb.documents import INDEXES, MESSAGES
from zaqar.storage.mongodb.first_free import FirstFree
from zaqar.storage.mongodb.messages import MongoMessages
from zaqar.storage.mongodb.outbox import MongoOutbox
from zaqar.storage.mongodb.queues import MongoQueues
from zaqar.storage.mongodb.sealed_bodies import MongoSealedBodies
from zaqar.storage.mongodb.sweep import Sweep
from zaqar.storage.mongodb.tombstones import TOMBSTONE_INDEXES, TOMBSTONES
from zaqar.storage.mongodb.volume import read_volume
from zaqar.storage.mongodb.wakeups import WaitedQueues

COLLECTIONS = {MESSAGES: INDEXES, DELIVERIES: DELIVERY_INDEXES, TOMBSTONES: TOMBSTONE_INDEXES}
"""The collections with their indexes, the main one first."""


class MongoMessageStore(MessageStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD"})

    def __init__(self, replica_set: ReplicaSet, *, change_stream: bool = False) -> None:
        """``change_stream``: whether clients that wait are told of messages by a change stream."""
        self.core = core = Core(replica_set)
        self._waited = WaitedQueues(replica_set, change_stream=change_stream)
        self._sweep = Sweep(core)
        first_free = FirstFree(core)
        self.queues = MongoQueues(core, self._waited)
        self.messages = MongoMessages(core, first_free)
        self.claims = MongoClaims(core, first_free)
        self.dead_letters = MongoDeadLetters(core)
        self.outbox = MongoOutbox(core)
        self.deliveries = MongoDeliveries(core)
        self.delivery_log = MongoDeliveryLog(core)
        self.sealed_bodies = MongoSealedBodies(core)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        replica_set = ReplicaSet.open(settings, COLLECTIONS)
        return cls(replica_set, change_stream=bool(settings.get("change_stream")))

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        # Without the indexes, which ReplicaSet.open would make.
        return cls(ReplicaSet.open(settings, dict.fromkeys(COLLECTIONS, ())))

    def volume(self, *, now: float) -> Volume:
        """As in the contract. Some numbers may be wrong for a while:

        - If more than ``MAX_CORRECTED`` messages of a queue are due, or have expired, and no operation and no sweep has
          met them yet, the others count as before: as delayed or claimed, or as messages.
        - ``oldest`` is that of the message with the lowest number in each queue. If its queue has live messages, an
          expired one counts until it is removed. A dead letter that keeps its time may be older than the first one.
        - At most ``MAX_COUNTED`` dead deliveries are counted. If there are more waiting ones than that, their number is
          that of all deliveries, less the dead and the done ones. So dead and done ones that were not counted are among
          them. The server knows the number of all without counting, but not exactly after a crash.
        - The deliveries of a dropped queue or subscription count until a sweep has removed them.
        """
        return read_volume(self.core, now)

    def sweep(self, *, now: float, limit: int) -> Swept:
        return self._sweep.run(now=now, limit=limit)

    def wakeups(self) -> Wakeups | None:
        return self._waited.open_stream()

    def connections(self) -> Mapping[str, int]:
        return self.core.replica_set.connections()

    def durability(self) -> Mapping[str, str]:
        return self.core.replica_set.durability()

    def ping(self) -> None:
        self.core.replica_set.ping()

    def close(self) -> None:
        self.core.replica_set.close()
