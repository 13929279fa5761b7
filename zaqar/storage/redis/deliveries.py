# SPDX-License-Identifier: Apache-2.0
"""Deliveries that notifiers lease, send and settle, on Redis. Those of a queue lie in one slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from zaqar.model import Delivery, DeliveryKey
from zaqar.storage.base import MOST_PASSED, DeliveryStore
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.delivery_records import deliveries_of, delivery_id, encode_number, row_of, state_of
from zaqar.storage.redis.keys import DUE, TURNS
from zaqar.storage.redis.queue_rotation import QUEUES_AT_ONCE, QueueRotation

_PUT = load("deliveries/put", idempotent=True)
# A lease that is lost with a server means that another notifier sends as well, so it does not wait for replicas.
_TAKE = load("deliveries/take", durable=False)
_EXTEND = load("deliveries/extend_leases", idempotent=True, durable=False)
_MAKE_DUE_EARLIER = load("deliveries/make_due_earlier", idempotent=True)
_SETTLE = load("deliveries/settle", idempotent=True)
_HAS_UNDELIVERED_BEFORE = load("deliveries/has_undelivered_before", idempotent=True, durable=False)

_SETTLED_AT_ONCE = 500
"""Number of deliveries that one script settles; a server runs nothing else meanwhile."""


class RedisDeliveries(DeliveryStore):
    """Deliveries on their way to subscribers."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core
        self._rotation = QueueRotation(core, (DUE, TURNS))

    def put(self, *, delivery: Delivery) -> None:
        self._core.slots.record_outbox(delivery.queue_uid)
        self._core.run_on_outbox(_PUT, delivery.queue_uid, *row_of(delivery))

    def take(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        taken: list[Delivery] = []
        seen: set[str] = set()
        size = min(limit, QUEUES_AT_ONCE)
        # Each queue is asked once. If its lists had more queues than a page, the next page is read: the queues that
        # were served stand at its end.
        while True:
            queues = self._rotation.queues(now, size)
            unseen = [each for each in queues if each[1] not in seen]
            for place, uid in unseen:
                left = limit - len(taken)
                share = min(most_of_one, left)
                reply = self._core.run_on_outbox(_TAKE, uid, now, owner, until, left, share, *without)
                taken += deliveries_of(uid, reply)
                seen.add(uid)
                self._rotation.last = place
                if len(taken) >= limit or len(seen) >= QUEUES_AT_ONCE:
                    return taken
            if not unseen or len(queues) < size:
                return taken

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        of_queue: dict[str, list[Argument]] = defaultdict(list)
        for key in keys:
            of_queue[key.queue_uid].append(delivery_id(key.subscription_id, key.number))
        for uid, ids in of_queue.items():
            self._core.run_on_outbox(_EXTEND, uid, owner, until, *ids)

    def make_due_earlier(self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]) -> int:
        arguments: list[Argument] = []
        for number, (before, due) in dues.items():
            arguments += (delivery_id(subscription_id, number), before, due)
        return int(self._core.run_on_outbox(_MAKE_DUE_EARLIER, queue_uid, *arguments)) if arguments else 0

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        of_queue: dict[str, list[Argument]] = defaultdict(list)
        for delivery in settled:
            id_ = delivery_id(delivery.subscription_id, delivery.number)
            of_queue[delivery.queue_uid] += (id_, state_of(delivery, owner=None))
        for uid, arguments in of_queue.items():
            for start in range(0, len(arguments), 2 * _SETTLED_AT_ONCE):
                some = arguments[start : start + 2 * _SETTLED_AT_ONCE]
                self._core.run_on_outbox(_SETTLE, uid, owner, now, *some)

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        before = b"" if due_before is None else due_before
        arguments = (subscription_id, number, encode_number(number), MOST_PASSED, before)
        return bool(self._core.run_on_outbox(_HAS_UNDELIVERED_BEFORE, queue_uid, *arguments))
