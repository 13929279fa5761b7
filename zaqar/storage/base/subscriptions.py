# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps subscriptions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from zaqar.model import Subscription


class SubscriptionStore(ABC):
    """Subscriptions by the uid of their queue. A queue that is created later under the same name has none of them.

    A subscription with ``expires <= now`` is absent for every method that gets ``now``, except ``list_expired``.
    """

    @abstractmethod
    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        """Insert the subscription unless the queue has one with its subscriber; return the one in place afterwards."""

    @abstractmethod
    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        """The subscription with this id, or None."""

    @abstractmethod
    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        """The subscription of the queue with this subscriber, or None."""

    @abstractmethod
    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        """At most ``limit`` subscriptions of the queue with an id greater than ``after``, ordered by id."""

    @abstractmethod
    def count(self, *, queue_uid: str, now: float, most: int) -> int:
        """How many subscriptions the queue has. The count stops at ``most``, so its cost is bounded."""

    @abstractmethod
    def count_of_project(self, *, project: str, now: float, most: int) -> int:
        """How many subscriptions the queues and topics of the project have. The count stops at ``most``."""

    @abstractmethod
    def replace(self, *, subscription: Subscription, now: float) -> bool:
        """Write the subscription if the stored one has the same id and ``version - 1``; False if not.

        Raises Conflict if another subscription of the queue has its subscriber; then nothing is written.
        """

    @abstractmethod
    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        """Remove the subscription, expired or not; return whether this call removed it.

        With ``version`` a subscription that has another version stays: for a caller whose decision rests on a read.
        A step that was repeated because its answer was lost may return False although its first run removed it.
        """

    @abstractmethod
    def delete_many(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        """Remove at most 500 subscriptions, expired or not, if their stored subscribers are still the given ones.

        Other fields may have changed. Returns the subscriptions that the store does not have any more, including the
        ones that were absent before. A subscription whose subscriber has changed stays, and is not returned. Each
        removal is one atomic step; all together are not, but they take as few writes to disk as the store allows.
        """

    @abstractmethod
    def delete_all(self, *, queue_uid: str) -> None:
        """Remove all subscriptions of a queue in one step."""

    @abstractmethod
    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        """At most ``limit`` stored subscriptions of any queue that have expired at ``now``. The caller deletes them."""

    @abstractmethod
    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        """Begin a pause under each key, unless one of the keys is in a pause. ``pauses`` has the end of each pause.

        Returns None if the pauses have begun. Otherwise none has begun, and the result is the time at which the last of
        the conflicting pauses ends. Of concurrent callers one succeeds. A crash in between may leave some of the pauses
        begun. Each call removes a bounded number of pauses that have ended.
        """
