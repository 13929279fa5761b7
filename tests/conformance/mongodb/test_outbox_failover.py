# SPDX-License-Identifier: Apache-2.0
"""The primary is killed while posts are stored, expanded and delivered: nothing acknowledged is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests import servers
from tests.conformance.mongodb.test_failover import kill_and_restart
from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.queue_client import at_once
from zaqar.errors import StoreUnavailable
from zaqar.storage.mongodb.store import MongoMessageStore

LANES = 2


@dataclass
class Work:
    """A queue with two subscribers, on a store that fails now and then."""

    notifier: NotifierClient
    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    delivered: dict[str, set[str]] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.orders = self.notifier.open_queue()
        self.backlogs = [SubscriptionBacklog(self.notifier, self.orders.queue.uid) for _ in range(LANES)]
        self.delivered = {backlog.subscription_id: set() for backlog in self.backlogs}

    def rounds(self) -> Iterator[int]:
        number = 0
        while not self.ended.is_set():
            yield (number := number + 1)

    def post(self, writer: int) -> None:
        for number in self.rounds():
            text = f"{writer}.{number}"
            try:
                self.orders.post(text)
            except StoreUnavailable:
                self.unknown.append(text)
            else:
                self.acknowledged.append(text)

    def notify(self, owner: str) -> None:
        for _ in self.rounds():
            try:
                if not self.notify_once(owner):
                    time.sleep(0.01)
            except StoreUnavailable:
                continue

    def notify_once(self, owner: str) -> int:
        posts = self.notifier.take_posted(owner, limit=20)
        for posted in posts:
            made = deliveries_of(posted, *(backlog.subscription_id for backlog in self.backlogs))
            self.notifier.expand(posted, made)
        taken = self.notifier.take(owner, limit=50, most_of_one=30)
        for delivery in taken:
            self.delivered[delivery.subscription_id].add(delivery.body.decode())
        self.notifier.discard(taken, owner=owner)
        return len(posts) + len(taken)

    def finish(self) -> None:
        self.notifier.clock.advance(LEASE)
        while self.notify_once("last"):
            pass


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [servers.MongoSet.step_down, kill_and_restart])
def test_a_fail_over_loses_no_notification(
    own_members: servers.MongoSet, fault: Callable[[servers.MongoSet], None]
) -> None:
    store = MongoMessageStore.from_settings({"uri": own_members.uri})
    work = Work(NotifierClient(store))

    def break_it() -> None:
        try:
            time.sleep(1)
            fault(own_members)
            before = len(work.acknowledged)
            end = time.monotonic() + 30
            while len(work.acknowledged) < before + 40:
                assert time.monotonic() < end, "the store does not recover"
                time.sleep(0.05)
        finally:
            work.ended.set()

    at_once(break_it, *(partial(work.post, n) for n in range(2)), *(partial(work.notify, f"owner-{n}") for n in "ab"))
    work.finish()
    for texts in work.delivered.values():
        assert not set(work.acknowledged) - texts, "lost"
        assert not texts - {*work.acknowledged, *work.unknown}, "never posted"
    assert work.notifier.take_posted(until=work.notifier.now) == []
    store.close()
