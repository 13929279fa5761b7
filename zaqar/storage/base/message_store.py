# SPDX-License-Identifier: Apache-2.0
"""The contract of a message store: the data plane, made of parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from zaqar.model import Swept, Volume
from zaqar.storage.base.claims import ClaimStore
from zaqar.storage.base.dead_letters import DeadLetterStore
from zaqar.storage.base.deliveries import DeliveryStore
from zaqar.storage.base.delivery_log import DeliveryLogStore
from zaqar.storage.base.messages import QueuedMessageStore
from zaqar.storage.base.outbox import OutboxStore
from zaqar.storage.base.queues import QueueStore
from zaqar.storage.base.sealed_bodies import SealedBodyStore
from zaqar.storage.base.wakeups import Wakeups


class MessageStore(ABC):
    """The data plane: messages and claims of queues, and the deliveries of notifications."""

    capabilities: ClassVar[frozenset[str]]
    """A subset of FIFO, CLAIMS, DURABILITY, AOD and HIGH_THROUGHPUT."""

    queues: QueueStore
    messages: QueuedMessageStore
    claims: ClaimStore
    dead_letters: DeadLetterStore
    outbox: OutboxStore
    deliveries: DeliveryStore
    delivery_log: DeliveryLogStore
    sealed_bodies: SealedBodyStore

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Open a store with the options of ``[drivers:message_store:<name>]``, or with the URI and options of a pool.

        Raises StartupError if the settings can never work or if the server is unfit, for example too old. Its text is
        one sentence and never shows a password. It is no error if the server does not answer, because a worker may
        start during an outage. Then operations raise StoreUnavailable until the server is back, and the driver checks
        the server at the first contact.
        """

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        """Open a store as :meth:`from_settings` does, but make and upgrade nothing in it. A check of the configuration
        calls it, and then only ``ping``, ``durability`` and ``close``.

        A driver overrides it if its ``from_settings`` makes or upgrades something.
        """
        return cls.from_settings(settings)

    @abstractmethod
    def volume(self, *, now: float) -> Volume:
        """Count the messages of all queues together, and the deliveries of all subscriptions.

        For monitoring, which asks every few seconds. So the cost may depend on the number of queues and subscriptions,
        but not on the number of messages. Each number is at most some seconds old.
        """

    @abstractmethod
    def sweep(self, *, now: float, limit: int) -> Swept:
        """Remove about ``limit`` dead records at most, and return how many. If fewer than ``limit``, there are no more.

        Dead records are: expired messages, claims and tombstones; everything that was purged; all that was dropped,
        with its posts and deliveries in any state; and settled deliveries from ``now >= keep_until`` on. No result of
        another method depends on a sweep.
        """

    def wakeups(self) -> Wakeups | None:
        """Open a connection that reports posts and releases in queues whose ``positions`` a process has asked for.

        None if the store cannot do that, or if the option for it is off. Raises StoreUnavailable.
        """
        return None

    def connections(self) -> Mapping[str, int]:
        """The connections of this process to the store: how many are ``used`` and ``idle``, and the limit ``max``.

        Without ``max`` if there is no limit. Empty if the driver has no pool of connections. Asks no server.
        """
        return {}

    @abstractmethod
    def durability(self) -> Mapping[str, str]:
        """Which faults an acknowledged message survives with the present set-up, for the health report and the log.

        The keys are names of faults, such as "power cut". The key ``warning``, if it is there, names an unsafe setting.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers. Raises StoreUnavailable if it does not."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. Operations that run in other threads may fail."""
