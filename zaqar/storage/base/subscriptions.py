# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps subscriptions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from zaqar.model import Subscription


class SubscriptionStore(ABC):
    """Subscriptions of queues, by the queue's uid: a queue of the same name that is made later has none of them.

    A subscription whose ``expires`` is not after ``now`` is absent for every method except ``list_expired``.
    """

    @abstractmethod
    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        """Insert it unless the queue has one with that subscriber; return the one that is in place afterwards."""

    @abstractmethod
    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        """The subscription with this id, or None."""

    @abstractmethod
    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        """The one of the queue that has this subscriber."""

    @abstractmethod
    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        """At most ``limit`` of the queue with an id greater than ``after``, ordered by id."""

    @abstractmethod
    def replace(self, *, subscription: Subscription, now: float) -> bool:
        """Write it if the stored one has its id and ``version - 1``; False if not.

        Raises Conflict if another subscription of the queue has its subscriber; then nothing is written.
        """

    @abstractmethod
    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        """Remove it, also if it has expired; return whether it was there and this call removed it.

        With ``version`` one that was changed since that version stays: for a caller that decides by what it has read.
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
        """Remove all of a queue, in one step."""

    @abstractmethod
    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        """At most ``limit`` of any queue that have expired at ``now`` and are still stored. The caller deletes them."""

    @abstractmethod
    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        """Begin a pause under each of these keys, which ends at the time given, unless one of them is in a pause.

        Returns None, or the time when the last of the pauses that are in the way ends; then none has begun. Of callers
        at the same moment one succeeds. A crash in between may leave some of them begun. What is over is removed on the
        way, a bounded number of them with each call.
        """
