# SPDX-License-Identifier: Apache-2.0
"""The cost of the outbox: one script for each operation, no cost without subscribers, no memory left afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import redis

from tests import servers
from tests.conformance.notifier_client import KEPT, LEASE, NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.queue_client import QueueClient
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_round_trips import clients, commands_of
from tests.conformance.subscription_client import SubscriptionClient
from tests.conformance.test_delivery_order import fill_in_order, is_held
from tests.conformance.test_dropped_subscriptions import drop_backlogs
from tests.conformance.test_sweep import sweep_clean
from zaqar.errors import StoreUnavailable
from zaqar.model import DEAD, DONE, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.redis.management import RedisManagementStore


@pytest.fixture
def client(own_redis: servers.Redis) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis.program.port) as client:
        yield client


@pytest.fixture
def notifier(open_store: OpenStore, own_redis: servers.Redis) -> NotifierClient:
    return NotifierClient(open_store(own_redis.uri))


def deliver(notifier: NotifierClient, orders: QueueClient, backlogs: list[SubscriptionBacklog]) -> None:
    """Post, expand, deliver, fail, retry and resend: every event in the life of a delivery."""
    orders.post(*map(str, range(20)))
    orders.post("late", delay=60)
    for posted in notifier.take_all_posted():
        notifier.expand(posted, deliveries_of(posted, *(backlog.subscription_id for backlog in backlogs)))
    taken = notifier.take_all(limit=7, most_of_one=3)
    assert len(taken) == 20 * len(backlogs)
    notifier.extend(taken, notifier.now + 60)
    notifier.settle_as(DONE, taken[::4])
    notifier.settle_as(DEAD, taken[1::4])
    notifier.discard(taken[2::4])
    notifier.retry_at(notifier.now + 5, taken[3::4])
    for backlog in backlogs:
        backlog.resend_dead(2)
    notifier.clock.advance(60)
    notifier.settle_as(DONE, notifier.take_all())


@pytest.mark.parametrize("dropped", ["nothing", "the queue", "subscriptions", "subscriptions, then the queue"])
def test_no_key_is_left_after_deliveries_are_settled_or_dropped(
    notifier: NotifierClient, client: redis.Redis, dropped: str
) -> None:
    orders = notifier.open_queue()
    before = set(client.keys("*"))
    backlogs = [SubscriptionBacklog(notifier, orders.queue.uid) for _ in range(3)]
    deliver(notifier, orders, backlogs)
    assert client.exists(f"zaqar:{{{orders.queue.uid}}}:deliveries_kept", "zaqar:kept") == 2
    orders.post("not expanded")
    for posted in notifier.take_all_posted():
        made = deliveries_of(posted, backlogs[0].subscription_id)
        notifier.expand(posted, made, to=None if dropped == "nothing" else PostPosition("", "x", 1))
    if dropped == "nothing":
        notifier.settle_as(DONE, notifier.take_all())
    if dropped.startswith("subscriptions"):
        drop_backlogs(*backlogs)
    if dropped == "subscriptions":
        sweep_clean(notifier.store, notifier.now, limit=7)
        assert {name for name in client.keys("*") if name.startswith(f"zaqar:{{{orders.queue.uid}}}:".encode())} == {
            f"zaqar:{{{orders.queue.uid}}}:{word}".encode()
            for word in (
                *("fence", "messages", "states", "ready", "expiry"),
                *("posts", "post_positions", "posts_leased", "dropped_subscriptions"),
            )
        }, "of deliveries only the records of dropped subscriptions are left"
        notifier.clock.advance(LEASE)
        notifier.expand(*notifier.take_posted())
    if dropped.endswith("queue"):
        orders.drop()
        before = {f"zaqar:{{{orders.queue.uid}}}:fence".encode(), b"zaqar:agenda"}
        assert set(client.keys("*")) == before
    notifier.clock.advance(KEPT)
    sweep_clean(notifier.store, notifier.now)
    assert set(client.keys("*")) == before


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_a_drop_and_a_take_cost_the_same_beside_many_dropped_deliveries(
    notifier: NotifierClient, client: redis.Redis, what: str
) -> None:
    """The server runs the same commands beside few and beside many deliveries with their posts."""
    seen = []
    for size in (4, 4_000):
        orders = notifier.open_queue()
        backlog = SubscriptionBacklog(notifier, orders.queue.uid)
        backlog.fill(size)
        for _ in range(size // 4):
            orders.post("x")
        drop = orders.drop if what == "queue" else partial(drop_backlogs, backlog)
        dropping = commands_in([client], drop)
        if what == "subscription":
            assert len(notifier.take_all_posted()) == size // 4
        seen.append((dropping, commands_in([client], lambda: (notifier.take(), notifier.take_posted()))))
        assert notifier.take_all() == []
        sweep_clean(notifier.store, notifier.now)
        orders.drop()
    assert seen[0] == seen[1]


def test_a_sweep_removes_dropped_subscriptions_in_bounded_batches(
    notifier: NotifierClient, client: redis.Redis
) -> None:
    backlogs = [SubscriptionBacklog(notifier) for _ in range(3)]
    beside = backlogs[0].beside()
    for backlog in (*backlogs, beside):
        backlog.fill(250)
    for backlog in backlogs:
        drop_backlogs(backlog)
    notifier.clock.advance(1)
    removed = sweep_clean(notifier.store, notifier.now, limit=100)
    assert max(removed) <= 100
    assert sum(removed) == 3 * 250 + 3
    assert [backlog.counts() for backlog in (*backlogs, beside)] == [(0, 0)] * 3 + [(250, 0)]
    assert notifier.store.sweep(now=notifier.now, limit=100).removed == 0
    notifier.clock.advance(DROPPED_LIFETIME + 1)
    assert sweep_clean(notifier.store, notifier.now) == [3]
    drop_backlogs(beside)
    sweep_clean(notifier.store, notifier.now)
    notifier.clock.advance(DROPPED_LIFETIME + 1)
    sweep_clean(notifier.store, notifier.now)
    assert client.keys("*") == []


def test_a_server_without_memory_lets_deliveries_be_sent_and_settled(
    notifier: NotifierClient, client: redis.Redis
) -> None:
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    orders.post(*map(str, range(20)))
    (posted,) = notifier.take_posted()
    notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
    other = notifier.open_queue()
    client.config_set("maxmemory", "1kb")
    with pytest.raises(StoreUnavailable):
        orders.post("too much")
    taken = notifier.take_all(limit=3)
    assert len(taken) == 20
    notifier.extend(taken, notifier.now + 60)
    notifier.retry_at(notifier.now + 5, taken[:5])
    notifier.settle_as(DONE, taken[5:10])
    notifier.discard(taken[10:])
    notifier.clock.advance(5)
    notifier.discard(notifier.take_all(limit=3))
    assert backlog.counts() == (0, 0)
    drop_backlogs(backlog.beside(), backlog.beside())
    sweep_clean(notifier.store, notifier.now)
    drop_backlogs(backlog)
    sweep_clean(notifier.store, notifier.now + KEPT)
    other.drop()
    client.config_set("maxmemory", "0")
    orders.post("now")
    assert len(notifier.take_posted()) == 1


def test_a_post_to_a_queue_without_subscribers_needs_no_additional_commands(open_store: OpenStore) -> None:
    notifier = NotifierClient(open_store(servers.shared("redis").uri))
    orders = notifier.open_queue(notify=False)
    counts = commands_of(clients("redis"), lambda: orders.post("x"))
    orders.queue = replace(orders.queue, generation=2, notify=True)
    orders.open()
    noted = commands_of(clients("redis"), lambda: orders.post("x"))
    assert noted - counts == {"zadd": 2, "hset": 1}
    assert not counts - noted
    notifier.close()


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
@pytest.mark.parametrize("size", [20, 2_000])
def test_each_operation_is_one_script(kind: str, size: int, open_store: OpenStore) -> None:
    """With any number of deliveries, of this subscription and of others of the queue."""
    notifier = NotifierClient(open_store(servers.shared(kind).uri))
    notifier.drain()
    orders = notifier.open_queue()
    nodes = clients(kind)
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    for _ in range(0, size, 20):
        orders.post(*["x"] * 20)
        (posted,) = notifier.take_posted()
        notifier.expand(posted, deliveries_of(posted, backlog.subscription_id, backlog.beside().subscription_id))
    for _ in range(4):
        orders.post("x")
    posts = iter(notifier.take_posted())
    notifier.take(limit=2)  # no delivery becomes due any more
    settled = iter(range(1, 9))

    def settle(state: str) -> None:
        number = next(settled)
        notifier.settle_as(state, [backlog.new(number)])

    operations: dict[str, Callable[[], object]] = {
        "post": lambda: orders.post("x"),
        "post 10": lambda: orders.post(*["x"] * 10),
        "take posted": lambda: notifier.take_posted(limit=1),
        "expand": lambda: notifier.expand((posted := next(posts)), deliveries_of(posted, backlog.subscription_id)),
        "put": lambda: notifier.put(backlog.new(0)),
        "take": lambda: notifier.take(limit=5, most_of_one=3),
        "extend": lambda: notifier.extend([backlog.new(1), backlog.new(2)], notifier.now + 60),
        "settle": lambda: settle(DONE),
        "settle as dead": lambda: settle(DEAD),
        "list": lambda: backlog.listing(limit=10),
        "list of a state": lambda: backlog.listing(DEAD, limit=10),
        "get": lambda: backlog.get(1),
        "count": lambda: backlog.counts(),
        "resend": lambda: backlog.resend_dead(1),
    }
    for name, operation in operations.items():
        counts = commands_of(nodes, operation)
        assert counts["evalsha"] == 1, (name, counts)
        assert not counts.keys() & {"eval", "script", "script|load", "watch", "multi", "wait"}, (name, counts)
    notifier.close()


def commands_in(nodes: list[redis.Redis], operation: Callable[[], object]) -> Counter[str]:
    counts = commands_of(nodes, operation)
    return Counter(
        {name: count for name, count in counts.items() if name not in ("info", "config", "config|resetstat")}
    )


def serve_others(notifier: NotifierClient, busy: SubscriptionBacklog) -> None:
    others = (busy.beside(), SubscriptionBacklog(notifier))
    for other in others:
        other.fill(1)
    taken = notifier.take(limit=2, most_of_one=1, without=[busy.subscription_id])
    assert {each.subscription_id for each in taken} == {other.subscription_id for other in others}
    notifier.discard(taken)


def test_the_backlog_of_a_subscription_does_not_slow_down_others(notifier: NotifierClient, client: redis.Redis) -> None:
    """Another subscription of the queue, or of another queue, needs the same commands beside few and beside many."""
    seen = []
    for size in (4, 4_000):
        busy = SubscriptionBacklog(notifier)
        busy.fill(size)
        notifier.take(limit=1, without=[busy.subscription_id])
        seen.append(commands_in([client], partial(serve_others, notifier, busy)))
        notifier.discard(notifier.take_all())
    assert seen[0] == seen[1]


@pytest.mark.parametrize("later", [None, 60.0])
def test_has_undelivered_before_runs_the_same_commands_beside_few_and_many(
    notifier: NotifierClient, client: redis.Redis, later: float | None
) -> None:
    """With any number of deliveries settled before the number, waiting from it on, and in the outbox."""
    seen = []
    soon = None if later is None else notifier.now + later
    for size in (10, 5_000):
        orders, backlog = fill_in_order(notifier, size)
        assert len(notifier.take_posted(limit=5)) == 5
        seen.append(
            [commands_in([client], partial(is_held, backlog, number, soon)) for number in (2 * size + 1, 2 * size + 2)]
        )
        assert [is_held(backlog, number, soon) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        notifier.discard(notifier.take_all())
        seen[-1].append(commands_in([client], partial(is_held, backlog, 4 * size, soon)))
        assert is_held(backlog, 4 * size, soon)
        orders.drop()
    assert seen[0] == seen[1]
    assert all(counts["evalsha"] == 1 and sum(counts.values()) <= 6 for counts in seen[0]), seen[0]


def test_an_idle_take_asks_only_slots_that_ever_had_a_post(open_store: OpenStore) -> None:
    nodes = clients("redis-cluster")
    notifier = NotifierClient(open_store(servers.shared("redis-cluster").uri))
    notifier.drain()
    quiet = [notifier.open_queue(notify=False) for _ in range(20)]
    slots = notifier.store._core.slots.recorded(b"zaqar:slots:outbox")  # type: ignore[attr-defined]
    counts = commands_in(nodes, notifier.take)
    assert counts["zrange"] == counts["zrangebyscore"] == len(slots)
    assert counts["evalsha"] == 0
    notifier.take_posted()
    for orders in quiet:
        orders.drop()


def test_no_key_is_left_after_subscriptions_are_removed(own_redis: servers.Redis, client: redis.Redis) -> None:
    management = RedisManagementStore.from_settings({"uri": own_redis.uri})
    queue = SubscriptionClient(management)
    for n in range(10):
        queue.create(f"http://{n}.example", ttl=60 if n % 2 else 600)
    one, *_ = queue.listing()
    queue.replace(replace(one, version=2, subscriber="http://x.example", expires=one.expires + 60))
    queue.clock.advance(60)
    assert len(queue.sweep()) >= 4
    queue.clock.advance(660)
    queue.sweep()
    assert client.keys("*") == []
    for n in range(10):
        queue.create(f"http://{n}.example")
    queue.delete(queue.listing()[0])
    queue.delete_all()
    assert client.keys("*") == []
    management.close()
