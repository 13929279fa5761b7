# SPDX-License-Identifier: Apache-2.0
"""A message store as a notifier sees it: its calls leave the event loop, and its leases are this process's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from zaqar.clock import Clock
from zaqar.model import WAITING, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.notification.calls import Calls
from zaqar.storage.base import MessageStore
from zaqar.storage.pools import StoreRef

T = TypeVar("T")

_RESTORED = 20
"""Deliveries that are looked at to restore the order of a subscription: more than a notifier has under way of one."""

_APART_SECONDS = 0.001


def label_of(store_ref: StoreRef) -> str:
    """The name of a store in the log."""
    return "The message store" if store_ref.name is None else f"The store of pool '{store_ref.name}'"


class LeasedStore:
    """Every method raises StoreUnavailable if the store does not answer or cannot be opened."""

    def __init__(self, store_ref: StoreRef, *, owner: str, lease: float, clock: Clock, threads: int) -> None:
        self._owner = owner
        self._lease = lease
        self._clock = clock
        self._calls = Calls("store", threads)
        self.store_ref = store_ref
        self.label = label_of(store_ref)

    async def take_posted(self, limit: int) -> list[Posted]:
        now = self._clock()
        return await self._ask(
            lambda store: store.outbox.take(owner=self._owner, until=now + self._lease, now=now, limit=limit)
        )

    async def expand(self, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None) -> bool:
        """Store a piece; the lease of the post goes on."""
        return await self._expand(posted, deliveries, position, self._clock() + self._lease)

    async def extend_post(self, posted: Posted) -> bool:
        """Let the lease of a post go on. False if the post is elsewhere than at this position by now."""
        return await self._expand(posted, (), posted.position, self._clock() + self._lease)

    async def hand_back_post(self, posted: Posted, seconds: float) -> None:
        """End the lease of a post after that time."""
        await self._expand(posted, (), posted.position, self._clock() + seconds)

    async def _expand(
        self, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        return await self._ask(
            lambda store: store.outbox.expand(posted=posted, deliveries=deliveries, position=position, until=until)
        )

    async def take_deliveries(self, limit: int, *, most_of_one: int, without: Collection[str]) -> list[Delivery]:
        now = self._clock()
        return await self._ask(
            lambda store: store.deliveries.take(
                owner=self._owner,
                until=now + self._lease,
                now=now,
                limit=limit,
                most_of_one=most_of_one,
                without=without,
            )
        )

    async def drop_deliveries(self, queue_uid: str, subscription_id: str) -> None:
        now = self._clock()
        await self._ask(
            lambda store: store.delivery_log.drop(queue_uid=queue_uid, subscription_ids=[subscription_id], now=now)
        )

    async def restore_order(self, later: Delivery) -> int:
        """Make earlier deliveries of the subscription due before ``later`` if they have no lease; return how many.

        Notifiers take deliveries in the order in which they became due. A delivery that is retried, or whose notifier
        was killed, became due after its successors. A delivery that another process takes or settles at this moment
        is left as it is.
        """
        now = self._clock()

        def restore(store: MessageStore) -> int:
            before = store.delivery_log.list_before(
                queue_uid=later.queue_uid,
                subscription_id=later.subscription_id,
                state=WAITING,
                before=later.number,
                limit=_RESTORED,
            )
            dues = {
                each.number: (each.due, due)
                for rank, each in enumerate(before, 1)
                if (due := later.created - rank * _APART_SECONDS) < each.due <= now
            }
            if not dues:
                return 0
            return store.deliveries.make_due_earlier(
                queue_uid=later.queue_uid, subscription_id=later.subscription_id, dues=dues
            )

        return await self._ask(restore)

    async def extend_leases(self, keys: Collection[DeliveryKey]) -> None:
        until = self._clock() + self._lease
        await self._ask(lambda store: store.deliveries.extend_leases(owner=self._owner, keys=keys, until=until))

    async def settle(self, settled: Sequence[Delivery]) -> None:
        now = self._clock()
        await self._ask(lambda store: store.deliveries.settle(owner=self._owner, settled=settled, now=now))

    async def _ask(self, operation: Callable[[MessageStore], T]) -> T:
        return await self._calls.run(lambda: operation(self.store_ref.store))

    def close(self) -> None:
        self._calls.close()
