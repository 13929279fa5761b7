# SPDX-License-Identifier: Apache-2.0
"""The outbox in the memory of one process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, zip_longest
from threading import RLock
from typing import TypeVar

from zaqar.model import DEAD, DONE, WAITING, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME, MOST_PASSED
from zaqar.storage.base.uncut import UncutMessageStore

T = TypeVar("T")


@dataclass
class _Noted:
    """A post whose deliveries are not made yet, and until when somebody has it on lease."""

    posted: Posted
    due: float


class MemoryDeliveryStore(UncutMessageStore):
    def __init__(self) -> None:
        self._lock = RLock()
        self._posted: dict[tuple[str, int], _Noted] = {}
        self._deliveries: dict[DeliveryKey, Delivery] = {}
        self._tombstones: dict[str, float] = {}
        """Uids of dropped queues and until when each is remembered."""
        self._dropped: dict[tuple[str, str], float] = {}
        """The same for subscriptions, by the uid of the queue and their id."""
        self._takes = 0
        self._last_turn: dict[str, int] = {}
        """By subscription that had some due at the last take: the number of the take that gave some of it."""

    def _note_posted(self, posted: Posted) -> None:
        self._posted[posted.queue_uid, posted.first] = _Noted(posted, posted.created)

    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        with self._lock:
            of_queue: dict[str, list[_Noted]] = defaultdict(list)
            for noted in self._posted.values():
                if noted.due <= now:
                    of_queue[noted.posted.queue_uid].append(noted)
            taken = list(islice(_in_turns(of_queue.values()), limit))
            for noted in taken:
                noted.due = until
            return [noted.posted for noted in taken]

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        key = posted.queue_uid, posted.first
        with self._lock:
            noted = self._posted.get(key)
            if noted is None or noted.posted.position != posted.position:
                return False
            for delivery in deliveries:
                if not self._is_dropped(delivery):
                    self._deliveries.setdefault(delivery.key, delivery)
            if position is None:
                del self._posted[key]
            else:
                noted.posted = replace(posted, position=position)
                noted.due = until
            return True

    def put_delivery(self, *, delivery: Delivery) -> None:
        with self._lock:
            if not self._is_dropped(delivery):
                self._deliveries[delivery.key] = delivery

    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        with self._lock:
            of_subscription: dict[str, list[Delivery]] = defaultdict(list)
            for delivery in sorted(self._deliveries.values(), key=lambda each: each.due):
                if delivery.state == WAITING and delivery.due <= now and delivery.subscription_id not in without:
                    of_subscription[delivery.subscription_id].append(delivery)
            # First whose last turn is longest ago, as the longest due may be those of one that always has some.
            turns = {each: self._last_turn.get(each, 0) for each in of_subscription}
            due = _in_turns(of_subscription[each][:most_of_one] for each in sorted(turns, key=turns.__getitem__))
            taken = [replace(delivery, owner=owner, due=until) for delivery in islice(due, limit)]
            self._deliveries.update((delivery.key, delivery) for delivery in taken)
            self._takes += 1
            self._last_turn = turns | {delivery.subscription_id: self._takes for delivery in taken}
            return taken

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        with self._lock:
            for key in keys:
                delivery = self._deliveries.get(key)
                if delivery is not None and delivery.owner == owner:
                    self._deliveries[key] = replace(delivery, due=until)

    def advance_deliveries(
        self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]
    ) -> int:
        changed = 0
        with self._lock:
            for number, (before, due) in dues.items():
                key = DeliveryKey(queue_uid, subscription_id, number)
                stored = self._deliveries.get(key)
                if stored is not None and stored.state == WAITING and stored.due == before:
                    self._deliveries[key] = replace(stored, due=due, owner=None)
                    changed += 1
        return changed

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        with self._lock:
            for delivery in settled:
                stored = self._deliveries.get(delivery.key)
                if stored is None or stored.owner != owner:
                    continue
                if delivery.state != WAITING and (delivery.keep_until is None or delivery.keep_until <= now):
                    del self._deliveries[delivery.key]
                else:
                    self._deliveries[delivery.key] = replace(delivery, owner=None)

    def drop_deliveries(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        with self._lock:
            for subscription_id in subscription_ids:
                self._dropped[queue_uid, subscription_id] = now + DROPPED_LIFETIME
            self._deliveries = {
                key: delivery
                for key, delivery in self._deliveries.items()
                if key.queue_uid != queue_uid or key.subscription_id not in subscription_ids
            }

    def _drop_outbox(self, queue_uid: str) -> None:
        """Remove all posts and deliveries of a queue that now has a tombstone."""
        self._posted = {key: noted for key, noted in self._posted.items() if key[0] != queue_uid}
        self._deliveries = {key: each for key, each in self._deliveries.items() if key.queue_uid != queue_uid}

    def _is_dropped(self, delivery: Delivery) -> bool:
        lane = delivery.queue_uid, delivery.subscription_id
        return delivery.queue_uid in self._tombstones or lane in self._dropped

    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        with self._lock:
            found = [
                each
                for each in self._of_subscription(queue_uid, subscription_id)
                if state in (None, each.state) and (before is None or each.number < before)
            ]
            return sorted(found, key=lambda each: each.number, reverse=True)[:limit]

    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None:
        with self._lock:
            return self._deliveries.get(key)

    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        with self._lock:
            counts = Counter(each.state for each in self._of_subscription(queue_uid, subscription_id))
            return {WAITING: counts[WAITING], DEAD: counts[DEAD]}

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        states = (DEAD,) if numbers is None else (DONE, DEAD)
        with self._lock:
            chosen = [
                each
                for each in self._of_subscription(queue_uid, subscription_id)
                if each.state in states and (numbers is None or each.number in numbers)
            ]
            for each in chosen[: limit if numbers is None else None]:
                again = replace(each, state=WAITING, due=now, owner=None, tries=0, keep_until=None)
                self._deliveries[each.key] = again
            return len(chosen[: limit if numbers is None else None])

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        with self._lock:
            if any(uid == queue_uid and first < number for uid, first in self._posted):
                return True
            earlier = (each for each in self._of_subscription(queue_uid, subscription_id) if each.number < number)
            dues = [each.due for each in earlier if each.state == WAITING]
            passed = 0 if due_before is None else sum(due >= due_before for due in dues)
            return passed >= MOST_PASSED or passed < len(dues)

    def _of_subscription(self, queue_uid: str, subscription_id: str) -> Iterator[Delivery]:
        every = self._deliveries.values()
        return (each for each in every if each.key[:2] == (queue_uid, subscription_id))

    def _dead_deliveries(self, now: float) -> Iterator[Callable[[], object]]:
        for key, delivery in self._deliveries.items():
            if delivery.keep_until is not None and delivery.keep_until <= now:
                yield partial(self._deliveries.pop, key)
        yield from (partial(self._tombstones.pop, uid) for uid, until in self._tombstones.items() if now >= until)
        yield from (partial(self._dropped.pop, lane) for lane, until in self._dropped.items() if now >= until)


def _in_turns(rows: Iterable[Sequence[T]]) -> Iterator[T]:
    """The first of each row, then the second of each, and so on."""
    return (each for each in chain.from_iterable(zip_longest(*rows)) if each is not None)
