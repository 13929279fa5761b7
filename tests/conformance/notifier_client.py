# SPDX-License-Identifier: Apache-2.0
"""The calls of a notifier to a message store, with a clock. Tests of posts and deliveries use it."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.clock import FakeClock
from tests.conformance.queue_client import ALL, QueueClient, new_queue
from zaqar.model import DEAD, DONE, WAITING, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import PIECE_DELIVERIES, MessageStore

LEASE = 6.0
KEPT = 3600.0
_LATER = 10.0**8
"""Seconds from the time of the clock after which all leases and delays of a test have ended."""


def new_subscription_id() -> str:
    return secrets.token_hex(12)


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    return [delivery.number for delivery in deliveries]


def deliveries_of(posted: Posted, *subscription_ids: str, **fields: Any) -> list[Delivery]:
    """The deliveries that a notifier makes of a post: one for each message and subscription."""
    return [
        replace(
            Delivery(
                queue_uid=posted.queue_uid,
                subscription_id=subscription_id,
                number=number,
                body=draft.body,
                ttl=draft.ttl,
                created=posted.created,
                client_id=posted.client_id,
                due=posted.created + draft.delay,
            ),
            **fields,
        )
        for number, draft in enumerate(posted.drafts, posted.first)
        for subscription_id in subscription_ids
    ]


@dataclass
class NotifierClient:
    """Its methods call the outbox and the deliveries of the store with the time of the clock and usual defaults."""

    store: MessageStore
    clock: FakeClock = field(default_factory=FakeClock)
    queue_clients: list[QueueClient] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.clock.now

    def open_queue(self, name: str = "orders", *, notify: bool = True) -> QueueClient:
        """Open a new queue, with the clock of this notifier; ``close`` drops it."""
        orders = QueueClient(self.store, self.clock, new_queue(name, notify=notify))
        self.queue_clients.append(orders)
        return orders

    # -- posts -------------------------------------------------------------------------------------------------------

    def take_posted(self, owner: str = "me", *, limit: int = ALL, until: float | None = None) -> list[Posted]:
        end = self.now + LEASE if until is None else until
        return self.store.outbox.take(owner=owner, until=end, now=self.now, limit=limit)

    def take_all_posted(self, owner: str = "me", *, limit: int = 100) -> list[Posted]:
        """Take everything, in several calls: a store may return less than ``limit`` although there is more."""
        taken: list[Posted] = []
        while some := self.take_posted(owner, limit=limit):
            taken += some
        return taken

    def expand(
        self,
        posted: Posted,
        deliveries: Sequence[Delivery] = (),
        *,
        to: PostPosition | None = None,
        until: float | None = None,
    ) -> bool:
        """Store a piece that leads to the position ``to``; with None the post is forgotten."""
        end = self.now + LEASE if until is None else until
        return self.store.outbox.expand(posted=posted, deliveries=deliveries, position=to, until=end)

    def expand_whole(self, posted: Posted, deliveries: Sequence[Delivery]) -> None:
        """Expand the post in as many pieces as a notifier would make of these deliveries."""
        for n in range(PIECE_DELIVERIES, len(deliveries), PIECE_DELIVERIES):
            position = posted.position._replace(message=posted.position.message + 1)
            assert self.expand(posted, deliveries[n - PIECE_DELIVERIES : n], to=position)
            posted = replace(posted, position=position)
        assert self.expand(posted, deliveries[(len(deliveries) - 1) // PIECE_DELIVERIES * PIECE_DELIVERIES :])

    # -- deliveries --------------------------------------------------------------------------------------------------

    def put(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            self.store.deliveries.put(delivery=delivery)

    def take(
        self,
        owner: str = "me",
        *,
        limit: int = 1000,
        most_of_one: int = 1000,
        without: Collection[str] = (),
        until: float | None = None,
    ) -> list[Delivery]:
        end = self.now + LEASE if until is None else until
        return self.store.deliveries.take(
            owner=owner, until=end, now=self.now, limit=limit, most_of_one=most_of_one, without=without
        )

    def take_all(
        self, owner: str = "me", *, limit: int = 1000, most_of_one: int = 1000, without: Collection[str] = ()
    ) -> list[Delivery]:
        """Take everything, in several calls: a store may return less than ``limit`` although there is more."""
        taken: list[Delivery] = []
        while some := self.take(owner, limit=limit, most_of_one=most_of_one, without=without):
            taken += some
        return taken

    def extend(self, deliveries: Iterable[Delivery], until: float, owner: str = "me") -> None:
        self.store.deliveries.extend_leases(owner=owner, keys=[delivery.key for delivery in deliveries], until=until)

    def advance(self, one: Delivery, dues: Mapping[int, tuple[float, float]]) -> int:
        """Make deliveries of the subscription of ``one`` due earlier."""
        of_one = {"queue_uid": one.queue_uid, "subscription_id": one.subscription_id}
        return self.store.deliveries.make_due_earlier(**of_one, dues=dues)

    def settle(self, *settled: Delivery, owner: str = "me") -> None:
        self.store.deliveries.settle(owner=owner, settled=settled, now=self.now)

    def settle_as(self, state: str, deliveries: Iterable[Delivery], *, owner: str = "me", kept: float = KEPT) -> None:
        """Settle each as DONE or DEAD; the store keeps it for ``kept`` seconds."""
        end = self.now + kept
        self.settle(*(replace(each, state=state, due=self.now, keep_until=end) for each in deliveries), owner=owner)

    def retry_at(self, due: float, deliveries: Iterable[Delivery], *, owner: str = "me") -> None:
        self.settle(*(replace(each, state=WAITING, due=due, tries=each.tries + 1) for each in deliveries), owner=owner)

    def discard(self, deliveries: Iterable[Delivery], *, owner: str = "me") -> None:
        """Settle each so that nothing is kept, as a notifier does if the subscription is gone."""
        self.settle(*(replace(each, state=DONE, keep_until=None) for each in deliveries), owner=owner)

    def get(self, key: DeliveryKey) -> Delivery | None:
        return self.store.delivery_log.get(key=key)

    def drain(self) -> None:
        """Expand all posts and settle all deliveries: all tests share the store."""
        later = self.now + _LATER
        while posts := self.store.outbox.take(owner="drain", until=later + 1, now=later, limit=1000):
            for posted in posts:
                self.expand(posted)
        while found := self.store.deliveries.take(
            owner="drain", until=later + 1, now=later, limit=1000, most_of_one=1000, without=()
        ):
            self.discard(found, owner="drain")

    def close(self) -> None:
        self.drain()
        for orders in self.queue_clients:
            orders.drop()


@dataclass
class SubscriptionBacklog:
    """The deliveries of one subscription. No queue and no subscription with these ids has to exist in a store."""

    notifier: NotifierClient
    queue_uid: str = field(default_factory=lambda: secrets.token_hex(12))
    subscription_id: str = field(default_factory=new_subscription_id)

    def beside(self) -> SubscriptionBacklog:
        """Another subscription of the same queue."""
        return SubscriptionBacklog(self.notifier, self.queue_uid)

    def new(self, number: int, *, due: float | None = None, **fields: Any) -> Delivery:
        now = self.notifier.now
        given = {"body": b'{"n": %d}' % number, "ttl": 3600, "created": now, "client_id": "producer", **fields}
        return Delivery(self.queue_uid, self.subscription_id, number, due=now if due is None else due, **given)

    def fill(self, count: int, *, first: int = 1, **fields: Any) -> list[Delivery]:
        """Store ``count`` deliveries with numbers from ``first`` on; the smaller the number, the longer it is due."""
        now = self.notifier.now
        made = [self.new(n, due=now - 1 + (n - first) / 2**14, **fields) for n in range(first, first + count)]
        self.notifier.put(*made)
        return made

    def key(self, number: int) -> DeliveryKey:
        return DeliveryKey(self.queue_uid, self.subscription_id, number)

    def get(self, number: int) -> Delivery | None:
        return self.notifier.get(self.key(number))

    def listing(self, state: str | None = None, *, before: int | None = None, limit: int = ALL) -> list[Delivery]:
        return self.notifier.store.delivery_log.list_before(
            queue_uid=self.queue_uid, subscription_id=self.subscription_id, state=state, before=before, limit=limit
        )

    def counts(self) -> tuple[int, int]:
        """How many are waiting and how many dead."""
        counts = self.notifier.store.delivery_log.count(queue_uid=self.queue_uid, subscription_id=self.subscription_id)
        return counts.get(WAITING, 0), counts.get(DEAD, 0)

    def resend(self, *numbers: int) -> int:
        return self._resend(numbers, limit=ALL)

    def resend_dead(self, limit: int = ALL) -> int:
        return self._resend(None, limit)

    def _resend(self, numbers: Collection[int] | None, limit: int) -> int:
        return self.notifier.store.delivery_log.resend(
            queue_uid=self.queue_uid,
            subscription_id=self.subscription_id,
            numbers=numbers,
            now=self.notifier.now,
            limit=limit,
        )
