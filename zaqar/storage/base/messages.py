# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of a message store that posts, lists, reads and deletes messages.

``service.messages`` calls it. A message is known by its queue and its sequence number, which the store gives out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from zaqar.model import Draft, Message, Queue


class QueuedMessageStore(ABC):
    """The messages of queues. Each method checks the fence and raises StaleQueue; see ``QueueStore``."""

    @abstractmethod
    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        """Store all drafts or none, durably and in their order; return their sequence numbers.

        If ``queue.notify`` is set, a :class:`~zaqar.model.Posted` with ``request_id`` is stored in the same atomic
        step; see ``OutboxStore``. Otherwise the outbox costs nothing, and ``request_id`` is not stored. A draft
        without a ``trace`` takes no byte for it.
        """

    @abstractmethod
    def list_after(
        self,
        *,
        queue: Queue,
        after: int,
        limit: int,
        now: float,
        exclude_client: str | None = None,
        include_claimed: bool = False,
        include_delayed: bool = False,
    ) -> list[Message]:
        """At most ``limit`` messages with a number greater than ``after``, in order.

        The page has no messages of ``exclude_client``, and claimed and delayed messages only on request. If a message
        is delayed at ``now``, its ``due`` is the end of the delay.
        """

    @abstractmethod
    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        """The messages with these numbers that exist, in order, including claimed and delayed ones.

        ``due`` is set as in ``list_after``.
        """

    @abstractmethod
    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        """Delete one message. An absent message is no error with any claim id.

        Without ``claim_id``, raises Forbidden if the message is claimed. With ``claim_id``, raises ClaimOver if no such
        claim is live or if the message is not claimed, and Forbidden if another live claim holds the message.
        """

    @abstractmethod
    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        """Delete all these messages or none, in one step. Absent messages are no error.

        If ``claim_ids`` is None, claims do not matter. Otherwise raises ClaimOver unless each of the messages that
        exists is held by a live claim among them.
        """

    @abstractmethod
    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        """Delete the first ``limit`` free messages and return them as they were.

        Raises SealedMessages if the body of one of them begins with SEALED; then none is deleted.
        """
