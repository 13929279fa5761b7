# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of a message store that leases messages to claims. ``service.claims`` calls it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue


class ClaimStore(ABC):
    """Claims: leases of messages. Each method checks the fence and raises StaleQueue; see ``QueueStore``."""

    @abstractmethod
    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        """Lease the first ``limit`` free messages to ``claim`` and return them.

        ``claim`` has a new id, and ``started`` is ``now``. If nothing is free, the result is empty and no claim is
        stored. The claim count of each message grows by one. A message that would expire before the end of the claim
        plus its grace lives until then.

        Messages that were claimed ``dead_letters.max_claim_count`` times before are exhausted. They are not leased but
        moved to the end of ``dead_letters.queue``, which is another queue, with their origin, each exactly once. That
        happens in the same atomic step, or in steps before it if they are very many or if the two queues cannot change
        together. So StaleQueue may be about either queue. If that queue has ``notify`` set, each moved message gets a
        Posted. If ``dead_letters.queue`` is None, exhausted messages stay where they are and are passed over.
        The result counts the moved messages. A step that was repeated because its answer was lost may not be counted.
        """

    @abstractmethod
    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        """A live claim and the messages that it still holds. Raises NotFound if there is no such claim."""

    @abstractmethod
    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        """Start a live claim anew at ``now``. Raises NotFound if it is not live.

        ``ttl`` and ``grace`` are in seconds; None keeps the claim's own value.
        """

    @abstractmethod
    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        """End a claim; its messages are free at once. An absent claim is no error."""
