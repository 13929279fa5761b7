# SPDX-License-Identifier: Apache-2.0
"""The control plane in the memory of one process."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import Any, Self

from zaqar.errors import Conflict
from zaqar.model import Catalog, Queue, QueueName, Subscription
from zaqar.storage.base.uncut import UncutManagementStore
from zaqar.storage.memory.nodes import MemoryNodeStore
from zaqar.storage.memory.trusts import MemoryTrustStore


class MemoryManagementStore(UncutManagementStore):
    def __init__(self) -> None:
        self._lock = RLock()
        self._queues: dict[tuple[str, str, str], Queue] = {}
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
        self._pauses: dict[str, float] = {}
        self._catalog = Catalog()
        self.trusts = MemoryTrustStore()
        self.nodes = MemoryNodeStore()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls()

    def create_queue(self, *, queue: Queue) -> Queue:
        with self._lock:
            return _copy(self._queues.setdefault(_key(queue), _copy(queue)))

    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None:
        with self._lock:
            queue = self._queues.get((project, kind, name))
            return None if queue is None else _copy(queue)

    def find_queues(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        with self._lock:
            return {address: _copy(self._queues[address]) for address in names if address in self._queues}

    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        with self._lock:
            names = self._names_after(project, kind, after)[:limit]
            return [_copy(self._queues[project, kind, name]) for name in names]

    def list_queue_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        with self._lock:
            return self._names_after(project, kind, after)[:limit]

    def count_queues(self, *, project: str, kind: str) -> int:
        with self._lock:
            return len(self._names(project, kind))

    def replace_queue(self, *, queue: Queue, replaces: int | None = None) -> bool:
        before = queue.generation - 1 if replaces is None else replaces
        with self._lock:
            old = self._queues.get(_key(queue))
            if old is None or (old.uid, old.generation) != (queue.uid, before):
                return False
            self._queues[_key(queue)] = _copy(queue)
            return True

    def delete_queue(self, *, queue: Queue) -> None:
        with self._lock:
            old = self._queues.get(_key(queue))
            if old is not None and old.uid == queue.uid:
                del self._queues[_key(queue)]

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def create_subscription(self, *, subscription: Subscription, now: float) -> Subscription:
        with self._lock:
            taken = self._with_subscriber(subscription.queue_uid, subscription.subscriber, now)
            if taken is None:
                self._subscriptions[subscription.queue_uid, subscription.id] = copy.deepcopy(subscription)
            return copy.deepcopy(taken or subscription)

    def get_subscription(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        with self._lock:
            found = self._subscriptions.get((queue_uid, subscription_id))
            return copy.deepcopy(found) if found is not None and now < found.expires else None

    def find_subscription(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        with self._lock:
            return copy.deepcopy(self._with_subscriber(queue_uid, subscriber, now))

    def list_subscriptions(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        with self._lock:
            found = sorted(self._of_queue(queue_uid, now), key=lambda subscription: subscription.id)
            return copy.deepcopy([subscription for subscription in found if subscription.id > after][:limit])

    def replace_subscription(self, *, subscription: Subscription, now: float) -> bool:
        key = subscription.queue_uid, subscription.id
        with self._lock:
            old = self._subscriptions.get(key)
            if old is None or now >= old.expires or old.version != subscription.version - 1:
                return False
            other = self._with_subscriber(subscription.queue_uid, subscription.subscriber, now)
            if other is not None and other.id != subscription.id:
                raise Conflict("The queue has another subscription with this subscriber.")
            self._subscriptions[key] = copy.deepcopy(subscription)
            return True

    def delete_subscription(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        with self._lock:
            found = self._subscriptions.get((queue_uid, subscription_id))
            if found is None or version not in (None, found.version):
                return False
            del self._subscriptions[queue_uid, subscription_id]
            return True

    def remove_subscriptions(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        with self._lock:
            for each in subscriptions:
                found = self._subscriptions.get((each.queue_uid, each.id))
                if found is not None and found.subscriber == each.subscriber:
                    del self._subscriptions[each.queue_uid, each.id]
            return [each for each in subscriptions if (each.queue_uid, each.id) not in self._subscriptions]

    def delete_subscriptions(self, *, queue_uid: str) -> None:
        with self._lock:
            for key in [key for key in self._subscriptions if key[0] == queue_uid]:
                del self._subscriptions[key]

    def expired_subscriptions(self, *, now: float, limit: int) -> list[Subscription]:
        with self._lock:
            return copy.deepcopy([each for each in self._subscriptions.values() if now >= each.expires][:limit])

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

    # -- pools and flavors -------------------------------------------------------------------------------------------

    def pool_has_queues(self, *, pool: str) -> bool:
        with self._lock:
            return any(queue.pool == pool for queue in self._queues.values())

    def get_catalog(self) -> Catalog:
        with self._lock:
            return copy.deepcopy(self._catalog)

    def replace_catalog(self, *, catalog: Catalog) -> bool:
        with self._lock:
            if self._catalog.version != catalog.version - 1:
                return False
            self._catalog = copy.deepcopy(catalog)
            return True

    def ping(self) -> None:
        return

    def close(self) -> None:
        return

    def _names_after(self, project: str, kind: str, after: str) -> list[str]:
        return sorted(name for name in self._names(project, kind) if name > after)

    def _names(self, project: str, kind: str) -> list[str]:
        return [key[2] for key in self._queues if key[:2] == (project, kind)]


def _key(queue: Queue) -> tuple[str, str, str]:
    return queue.project, queue.kind, queue.name


def _copy(queue: Queue) -> Queue:
    """A queue that shares no mutable metadata with the given one, as if it had been written and read back."""
    return replace(queue, metadata=copy.deepcopy(dict(queue.metadata)))
