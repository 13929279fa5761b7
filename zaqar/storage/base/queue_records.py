# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps the records of queues.

``service.queues`` and ``service.queue_listing`` call it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from zaqar.model import Queue, QueueName


class QueueRecordStore(ABC):
    """Records of queues. A record is found by project, kind and name; it tells uid, generation, metadata and pool."""

    @abstractmethod
    def create(self, *, queue: Queue) -> Queue:
        """Insert the queue unless (project, kind, name) is taken; return the one that is in place afterwards."""

    @abstractmethod
    def get(self, *, project: str, kind: str, name: str) -> Queue | None:
        """The record, or None if there is none."""

    @abstractmethod
    def find(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        """The queues of these names that exist, in one call to the server; at most 500 ``names``."""

    @abstractmethod
    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        """At most ``limit`` queues with a name greater than ``after``, ordered by name (by code point)."""

    @abstractmethod
    def list_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        """The names of the queues that ``list_after`` would return. Their metadata are not read."""

    @abstractmethod
    def count(self, *, project: str, kind: str, most: int | None = None) -> int:
        """How many queues of the kind the project has. With ``most`` the count stops there, so its cost is bounded."""

    @abstractmethod
    def replace(self, *, queue: Queue, replaces: int | None = None) -> bool:
        """Write the queue if its uid is in place with the generation ``replaces``; False if it is not.

        Without ``replaces`` that is ``queue.generation - 1``.
        """

    @abstractmethod
    def delete(self, *, queue: Queue) -> None:
        """Remove the record if it still has this uid."""

    @abstractmethod
    def any_on_pool(self, *, pool: str) -> bool:
        """Whether a queue of any project is placed on the pool."""
