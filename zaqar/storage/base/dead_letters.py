# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of a message store that hands dead letters over to another message store.

``ClaimStore.claim`` moves dead letters between two queues of one store. If the dead letter queue is on another store,
``service.dead_letters`` moves them in three steps::

    source.set_aside --> target.receive --> source.forget

Each step is atomic and can be repeated. A process that finds messages that a killed process had set aside goes on with
the next step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from zaqar.model import Message, Queue


class DeadLetterStore(ABC):
    """Dead letters on their way to another store. Each method checks the fence and raises StaleQueue."""

    @abstractmethod
    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        """Take exhausted messages out of the queue; return all that are set aside, in order.

        A message is exhausted if it was claimed ``max_claim_count`` times or more. The driver takes out those that a
        claim of ``limit`` messages would meet, at most a batch of the driver's choice. Messages that an earlier call
        has set aside come first in the result. An empty result means that such a claim would meet none.

        A message that is set aside is durable, and is in no listing, claim or statistics. It never expires. It stays
        until ``forget``, a purge or a drop.
        """

    @abstractmethod
    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        """Append messages that were set aside in another store, with their ``origin``, each once if it comes again.

        The messages keep ``created``, ``expires``, ``client_id``, ``checksum`` and ``body``; their claim count begins
        at 0. The store remembers each ``origin.message_id`` for TOMBSTONE_LIFETIME seconds from ``now``. If
        ``queue.notify`` is set, each new message gets a Posted of its own in the same atomic step.
        """

    @abstractmethod
    def forget(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        """Remove messages that were set aside and that the other store has received. Absent ones are no error."""
