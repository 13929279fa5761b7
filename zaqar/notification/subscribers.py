# SPDX-License-Identifier: Apache-2.0
"""Subscriptions and retry policies from the management store, cached for about a second.

``LeasedPosts`` reads pages of subscriptions, and ``Attempts`` the subscription of a delivery. Each says how old a
reading may be.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from zaqar.clock import MAX_CLOCK_SKEW, Clock
from zaqar.model import (
    CONFIRMED,
    NOTIFICATION,
    PENDING,
    Delivery,
    PostPosition,
    Subscription,
)
from zaqar.notification.executors import StoreExecutor
from zaqar.storage.base import ManagementStore

CACHE_SECONDS = 1.0
"""How long a reading is cached. A caller may ask for a newer one."""

MOST_BYTES = 32 * 1024 * 1024
"""Approximate memory of all cached readings."""

READ = 25
READINGS = 2
"""Number of subscriptions that one call reads for a page, and of such calls at a time.

The options of each may take 1.5 MB once they are decoded, so that the calls take 75 MB together at most.
"""

PAGE_BYTES = 512 * 1024
"""A page ends with the call that makes it larger than this: the memory of 250 common subscriptions."""

_FLAT_BYTES = 1000
"""Memory of a cached reading, besides its value."""


@dataclass(frozen=True, slots=True)
class Page:
    """Subscriptions of a queue that follow each other in the order of their ids.

    ``end``: the id up to which the page is complete. ``is_last``: the queue has no subscription behind ``end``.
    ``reduced``: ids of subscriptions of whose options only the filter was kept, which is enough to expand a post, but
    not to send anything.
    """

    subscriptions: tuple[Subscription, ...]
    end: str
    is_last: bool
    reduced: frozenset[str] = frozenset()


class Subscribers:
    """Reads subscriptions, through a cache. Methods raise StoreUnavailable if the management store does not answer."""

    def __init__(self, management: ManagementStore, executor: StoreExecutor, clock: Clock) -> None:
        self._management = management
        self._executor = executor
        self._clock = clock
        self._cache = _Cache()
        self._readings = asyncio.Semaphore(READINGS)

    async def get(
        self, queue_uid: str, subscription_id: str, *, not_before: float = float("-inf")
    ) -> Subscription | None:
        """The subscription as it was a moment ago, after ``not_before`` (event loop time); None if gone or expired."""
        read = partial(self._read, queue_uid, subscription_id, self._clock())
        found: Subscription | None = await self._cache.get((queue_uid, subscription_id), read, not_before)
        return found

    def forget(self, subscription: Subscription) -> None:
        self._cache.forget((subscription.queue_uid, subscription.id))

    async def is_gone(self, queue_uid: str, subscription_id: str) -> bool:
        """Whether it was removed, or has expired by the clock of every worker, so that it can never come back."""
        read = partial(self._read, queue_uid, subscription_id, self._clock() - MAX_CLOCK_SKEW)
        return await self._cache.get(("gone", queue_uid, subscription_id), read) is None

    async def page(self, queue_uid: str, position: PostPosition, *, most: int, not_before: float) -> Page:
        """The page for which a post is to be expanded next, read after ``not_before`` (event loop time).

        ``most``: greatest number of subscriptions in it. If a part of the page is expanded already
        (``position.through``), the new page ends at the same id, and has all of its subscriptions that still exist.
        Newer subscriptions between them are left out if there are too many: they were made after the post. The options
        in memory take at most about ``PAGE_BYTES``, plus the options of one call.
        """
        key = queue_uid, position.after, position.through, most
        read = partial(self._read_page, queue_uid, position.after, position.through, most)
        found: Page = await self._cache.get(key, read, not_before)
        return found

    async def take_pauses(self, pauses: Mapping[str, float], *, now: float) -> float | None:
        """Begin all pauses and return None; or begin none, and return the time when the last conflicting pause ends."""
        return await self._executor.run(partial(self._management.subscriptions.take_pauses, pauses=pauses, now=now))

    async def retry_policy(self, subscription: Subscription) -> Mapping[str, Any] | None:
        """The retry policy of the subscription's queue."""
        queue = subscription.project, subscription.kind, subscription.source
        uid, policy = await self._cache.get(queue, partial(self._read_policy, subscription))
        return policy if uid == subscription.queue_uid else None

    async def _read(self, queue_uid: str, subscription_id: str, now: float) -> _Weighed:
        def read() -> _Weighed:
            found = self._management.subscriptions.get(queue_uid=queue_uid, subscription_id=subscription_id, now=now)
            return _Weighed(found, 0 if found is None else bytes_of(found.options))

        return await self._executor.run(read)

    async def _read_page(self, queue_uid: str, after: str, through: str, most: int) -> _Weighed:
        """The page behind ``after``. With ``through`` it ends at that id, as the page of an earlier piece did."""
        began = asyncio.get_running_loop().time()
        found: dict[str, tuple[Subscription, int]] = {}
        reduced: set[str] = set()
        size = 0
        end, is_last, complete = after, False, False
        while not complete:
            limit = READ if through else min(READ, most - len(found))
            async with self._readings:
                some = await self._executor.run(partial(self._read_some, queue_uid, end, limit))
            is_last = len(some) < limit
            if some:
                end = some[-1][0].id
            for subscription, taken in some:
                if through and subscription.id > through:
                    is_last, complete = False, True
                    break
                if size > PAGE_BYTES and through:
                    # The page must not end earlier than before, so the rest of it is kept with the filters only.
                    subscription, taken = _only_filter(subscription)
                    reduced.add(subscription.id)
                found[subscription.id] = subscription, taken
                size += taken
            # Only a page with ``through`` can have too many: subscriptions were made between its ids since the first
            # piece. The newest are left out. They were made after the post, so they need not get it.
            while len(found) > most:
                _, newest = max((each.created, id_) for id_, (each, _) in found.items())
                size -= found.pop(newest)[1]
            complete |= is_last or (not through and (len(found) >= most or size > PAGE_BYTES))
        # Attempts of the deliveries that are made of this page begin soon, and find these subscriptions in the cache.
        for subscription, taken in found.values():
            if subscription.id not in reduced:
                self._cache.put((queue_uid, subscription.id), _Weighed(subscription, taken), began)
        subscriptions = tuple(subscription for subscription, _ in found.values())
        return _Weighed(Page(subscriptions, through or end, is_last, frozenset(reduced & found.keys())), size)

    def _read_some(self, queue_uid: str, after: str, limit: int) -> list[tuple[Subscription, int]]:
        """Subscriptions, each with its memory. This runs in a thread, because measuring large options takes long."""
        some = self._management.subscriptions.list_after(
            queue_uid=queue_uid, after=after, limit=limit, now=self._clock()
        )
        return [(each, _FLAT_BYTES + bytes_of(each.options)) for each in some]

    async def _read_policy(self, subscription: Subscription) -> _Weighed:
        def read() -> _Weighed:
            queue = self._management.queue_records.get(
                project=subscription.project, kind=subscription.kind, name=subscription.source
            )
            if queue is None:
                return _Weighed((None, None), 0)
            # The rest of the metadata is not needed, and may be large.
            policy = queue.metadata.get("_retry_policy")
            return _Weighed((queue.uid, policy), bytes_of(policy))

        return await self._executor.run(read)


def _only_filter(subscription: Subscription) -> tuple[Subscription, int]:
    options = {name: value for name, value in subscription.options.items() if name == "filter"}
    return replace(subscription, options=options), _FLAT_BYTES + bytes_of(options)


def bytes_of(value: object) -> int:
    """The memory of a JSON value."""
    size = 0
    todo = [value]
    while todo:
        each = todo.pop()
        size += sys.getsizeof(each)
        if isinstance(each, Mapping):
            todo += each.keys()
            todo += each.values()
        elif isinstance(each, list | tuple):
            todo += each
    return size


class _Weighed(NamedTuple):
    """A value that was read, and its memory."""

    value: Any
    size: int


@dataclass(slots=True, eq=False)
class _Reading:
    began: float
    outcome: asyncio.Future[_Weighed]
    size: int = _FLAT_BYTES


class _Cache:
    """Readings of the last moment. Callers that ask at the same time share one reading, and its failure.

    A timer removes old readings. If all together take more than ``MOST_BYTES``, the
    oldest are removed first.
    """

    def __init__(self) -> None:
        self._readings: OrderedDict[Hashable, _Reading] = OrderedDict()
        """Roughly in the order in which they began."""
        self.size = 0
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._readings)

    async def get(
        self, key: Hashable, read: Callable[[], Awaitable[_Weighed]], not_before: float = float("-inf")
    ) -> Any:
        now = asyncio.get_running_loop().time()
        reading = self._readings.get(key)
        if reading is None or reading.began < max(now - CACHE_SECONDS, not_before) or _failed(reading.outcome):
            reading = _Reading(now, asyncio.ensure_future(read()))
            self._keep(key, reading)
            reading.outcome.add_done_callback(partial(self._weigh, key, reading))
        # A caller that is cancelled must not cancel the reading for the others.
        return (await asyncio.shield(reading.outcome)).value

    def put(self, key: Hashable, weighed: _Weighed, began: float) -> None:
        """Cache a value that was read at ``began``, unless a later reading is cached."""
        known = self._readings.get(key)
        if known is not None and known.began > began and not _failed(known.outcome):
            return
        outcome = asyncio.get_running_loop().create_future()
        outcome.set_result(weighed)
        self._keep(key, _Reading(began, outcome, _FLAT_BYTES + weighed.size))
        self._shrink()

    def forget(self, key: Hashable) -> None:
        reading = self._readings.pop(key, None)
        if reading is not None:
            self.size -= reading.size

    def _keep(self, key: Hashable, reading: _Reading) -> None:
        self.forget(key)
        self._readings[key] = reading
        self.size += reading.size
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(CACHE_SECONDS, self._sweep)

    def _weigh(self, key: Hashable, reading: _Reading, outcome: asyncio.Future[_Weighed]) -> None:
        if self._readings.get(key) is reading and not _failed(outcome):
            reading.size += outcome.result().size
            self.size += outcome.result().size
            self._shrink()

    def _shrink(self) -> None:
        while self.size > MOST_BYTES and self._readings:
            self.forget(next(iter(self._readings)))

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        over = loop.time() - CACHE_SECONDS
        for key in [key for key, reading in self._readings.items() if reading.began <= over]:
            self.forget(key)
        self._sweeping = bool(self._readings)
        if self._sweeping:
            loop.call_later(CACHE_SECONDS, self._sweep)


def _failed(outcome: asyncio.Future[Any]) -> bool:
    return outcome.done() and (outcome.cancelled() or outcome.exception() is not None)


def wants(subscription: Subscription | None, delivery: Delivery, *, require_confirmation: bool) -> bool:
    """Whether the subscriber is to get this delivery, as the subscription is now."""
    if subscription is None:
        return False
    if delivery.kind == NOTIFICATION:
        return gets_messages(subscription, require_confirmation=require_confirmation)
    # An earlier confirmation may have been answered before this one is sent.
    return subscription.state != CONFIRMED


def gets_messages(subscription: Subscription, *, require_confirmation: bool) -> bool:
    return subscription.state == CONFIRMED or (subscription.state == PENDING and not require_confirmation)
