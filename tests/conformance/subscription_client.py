# SPDX-License-Identifier: Apache-2.0
"""The subscriptions of one queue in a management store, with a clock. Tests of subscriptions use it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from tests.clock import FakeClock
from tests.conformance.queue_client import ALL
from zaqar.model import Subscription
from zaqar.storage.base import ManagementStore


@dataclass
class SubscriptionClient:
    """The subscriptions of one queue. Its methods call the store with its uid and the time of the clock."""

    store: ManagementStore
    clock: FakeClock = field(default_factory=FakeClock)
    uid: str = field(default_factory=lambda: secrets.token_hex(12))

    def beside(self) -> SubscriptionClient:
        """Those of another queue, with the same clock."""
        return SubscriptionClient(self.store, self.clock)

    def new(self, subscriber: str, *, ttl: int = 3600, **fields: Any) -> Subscription:
        now = self.clock.now
        given = {"created": now, "expires": now + ttl, "ttl": ttl, "project": "shop", "kind": "queue", **fields}
        return Subscription(secrets.token_hex(12), self.uid, source="orders", subscriber=subscriber, **given)

    def create(self, subscriber: str, *, ttl: int = 3600, **fields: Any) -> Subscription:
        """Store a new subscription, and check that it is the one in place afterwards."""
        wanted = self.new(subscriber, ttl=ttl, **fields)
        assert self.put(wanted) == wanted
        return wanted

    def put(self, subscription: Subscription) -> Subscription:
        return self.store.subscriptions.create(subscription=subscription, now=self.clock.now)

    def get(self, subscription_id: str) -> Subscription | None:
        return self.store.subscriptions.get(queue_uid=self.uid, subscription_id=subscription_id, now=self.clock.now)

    def listing(self, after: str = "", limit: int = ALL) -> list[Subscription]:
        return self.store.subscriptions.list_after(queue_uid=self.uid, after=after, limit=limit, now=self.clock.now)

    def replace(self, subscription: Subscription) -> bool:
        return self.store.subscriptions.replace(subscription=subscription, now=self.clock.now)

    def delete(self, subscription: Subscription) -> None:
        self.store.subscriptions.delete(queue_uid=self.uid, subscription_id=subscription.id)

    def delete_as_read(self, subscription: Subscription) -> None:
        self.store.subscriptions.delete(
            queue_uid=self.uid, subscription_id=subscription.id, version=subscription.version
        )

    def delete_all(self) -> None:
        self.store.subscriptions.delete_all(queue_uid=self.uid)

    def sweep(self, limit: int = 50) -> list[Subscription]:
        """Delete what is over, of all queues, as a sweep does; what there was."""
        swept: list[Subscription] = []
        while found := self.store.subscriptions.list_expired(now=self.clock.now, limit=limit):
            assert len(found) <= limit
            assert all(each.expires <= self.clock.now for each in found), "one that is live"
            for each in found:
                self.store.subscriptions.delete(queue_uid=each.queue_uid, subscription_id=each.id)
            swept += found
            assert len(swept) < ALL, "what was deleted is found again"
        return swept
