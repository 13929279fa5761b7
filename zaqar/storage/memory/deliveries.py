# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that leases deliveries to notifiers and keeps what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from zaqar.model import WAITING, Delivery, DeliveryKey
from zaqar.storage.base import MOST_PASSED, DeliveryStore
from zaqar.storage.memory.data import MessageData, in_turns


class MemoryDeliveries(DeliveryStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data
        self._takes = 0
        self._last_turn: dict[str, int] = {}
        """Subscriptions that had due deliveries at the last take, each with the number of the take that leased some."""

    def put(self, *, delivery: Delivery) -> None:
        with self._data.lock:
            if not self._data.is_dropped(delivery):
                self._data.deliveries[delivery.key] = delivery

    def take(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        with self._data.lock:
            of_subscription: dict[str, list[Delivery]] = defaultdict(list)
            for delivery in sorted(self._data.deliveries.values(), key=lambda each: each.due):
                if delivery.state == WAITING and delivery.due <= now and delivery.subscription_id not in without:
                    of_subscription[delivery.subscription_id].append(delivery)
            # The subscription whose last turn is longest ago comes first. To begin with the longest due delivery would
            # starve the others if one subscription always has old ones.
            turns = {each: self._last_turn.get(each, 0) for each in of_subscription}
            due = in_turns(of_subscription[each][:most_of_one] for each in sorted(turns, key=turns.__getitem__))
            taken = [replace(delivery, owner=owner, due=until) for delivery in islice(due, limit)]
            self._data.deliveries.update((delivery.key, delivery) for delivery in taken)
            self._takes += 1
            self._last_turn = turns | {delivery.subscription_id: self._takes for delivery in taken}
            return taken

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        with self._data.lock:
            for key in keys:
                stored = self._data.deliveries.get(key)
                if stored is not None and stored.owner == owner:
                    self._data.deliveries[key] = replace(stored, due=until)

    def make_due_earlier(self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]) -> int:
        changed = 0
        with self._data.lock:
            for number, (before, due) in dues.items():
                key = DeliveryKey(queue_uid, subscription_id, number)
                stored = self._data.deliveries.get(key)
                if stored is not None and stored.state == WAITING and stored.due == before:
                    self._data.deliveries[key] = replace(stored, due=due, owner=None)
                    changed += 1
        return changed

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        with self._data.lock:
            for delivery in settled:
                stored = self._data.deliveries.get(delivery.key)
                if stored is None or stored.owner != owner:
                    continue
                if delivery.state != WAITING and (delivery.keep_until is None or delivery.keep_until <= now):
                    del self._data.deliveries[delivery.key]
                else:
                    self._data.deliveries[delivery.key] = replace(delivery, owner=None)

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        with self._data.lock:
            if any(uid == queue_uid and first < number for uid, first in self._data.outbox):
                return True
            of_subscription = self._data.deliveries_of(queue_uid, subscription_id)
            dues = [each.due for each in of_subscription if each.number < number and each.state == WAITING]
            passed = 0 if due_before is None else sum(due >= due_before for due in dues)
            return passed >= MOST_PASSED or passed < len(dues)
