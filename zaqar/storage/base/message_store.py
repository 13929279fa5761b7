# SPDX-License-Identifier: Apache-2.0
"""The contract of a message store: the data plane, made of parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from zaqar.model import Stats
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
        """The store as the options of ``[drivers:message_store:<name>]``, or the URI of a pool, say.

        Raises StartupError, one sentence that never shows a password, if the settings can never work or if the server
        is found unfit. It is no error if the server does not answer, because a worker may start while it is away: then
        operations raise StoreUnavailable until it is back, and the driver checks the server at the first contact.
        """

    @abstractmethod
    def volume(self, *, now: float) -> Stats:
        """Free and claimed messages of all queues together, without ``oldest`` and ``newest``."""

    @abstractmethod
    def sweep(self, *, now: float, limit: int) -> int:
        """Remove about ``limit`` dead records at most; return how many. Fewer than ``limit``: there were no more.

        Dead are: what has expired, what was dropped or purged, with its posts and deliveries in any state, and a
        settled delivery from ``now >= keep_until``.
        """

    def wakeups(self) -> Wakeups | None:
        """A new connection that tells of posts to, and releases in, queues whose ``positions`` somebody asked for.

        None if the store has no such thing, or if it is not switched on. Raises StoreUnavailable.
        """
        return None

    @abstractmethod
    def durability(self) -> Mapping[str, str]:
        """What "stored" survives with this store as it is set up, for the health report and the log."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers. Raises StoreUnavailable if it does not."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. Operations that run in other threads may fail."""
