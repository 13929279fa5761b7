# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of a message store that keeps queues as a whole, and the fence of each.

The service calls it when it creates, changes, purges or deletes a queue, and for statistics. ``zaqar.waiting`` asks it
for positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from zaqar.model import Queue, QueuePosition, QueueUsage, Stats

TOMBSTONE_LIFETIME = 86_400.0
"""Seconds for which a store remembers a dropped queue. No request that still holds a copy of the queue takes longer."""


class QueueStore(ABC):
    """The fences of queues, and operations on all messages of a queue.

    A fence is the record of a queue's uid with the generation in force. A worker may act on a stale copy of the queue.
    So each operation on the queue compares ``(queue.uid, queue.generation)`` with the fence in its own atomic step, and
    raises :class:`~zaqar.errors.StaleQueue` if they differ.
    """

    @abstractmethod
    def open(self, *, queue: Queue, now: float) -> int:
        """Create the fence, or raise it to the generation of ``queue`` if it is lower; return the generation in force.

        Raises QueueDropped if the store has a tombstone for the uid.
        """

    @abstractmethod
    def drop(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        """Make all messages and claims of the queue unreachable in one step. The generation is not compared.

        The store keeps a tombstone that refuses the uid for ``remember`` seconds. To drop an unknown queue, or one that
        was dropped before, is no error.

        The same step makes all posts and deliveries of the uid unreachable, as ``delivery_log.drop`` does for a
        subscription. ``outbox.take`` and ``deliveries.take`` return none of them, and the cost of skipping them does
        not depend on their number. While the tombstone lasts, ``outbox.expand`` and ``deliveries.put`` store
        none. ``sweep`` removes them first and the tombstone after them.

        With ``remember`` 0 the store makes no tombstone and touches no delivery: for a queue that never had any.
        """

    @abstractmethod
    def purge(self, *, queue: Queue, now: float) -> None:
        """Remove all messages, including claimed and delayed ones, and all claims, in one step. Deliveries go on."""

    @abstractmethod
    def stats(self, *, queue: Queue, now: float) -> Stats:
        """Count the free and the claimed messages, and find the oldest and the newest one, all at one moment."""

    @abstractmethod
    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        """Count the messages of the queue that have not expired, claimed and delayed ones too, and their bytes.

        At most ``most`` messages are counted, so the cost is bounded. ``bytes`` are those of the stored bodies. A
        driver whose counters make a scan unnecessary may count all, and may count messages that have expired but are
        not removed yet. No generation is compared. A queue that the store does not have is empty.
        """

    @abstractmethod
    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        """The positions of queues by uid, without queues that are dropped or were never opened.

        One call to the server, or one to each server that has some of the queues, for up to 500 ``uids``. An expired
        message is not free, unless many have expired and are not removed yet: then one may count as free until the next
        claim. A message that was claimed as often as its queue allows may count as free. ``next_due`` may be that of a
        message that expires before it. The caller asks because clients wait for these queues. The store may
        remember that for some seconds, and send wake-ups for posts meanwhile. No generation is compared.
        """
