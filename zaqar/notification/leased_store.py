# SPDX-License-Identifier: Apache-2.0
"""One message store as its pump sees it: calls in threads, leases of this notifier, and whether the store is away.

``Pump`` makes both objects and passes them to ``LeasedPosts`` and ``Attempts``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from zaqar.clock import Clock
from zaqar.model import WAITING, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.notification.executors import StoreExecutor, label_of
from zaqar.storage.base import MessageStore
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

LEASE_SECONDS = 6.0
"""Length of a lease. After a kill -9, other notifiers wait that long before they take the work of the process."""

EXTEND_SECONDS = 2.0
"""How often leases are extended."""

AWAY_SECONDS = 1.0
"""Pause before a step is repeated that needed a store which is away."""

_MOST_RESTORED = 20
"""Most deliveries that one ``restore_order`` reads: more than a notifier has under way for one subscription."""

_APART_SECONDS = 0.001
"""Distance between the due times that ``restore_order`` gives to two deliveries, so that their order is defined."""

T = TypeVar("T")


class StoreState:
    """Flags that the pump, the posts and the attempts of one store share. Used in one event loop only."""

    def __init__(self, label: str) -> None:
        self.label = label
        """The name of the store in the log."""
        self.woken = asyncio.Event()
        """Set if the pump may have something to do, so that it does not sleep until its next look for all work."""
        self.stopping = asyncio.Event()
        """Set once, when no further work may begin."""
        self.has_posts = False
        """The next round takes posts. Otherwise it does so only once a second."""
        self.has_deliveries = False
        """The next round takes deliveries. Otherwise it does so only once a second, or if the backlog has some."""
        self.is_away = False

    def stop(self) -> None:
        self.stopping.set()
        self.woken.set()

    def note_away(self) -> None:
        """The store, or the management store, did not answer."""
        if not self.is_away:
            self.is_away = True
            _log.warning("%s is away, or the management store is; its deliveries wait.", self.label)

    def note_back(self) -> None:
        """Everything that is asked of the store works again."""
        if self.is_away:
            self.is_away = False
            _log.warning("%s is back.", self.label)


class LeasedStore:
    """Calls of one store. The leases are those of ``owner``, and each ends LEASE_SECONDS after its call began.

    Every method raises StoreUnavailable if the store does not answer or cannot be opened.
    """

    def __init__(
        self, store_ref: StoreRef, *, owner: str, lease: float = LEASE_SECONDS, clock: Clock, threads: int
    ) -> None:
        """``lease``: seconds. ``threads``: number of calls that may be under way."""
        self._owner = owner
        self._lease = lease
        self._clock = clock
        self._executor = StoreExecutor("store", threads)
        self.store_ref = store_ref
        self.label = label_of(store_ref)

    # -- posts -------------------------------------------------------------------------------------------------------

    async def take_posted(self, limit: int) -> list[Posted]:
        now = self._clock()
        return await self._run(
            lambda store: store.outbox.take(owner=self._owner, until=now + self._lease, now=now, limit=limit)
        )

    async def expand(self, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None) -> bool:
        """Store a piece and extend the lease of the post. False if another notifier went on from the position."""
        return await self._expand(posted, deliveries, position, self._clock() + self._lease)

    async def extend_post(self, posted: Posted) -> bool:
        """Extend the lease of a post. False if its stored position is not ``posted.position``."""
        return await self._expand(posted, (), posted.position, self._clock() + self._lease)

    async def hand_back_post(self, posted: Posted, seconds: float) -> None:
        """Have the lease of a post end after that time."""
        await self._expand(posted, (), posted.position, self._clock() + seconds)

    async def _expand(
        self, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        return await self._run(
            lambda store: store.outbox.expand(posted=posted, deliveries=deliveries, position=position, until=until)
        )

    # -- deliveries --------------------------------------------------------------------------------------------------

    def leased(self, delivery: Delivery, now: float) -> Delivery:
        """Return the delivery with a lease. ``expand`` stores it."""
        return replace(delivery, owner=self._owner, due=now + self._lease)

    async def take_deliveries(self, limit: int, *, most_of_one: int, without: Collection[str]) -> list[Delivery]:
        now = self._clock()
        return await self._run(
            lambda store: store.deliveries.take(
                owner=self._owner,
                until=now + self._lease,
                now=now,
                limit=limit,
                most_of_one=most_of_one,
                without=without,
            )
        )

    async def extend_leases(self, keys: Collection[DeliveryKey]) -> None:
        until = self._clock() + self._lease
        await self._run(lambda store: store.deliveries.extend_leases(owner=self._owner, keys=keys, until=until))

    async def settle(self, settled: Sequence[Delivery]) -> None:
        now = self._clock()
        await self._run(lambda store: store.deliveries.settle(owner=self._owner, settled=settled, now=now))

    async def drop_deliveries(self, queue_uid: str, subscription_id: str) -> None:
        """Have the store remove all deliveries of a subscription that is gone."""
        now = self._clock()
        await self._run(
            lambda store: store.delivery_log.drop(queue_uid=queue_uid, subscription_ids=[subscription_id], now=now)
        )

    async def restore_order(self, later: Delivery) -> int:
        """Make earlier deliveries of the subscription due before ``later`` if they have no lease; return how many.

        Notifiers take deliveries in the order of their due times. If a delivery is retried, or its notifier was killed,
        its due time is later than that of its successors.
        """
        now = self._clock()

        def restore(store: MessageStore) -> int:
            before = store.delivery_log.list_before(
                queue_uid=later.queue_uid,
                subscription_id=later.subscription_id,
                state=WAITING,
                before=later.number,
                limit=_MOST_RESTORED,
            )
            # ``before`` starts with the greatest number, so each delivery becomes due before the one listed before
            # it. Only those that are due already are moved (``each.due <= now``): a later due time is the end of a
            # live lease or the time of a retry, and neither may be shortened.
            dues = {
                each.number: (each.due, due)
                for rank, each in enumerate(before, 1)
                if (due := later.created - rank * _APART_SECONDS) < each.due <= now
            }
            if not dues:
                return 0
            # Between these two calls another notifier may take or settle some. The store compares the due time that
            # was read here, and leaves those as they are. If this process dies in between, nothing has changed.
            return store.deliveries.make_due_earlier(
                queue_uid=later.queue_uid, subscription_id=later.subscription_id, dues=dues
            )

        return await self._run(restore)

    async def _run(self, operation: Callable[[MessageStore], T]) -> T:
        # ``store_ref.store`` may open the store, which blocks, so the thread does that as well.
        return await self._executor.run(lambda: operation(self.store_ref.store))

    def close(self) -> None:
        self._executor.close()
