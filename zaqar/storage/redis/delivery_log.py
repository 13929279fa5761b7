# SPDX-License-Identifier: Apache-2.0
"""The deliveries of a subscription, as users and the service see and change them, on Redis."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from zaqar.model import DEAD, WAITING, Delivery, DeliveryKey
from zaqar.storage.base import DeliveryLogStore
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.delivery_records import STATE_CODES, deliveries_of, delivery_id, encode_number

_LIST = load("delivery_log/list", idempotent=True, durable=False)
_GET = load("delivery_log/get", idempotent=True, durable=False)
_COUNT = load("delivery_log/count", idempotent=True, durable=False)
_RESEND = load("delivery_log/resend")
_DROP = load("delivery_log/drop", idempotent=True)


class RedisDeliveryLog(DeliveryLogStore):
    """Deliveries by subscription."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core

    def list_before(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        codes = b"".join(STATE_CODES.values()) if state is None else STATE_CODES[state]
        below = b"" if before is None else encode_number(before)
        reply = self._core.run_on_outbox(_LIST, queue_uid, subscription_id, below, limit, codes)
        return list(deliveries_of(queue_uid, reply))

    def get(self, *, key: DeliveryKey) -> Delivery | None:
        reply = self._core.run_on_outbox(_GET, key.queue_uid, delivery_id(key.subscription_id, key.number))
        return next(deliveries_of(key.queue_uid, reply), None)

    def count(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        states = (WAITING, DEAD)
        codes = (STATE_CODES[state] for state in states)
        counts = self._core.run_on_outbox(_COUNT, queue_uid, subscription_id, *codes)
        return dict(zip(states, counts, strict=True))

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        if numbers is None:
            return int(self._core.run_on_outbox(_RESEND, queue_uid, subscription_id, now, limit))
        chosen = (encode_number(number) for number in numbers)
        return int(self._core.run_on_outbox(_RESEND, queue_uid, subscription_id, now, b"", *chosen))

    def drop(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        if subscription_ids:
            self._core.slots.record_outbox(queue_uid)  # the tombstones are records that a sweep has to find
            self._core.run_on_outbox(_DROP, queue_uid, *subscription_ids)
