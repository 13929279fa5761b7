# SPDX-License-Identifier: Apache-2.0
"""Subscriptions and queues as the management store has them, for a process that asks for the same ones all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

from zaqar.clock import CLOCKS_APART, Clock
from zaqar.model import (
    CONFIRMED,
    NOTIFICATION,
    PENDING,
    Delivery,
    Queue,
    Subscription,
)
from zaqar.notification.calls import Calls
from zaqar.storage.base import ManagementStore

REMEMBER_SECONDS = 1.0
"""How long what was read is believed. So long may a subscriber get messages after it has been removed."""

PAGE = 500

T = TypeVar("T")


class Subscribers:
    """Every method raises StoreUnavailable where the management store does not answer."""

    def __init__(self, management: ManagementStore, calls: Calls, clock: Clock) -> None:
        self._management = management
        self._calls = calls
        self._clock = clock
        self._known = _Memory()

    async def get(
        self, queue_uid: str, subscription_id: str, *, not_before: float = float("-inf")
    ) -> Subscription | None:
        """As it was a moment ago, and not before that time of the event loop; None where it is gone or over."""
        read = partial(self._read, queue_uid, subscription_id, self._clock())
        return await self._known.get((queue_uid, subscription_id), read, not_before)

    def forget(self, subscription: Subscription) -> None:
        self._known.forget((subscription.queue_uid, subscription.id))

    async def is_gone(self, queue_uid: str, subscription_id: str) -> bool:
        """Whether it was removed, or is over by any worker's clock, so that it can never be there again."""
        read = partial(self._read, queue_uid, subscription_id, self._clock() - CLOCKS_APART)
        return await self._known.get(("gone", queue_uid, subscription_id), read) is None

    async def list_fresh(self, queue_uid: str) -> list[Subscription]:
        """All of a queue as they are now; what is remembered is not asked."""
        found: list[Subscription] = []
        began = asyncio.get_running_loop().time()
        after = ""
        while True:
            page = await self._calls.run(
                partial(
                    self._management.list_subscriptions,
                    queue_uid=queue_uid,
                    after=after,
                    limit=PAGE,
                    now=self._clock(),
                )
            )
            found += page
            if len(page) < PAGE:
                break
            after = page[-1].id
        for subscription in found:
            self._known.put((queue_uid, subscription.id), subscription, began)
        return found

    async def retry_policy(self, subscription: Subscription) -> Mapping[str, Any] | None:
        """That of the queue of a subscription."""
        address = subscription.project, subscription.kind, subscription.source
        queue: Queue | None = await self._known.get(address, partial(self._read_queue, subscription))
        if queue is None or queue.uid != subscription.queue_uid:
            return None
        policy: Mapping[str, Any] | None = queue.metadata.get("_retry_policy")
        return policy

    async def _read(self, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        return await self._calls.run(
            partial(
                self._management.get_subscription,
                queue_uid=queue_uid,
                subscription_id=subscription_id,
                now=now,
            )
        )

    async def _read_queue(self, subscription: Subscription) -> Queue | None:
        return await self._calls.run(
            partial(
                self._management.get_queue,
                project=subscription.project,
                kind=subscription.kind,
                name=subscription.source,
            )
        )


class _Memory:
    """What was read a moment ago. Those who ask at the same time share one reading, and its failure."""

    def __init__(self) -> None:
        self._readings: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}
        self._swept = 0.0

    async def get(self, key: Hashable, read: Callable[[], Awaitable[T]], not_before: float = float("-inf")) -> T:
        now = asyncio.get_running_loop().time()
        reading = self._readings.get(key)
        if reading is None or reading[0] < max(now - REMEMBER_SECONDS, not_before) or _failed(reading[1]):
            self._sweep(now)
            reading = (now, asyncio.ensure_future(read()))
            self._readings[key] = reading
        # One that is cancelled must not take the reading away from the others.
        found: T = await asyncio.shield(reading[1])
        return found

    def put(self, key: Hashable, value: object, began: float) -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result(value)
        self._readings[key] = (began, future)

    def forget(self, key: Hashable) -> None:
        self._readings.pop(key, None)

    def _sweep(self, now: float) -> None:
        if now < self._swept + REMEMBER_SECONDS:
            return
        self._swept = now
        self._readings = {
            key: reading for key, reading in self._readings.items() if now < reading[0] + REMEMBER_SECONDS
        }


def _failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def wants(subscription: Subscription | None, delivery: Delivery, *, require_confirmation: bool) -> bool:
    """Whether the subscriber is to get this delivery, as the subscription is now."""
    if subscription is None:
        return False
    if delivery.kind == NOTIFICATION:
        return gets_messages(subscription, require_confirmation=require_confirmation)
    # The answer to a confirmation may have come by another one before this was sent.
    return subscription.state != CONFIRMED


def gets_messages(subscription: Subscription, *, require_confirmation: bool) -> bool:
    return subscription.state == CONFIRMED or (subscription.state == PENDING and not require_confirmation)
