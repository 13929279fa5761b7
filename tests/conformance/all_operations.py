# SPDX-License-Identifier: Apache-2.0
"""Every operation of a store once, for tests that reach a store in another way: another server, TLS, a user with few
rights, a proxy. Each command that a driver sends is in it."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace

import pytest

from tests.conformance.notifier_client import KEPT, NotifierClient, SubscriptionBacklog, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, bodies, new_queue
from tests.conformance.subscription_client import SubscriptionClient
from tests.conformance.test_dropped_subscriptions import drop_backlogs
from zaqar.errors import StoreUnavailable
from zaqar.model import DEAD, WAITING, Trust
from zaqar.storage.base import ManagementStore, MessageStore, Node, NodeSubscription


def assert_all_operations_work(store: MessageStore) -> None:
    """Call every operation of a message store."""
    orders = QueueClient(store)
    dead_letters = orders.beside()
    orders.post("a", "b", "c", delay=30)
    orders.post("d", "e", ttl=60)
    orders.clock.advance(60)
    held, taken = orders.claim(2)
    assert bodies(taken) == ["a", "b"]
    orders.renew(held)
    orders.delete(1, held)
    orders.release(held)
    assert orders.stats().free == 2
    moved = store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=1, now=orders.now)
    store.dead_letters.forget(queue=orders.queue, sequences=[moved[0].sequence], now=orders.now)
    orders.purge()
    store.volume(now=orders.now)
    store.sweep(now=orders.now, limit=100)
    store.ping()
    assert store.durability()
    assert store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    for each in (orders, dead_letters):
        each.drop()
    _assert_notifications_work(store)


def assert_wakeups_work(store: MessageStore) -> None:
    """A post wakes a process that waits, and closing ends a wait."""
    orders = QueueClient(store)
    wakeups = store.wakeups()
    assert wakeups is not None
    orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    orders.post("f")
    assert wakeups.receive(20) == [orders.queue.uid]
    closing = threading.Timer(0.05, wakeups.close)
    closing.start()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(20)
    closing.join()
    orders.drop()


def _assert_notifications_work(store: MessageStore) -> None:
    notifier = NotifierClient(store)
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    orders.post("a", "b", "c")
    (posted,) = notifier.take_posted()
    notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
    notifier.put(backlog.new(0))
    taken = notifier.take()
    notifier.extend(taken, notifier.now + 60)
    notifier.settle_as(DEAD, taken)
    assert backlog.counts() == (0, 4)
    assert backlog.resend_dead(1) == backlog.resend(3) == 1
    assert numbers(backlog.listing(WAITING)) == [3, 0]
    assert backlog.get(1) is not None
    notifier.clock.advance(KEPT)
    assert store.sweep(now=notifier.now, limit=100).removed >= 2
    drop_backlogs(backlog)
    assert store.sweep(now=notifier.now, limit=100).removed >= 2
    notifier.close()


def assert_all_management_operations_work(management: ManagementStore) -> None:
    """Call every operation of a management store."""
    queue = new_queue()
    management.queue_records.create(queue=queue)
    listed = management.queue_records.list_after(project="shop", kind="queue", after="", limit=9)
    assert [each.uid for each in listed] == [queue.uid]
    management.queue_records.delete(queue=queue)
    catalog = management.catalog.get()
    assert management.catalog.replace(catalog=replace(catalog, version=catalog.version + 1))
    subscribers = SubscriptionClient(management)
    first = subscribers.create("http://a.example")
    assert subscribers.replace(replace(first, version=2, expires=first.expires + 60))
    assert len(subscribers.listing()) == 1
    subscribers.delete(first)
    subscribers.create("http://b.example", ttl=1)
    subscribers.clock.advance(1)
    assert len(subscribers.sweep()) == 1
    subscribers.delete_all()
    now = subscribers.clock.now
    trust = Trust(secrets.token_hex(16), "shop", "ann", queue.uid, "s", expires=now + 9, due=now, attached=True)
    management.trusts.put(trust=trust)
    assert trust in management.trusts.list_due(now=now, limit=99)
    management.trusts.forget(trust_id=trust.id)
    node = Node(secrets.token_hex(16), "m1", "10.0.0.1", 9002, "/run/a.sock", expires=now, key=b"k" * 32)
    management.nodes.add(node=node)
    management.nodes.note(node_id=node.id, subscription=NodeSubscription(queue.uid, "s"))
    assert management.nodes.renew(node_id=node.id, expires=now)
    assert len(management.nodes.list_subscriptions(node_id=node.id, limit=9)) == 1
    assert management.nodes.condemn(node_id=node.id, now=now)
    management.nodes.remove(node_id=node.id)
    management.ping()
