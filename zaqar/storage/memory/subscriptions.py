# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps subscriptions.

The store keeps copies and returns copies, because the options of a subscription are mutable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from threading import Lock

from zaqar.errors import Conflict
from zaqar.model import Subscription
from zaqar.storage.base import SubscriptionStore


class MemorySubscriptions(SubscriptionStore):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
        """By the uid of the queue and the id."""
        self._pauses: dict[str, float] = {}
        """The end of each pause, by its key."""

    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        with self._lock:
            taken = self._with_subscriber(subscription.queue_uid, subscription.subscriber, now)
            if taken is None:
                self._subscriptions[subscription.queue_uid, subscription.id] = deepcopy(subscription)
            return deepcopy(taken or subscription)

    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        with self._lock:
            found = self._subscriptions.get((queue_uid, subscription_id))
            return deepcopy(found) if found is not None and now < found.expires else None

    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        with self._lock:
            return deepcopy(self._with_subscriber(queue_uid, subscriber, now))

    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        with self._lock:
            found = sorted(self._of_queue(queue_uid, now), key=lambda subscription: subscription.id)
            return deepcopy([subscription for subscription in found if subscription.id > after][:limit])

    def count(self, *, queue_uid: str, now: float, most: int) -> int:
        with self._lock:
            return sum(1 for _ in islice(self._of_queue(queue_uid, now), most))

    def count_of_project(self, *, project: str, now: float, most: int) -> int:
        with self._lock:
            found = (each for each in self._subscriptions.values() if each.project == project and now < each.expires)
            return sum(1 for _ in islice(found, most))

    def replace(self, *, subscription: Subscription, now: float) -> bool:
        key = subscription.queue_uid, subscription.id
        with self._lock:
            old = self._subscriptions.get(key)
            if old is None or now >= old.expires or old.version != subscription.version - 1:
                return False
            other = self._with_subscriber(subscription.queue_uid, subscription.subscriber, now)
            if other is not None and other.id != subscription.id:
                raise Conflict("The queue has another subscription with this subscriber.")
            self._subscriptions[key] = deepcopy(subscription)
            return True

    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        with self._lock:
            found = self._subscriptions.get((queue_uid, subscription_id))
            if found is None or version not in (None, found.version):
                return False
            del self._subscriptions[queue_uid, subscription_id]
            return True

    def delete_many(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        with self._lock:
            for each in subscriptions:
                found = self._subscriptions.get((each.queue_uid, each.id))
                if found is not None and found.subscriber == each.subscriber:
                    del self._subscriptions[each.queue_uid, each.id]
            return [each for each in subscriptions if (each.queue_uid, each.id) not in self._subscriptions]

    def delete_all(self, *, queue_uid: str) -> None:
        with self._lock:
            for key in [key for key in self._subscriptions if key[0] == queue_uid]:
                del self._subscriptions[key]

    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        with self._lock:
            return deepcopy([each for each in self._subscriptions.values() if now >= each.expires][:limit])

    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        with self._lock:
            self._pauses = {key: ends for key, ends in self._pauses.items() if now < ends}
            busy = [self._pauses[key] for key in pauses if key in self._pauses]
            if busy:
                return max(busy)
            self._pauses.update(pauses)
            return None

    def _of_queue(self, queue_uid: str, now: float) -> Iterator[Subscription]:
        every = self._subscriptions.values()
        return (each for each in every if each.queue_uid == queue_uid and now < each.expires)

    def _with_subscriber(self, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        return next((each for each in self._of_queue(queue_uid, now) if each.subscriber == subscriber), None)
