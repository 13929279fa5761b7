# SPDX-License-Identifier: Apache-2.0
"""The message store of the memory driver: the reference that the other drivers are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from zaqar.model import DEAD, WAITING, Swept, Volume
from zaqar.storage.base import MessageStore
from zaqar.storage.memory.claims import MemoryClaims
from zaqar.storage.memory.data import MessageData
from zaqar.storage.memory.dead_letters import MemoryDeadLetters
from zaqar.storage.memory.deliveries import MemoryDeliveries
from zaqar.storage.memory.delivery_log import MemoryDeliveryLog
from zaqar.storage.memory.messages import MemoryMessages
from zaqar.storage.memory.outbox import MemoryOutbox
from zaqar.storage.memory.queues import MemoryQueues
from zaqar.storage.memory.sealed_bodies import MemorySealedBodies
from zaqar.storage.memory.sweep import sweep


class MemoryMessageStore(MessageStore):
    """A message store that one process has for itself. Its data are gone when the process ends."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "AOD"})

    def __init__(self) -> None:
        self.data = MessageData()
        self.queues = MemoryQueues(self.data)
        self.messages = MemoryMessages(self.data)
        self.claims = MemoryClaims(self.data)
        self.dead_letters = MemoryDeadLetters(self.data)
        self.outbox = MemoryOutbox(self.data)
        self.deliveries = MemoryDeliveries(self.data)
        self.delivery_log = MemoryDeliveryLog(self.data)
        self.sealed_bodies = MemorySealedBodies(self.data)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls()

    def volume(self, *, now: float) -> Volume:
        with self.data.lock:
            stored = [each for queue in self.data.queues.values() for each in queue.read_all(now, delayed=True)]
            messages = [message for message in stored if message.due is None]
            claimed = sum(message.claim_id is not None for message in messages)
            waiting = [each for each in self.data.deliveries.values() if each.state == WAITING]
            dead = sum(each.state == DEAD for each in self.data.deliveries.values())
            return Volume(
                free=len(messages) - claimed,
                claimed=claimed,
                delayed=len(stored) - len(messages),
                oldest=min((message.created for message in messages), default=None),
                waiting=len(waiting),
                dead=dead,
                oldest_waiting=min((delivery.created for delivery in waiting), default=None),
            )

    def sweep(self, *, now: float, limit: int) -> Swept:
        return sweep(self.data, now=now, limit=limit)

    def durability(self) -> Mapping[str, str]:
        return {"process crash": "lost", "power cut": "lost", "fail-over": "not supported"}

    def ping(self) -> None:
        return

    def close(self) -> None:
        return
