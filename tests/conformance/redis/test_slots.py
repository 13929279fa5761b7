# SPDX-License-Identifier: Apache-2.0
"""The sets of used slots in a Cluster: a sweep records a slot again that a fail-over has lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import pytest

from tests import servers
from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.queue_client import QueueClient
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_faults import when_back
from tests.conformance.redis.test_round_trips import clients
from zaqar.errors import StoreUnavailable
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.keys import OUTBOX_SLOTS, SLOTS, SLOTS_IN_USE, slot_of
from zaqar.storage.redis.store import RedisMessageStore


@pytest.fixture
def store(open_store: OpenStore) -> RedisMessageStore:
    return open_store(servers.shared("redis-cluster").uri)


@pytest.fixture
def notifier(store: RedisMessageStore) -> Iterator[NotifierClient]:
    notifier = NotifierClient(store)
    notifier.drain()
    yield notifier
    notifier.close()


def ask(store: RedisMessageStore, *words: Argument) -> object:
    """Run a plain command; the second word is its key."""
    return store._core.client.command(*words, slot=slot_of(bytes(words[1])))  # type: ignore[arg-type]


def slot(orders: QueueClient) -> int:
    return slot_of(orders.queue.uid.encode())


def recorded(store: RedisMessageStore, slots: bytes) -> set[int]:
    return set(store._core.slots.recorded(slots))


def lose(store: RedisMessageStore, which: str, slots: Collection[int]) -> None:
    for each in (OUTBOX_SLOTS, SLOTS_IN_USE):
        words: tuple[Argument, ...] = (b"DEL", each) if which == "all" else (b"SREM", each, *slots)
        ask(store, *words)


@pytest.mark.parametrize("which", ["all", "some"])
@pytest.mark.parametrize("by", ["the process that recorded them", "another process"])
def test_a_sweep_records_slots_that_a_fail_over_lost(
    open_store: OpenStore, store: RedisMessageStore, notifier: NotifierClient, which: str, by: str
) -> None:
    """A process does not record a slot twice, so without the sweep no take would find posts in a lost slot."""
    posted_to, delivering, settled, confirming, quiet = (
        notifier.open_queue(notify=name != "quiet")
        for name in ("posted_to", "delivering", "settled", "confirming", "quiet")
    )
    backlogs = [
        SubscriptionBacklog(notifier, orders.queue.uid) for orders in (posted_to, delivering, settled, confirming)
    ]
    for orders in (delivering, settled):
        orders.post("a")
    for posted in notifier.take_all_posted():
        notifier.expand(posted, deliveries_of(posted, *(each.subscription_id for each in backlogs[1:3])))
    notifier.settle_as("dead", [each for each in notifier.take_all() if each.queue_uid == settled.queue.uid])
    notifier.clock.advance(60)
    notifier.put(backlogs[3].new(0))
    posted_to.post("b")
    quiet.post("c", ttl=60)
    every = {slot(orders) for orders in (posted_to, delivering, settled, confirming, quiet)}
    before = recorded(store, SLOTS_IN_USE)
    lose(store, which, every)
    posted_to.post("d")
    assert notifier.take_posted() == []
    sweeper = store if by == "the process that recorded them" else open_store(servers.shared("redis-cluster").uri)
    sweeper.sweep(now=notifier.now, limit=1)
    assert recorded(store, OUTBOX_SLOTS) >= every - {slot(quiet)}
    assert recorded(store, SLOTS_IN_USE) >= every
    assert recorded(store, SLOTS_IN_USE) <= before
    assert sum(len(posted.drafts) for posted in notifier.take_all_posted()) == 2
    assert {each.queue_uid for each in notifier.take_all()} == {delivering.queue.uid, confirming.queue.uid}


def test_empty_slots_are_not_recorded(store: RedisMessageStore, notifier: NotifierClient) -> None:
    """Otherwise an idle take would ask more slots than before."""
    orders = notifier.open_queue(notify=False)
    orders.post("a")
    lose(store, "all", ())
    store.sweep(now=notifier.now, limit=1000)
    assert slot(orders) in recorded(store, SLOTS_IN_USE)
    assert slot(orders) not in recorded(store, OUTBOX_SLOTS)


def test_a_sweep_looks_for_lost_slots_in_one_of_many_batches(
    store: RedisMessageStore, notifier: NotifierClient
) -> None:
    """The caller sweeps batch by batch. One of the batches checks all slots."""
    orders = notifier.open_queue(notify=False)
    orders.post(*["a"] * 300, ttl=60)
    notifier.clock.advance(60)
    nodes = clients("redis-cluster")
    seen = []
    for _ in range(3):
        for node in nodes:
            node.config_resetstat()
        assert store.sweep(now=notifier.now, limit=100).removed > 0
        seen.append(sum(node.info("commandstats").get("cmdstat_exists", {"calls": 0})["calls"] for node in nodes))
    assert seen[0] > 10_000 > 100 > max(seen[1:])


@pytest.mark.parametrize("which", [OUTBOX_SLOTS, SLOTS_IN_USE])
def test_a_slot_counts_as_recorded_only_after_the_write_succeeded(
    store: RedisMessageStore, notifier: NotifierClient, which: bytes
) -> None:
    """If the write fails, the operation is refused, and the next one writes again. Else no take would find posts."""
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    others = recorded(store, which) - {slot(orders)}
    store._core.slots._recorded.clear()
    ask(store, b"DEL", which)
    ask(store, b"SET", which, b"in the way")
    operations: list[Callable[[], object]] = [lambda: orders.post("a"), lambda: notifier.put(backlog.new(0))]
    if which == SLOTS_IN_USE:
        operations = [orders.open]
    try:
        for operation in operations:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    operation()
    finally:
        ask(store, b"DEL", which)
        if others:
            ask(store, b"SADD", which, *others)
    for operation in operations:
        operation()
        assert slot(orders) in recorded(store, which)
    if which == OUTBOX_SLOTS:
        assert len(notifier.take_posted()) == len(notifier.take()) == 1


def test_posts_are_found_after_a_fail_over_that_lost_their_slots(open_store: OpenStore) -> None:
    """The replica of the master that has the sets of slots falls behind, and is then promoted."""
    cluster = servers.own(lambda: servers.RedisCluster(replica=True))
    try:
        notifier = NotifierClient(open_store(cluster.uri))
        queue_clients = [notifier.open_queue() for _ in range(12)]
        elsewhere = [orders for orders in queue_clients if slot(orders) > SLOTS // 3 + 1]
        assert len(elsewhere) > 1
        assert cluster.nodes[0].client().wait(1, 2000) == 1
        # With a password that the master does not know, the replica stays disconnected.
        cluster.nodes[3].client().config_set("masterauth", "unknown")
        cluster.nodes[0].client().client_kill_filter(_type="replica")
        for orders in elsewhere:
            orders.post("a")
        cluster.nodes[0].kill()
        when_back(lambda: notifier.store.volume(now=notifier.now))
        for orders in elsewhere:
            orders.post("b")
        assert notifier.take_posted() == [], "the fail-over has lost nothing, so this test shows nothing"
        notifier.store.sweep(now=notifier.now, limit=100)
        found = {posted.queue_uid for posted in notifier.take_all_posted()}
        assert found == {orders.queue.uid for orders in elsewhere}
        assert notifier.store.volume(now=notifier.now).free == 2 * len(elsewhere)
    finally:
        cluster.stop()


def test_a_sweep_goes_on_if_a_node_without_queues_is_away(open_store: OpenStore) -> None:
    cluster = servers.own(servers.RedisCluster)
    try:
        notifier = NotifierClient(open_store(cluster.uri))
        orders = next(orders for orders in iter(notifier.open_queue, None) if slot(orders) > 2 * SLOTS // 3 + 1)
        for other in notifier.queue_clients[:-1]:
            other.drop()
        ask(store := open_store(cluster.uri), b"DEL", SLOTS_IN_USE)
        ask(store, b"SADD", SLOTS_IN_USE, slot(orders))
        orders.post("a", ttl=60)
        cluster.nodes[1].kill()
        notifier.clock.advance(60)
        when_back(lambda: orders.post("b"))
        assert store.sweep(now=notifier.now, limit=100).removed == 1
    finally:
        cluster.stop()
