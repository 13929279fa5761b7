# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that shows, resends and drops the deliveries of a subscription."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from zaqar.model import DEAD, DONE, WAITING, Delivery, DeliveryKey
from zaqar.storage.base import DROPPED_LIFETIME, DeliveryLogStore
from zaqar.storage.memory.data import MessageData


class MemoryDeliveryLog(DeliveryLogStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def list_before(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        with self._data.lock:
            found = [
                each
                for each in self._data.deliveries_of(queue_uid, subscription_id)
                if state in (None, each.state) and (before is None or each.number < before)
            ]
            return sorted(found, key=lambda each: each.number, reverse=True)[:limit]

    def get(self, *, key: DeliveryKey) -> Delivery | None:
        with self._data.lock:
            return self._data.deliveries.get(key)

    def count(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        with self._data.lock:
            counts = Counter(each.state for each in self._data.deliveries_of(queue_uid, subscription_id))
            return {WAITING: counts[WAITING], DEAD: counts[DEAD]}

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        with self._data.lock:
            of_subscription = self._data.deliveries_of(queue_uid, subscription_id)
            if numbers is None:
                chosen = [each for each in of_subscription if each.state == DEAD][:limit]
            else:
                chosen = [each for each in of_subscription if each.state in (DONE, DEAD) and each.number in numbers]
            for each in chosen:
                again = replace(each, state=WAITING, due=now, owner=None, tries=0, keep_until=None)
                self._data.deliveries[each.key] = again
            return len(chosen)

    def drop(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        with self._data.lock:
            for subscription_id in subscription_ids:
                self._data.dropped_subscriptions[queue_uid, subscription_id] = now + DROPPED_LIFETIME
            for key in list(self._data.deliveries):
                if key.queue_uid == queue_uid and key.subscription_id in subscription_ids:
                    del self._data.deliveries[key]
