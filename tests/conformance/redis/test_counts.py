# SPDX-License-Identifier: Apache-2.0
"""What monitoring and limits count: exactly, in bounded scripts, and beside any number of messages at the same cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import redis

from tests import servers
from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog
from tests.conformance.queue_client import QueueClient, new_claim_id
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_cost_at_any_size import commands_of
from tests.conformance.subscription_client import SubscriptionClient
from zaqar.model import DEAD, DONE, Claim, DeadLetters, QueueUsage
from zaqar.storage.redis import subscriptions as redis_subscriptions
from zaqar.storage.redis import sweep as redis_sweep
from zaqar.storage.redis.management import RedisManagementStore
from zaqar.storage.redis.store import RedisMessageStore


@pytest.fixture
def store(open_store: OpenStore, own_redis: servers.Redis) -> RedisMessageStore:
    return open_store(own_redis.uri)


@pytest.fixture
def client(own_redis: servers.Redis) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis.program.port) as client:
        yield client


@pytest.fixture
def notifier(store: RedisMessageStore) -> NotifierClient:
    return NotifierClient(store)


@pytest.fixture
def management(own_redis: servers.Redis) -> Iterator[RedisManagementStore]:
    management = RedisManagementStore.from_settings({"uri": own_redis.uri})
    yield management
    management.close()


# -- volume ------------------------------------------------------------------------------------------------------------


def test_the_volume_costs_the_same_beside_few_and_many_messages_and_deliveries(
    store: RedisMessageStore, client: redis.Redis
) -> None:
    """The server counts the commands that it runs, those inside scripts too."""
    seen = []
    for size in (16, 4096):
        client.flushdb()
        notifier = NotifierClient(store)
        orders = notifier.open_queue()
        for fields in ({}, {"delay": 600}):
            orders.post(*["x"] * size, **fields)
        orders.claim(size // 2, ttl=600)
        first = SubscriptionBacklog(notifier)
        for backlog in (first, first.beside()):
            backlog.fill(size)
        notifier.settle_as(DEAD, [each for each in notifier.take_all() if each.number > size - size // 4])
        store.volume(now=notifier.now)
        seen.append(commands_of(client, lambda now=notifier.now: store.volume(now=now)))
        found = store.volume(now=notifier.now)
        assert (found.free, found.claimed, found.delayed) == (size // 2, size // 2, size)
        assert (found.waiting, found.dead) == (2 * size - size // 2, size // 2)
    assert seen[0] == seen[1]


def test_the_volume_is_read_in_pages(
    store: RedisMessageStore, notifier: NotifierClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages end within the queues, after a number of subscriptions, and after a number of bytes."""
    monkeypatch.setattr(redis_sweep, "QUEUES_AT_ONCE", 4)
    began = notifier.now
    for n in range(10):
        orders = notifier.open_queue()
        orders.post("x", "x" * (3 << 20 if n % 2 else 1))
        orders.claim(1)
        orders.post("x", delay=60)
        notifier.clock.advance(1)
    many, large = SubscriptionBacklog(notifier), [SubscriptionBacklog(notifier) for _ in range(5)]
    for _ in range(2500):
        backlog = many.beside()
        notifier.put(backlog.new(9, created=began), backlog.new(10))
    for backlog in large:
        notifier.put(backlog.new(1, body=b"x" * (3 << 20), created=began - 5))
    found = store.volume(now=notifier.now)
    assert (found.free, found.claimed, found.delayed, found.oldest) == (10, 10, 10, began)
    assert (found.waiting, found.dead, found.oldest_waiting) == (5005, 0, began - 5)
    for backlog in large:
        backlog.notifier.store.delivery_log.drop(
            queue_uid=backlog.queue_uid, subscription_ids=[backlog.subscription_id], now=notifier.now
        )
    while store.sweep(now=notifier.now, limit=1000).removed:
        pass
    found = store.volume(now=notifier.now)
    assert (found.waiting, found.oldest_waiting) == (5000, began)


def test_a_confirmation_hides_no_older_delivery_and_no_delivery_an_older_confirmation(
    store: RedisMessageStore, notifier: NotifierClient
) -> None:
    """A confirmation has the number 0 and was created when its subscription was."""
    old, asked = (backlog := SubscriptionBacklog(notifier)), backlog.beside()
    began = notifier.now
    notifier.put(old.new(7), asked.new(0, created=began + 5), asked.new(9))
    assert store.volume(now=notifier.now).oldest_waiting == began
    notifier.put(old.beside().new(0, created=began - 5))
    assert store.volume(now=notifier.now).oldest_waiting == began - 5


def test_the_volume_tells_settled_deliveries_apart(store: RedisMessageStore, notifier: NotifierClient) -> None:
    backlogs = [SubscriptionBacklog(notifier) for _ in range(3)]
    backlogs += [backlog.beside() for backlog in backlogs]
    for backlog in backlogs:
        backlog.fill(6)
    taken = notifier.take_all()
    for number, state in ((1, DEAD), (2, DONE), (3, DEAD)):
        notifier.settle_as(state, [each for each in taken if each.number == number])
    found = store.volume(now=notifier.now)
    assert (found.waiting, found.dead) == (6 * 3, 6 * 2)


# -- expired messages --------------------------------------------------------------------------------------------------


def expired_of(store: RedisMessageStore, now: float) -> int:
    expired = 0
    while True:
        swept = store.sweep(now=now, limit=100)
        expired += swept.expired
        if swept.removed < 100:
            return expired


@pytest.mark.parametrize("by", ["sweep", "post", "stats", "claim", "volume", "claim that ends"])
def test_an_expired_message_is_counted_once_whatever_removed_it(store: RedisMessageStore, by: str) -> None:
    orders = QueueClient(store)
    removals: dict[str, Callable[[], object]] = {
        "sweep": lambda: None,
        "post": lambda: [orders.post(*["x"] * 64) for _ in range(8)],
        "stats": orders.stats,
        "claim": orders.claim,
        "volume": orders.volume,
        "claim that ends": orders.claim,
    }
    orders.post(*["x"] * 300, ttl=60)
    orders.post(*["late"] * 30, ttl=60, delay=59)
    if by == "claim that ends":
        orders.claim(100, ttl=60, grace=60)
        orders.clock.advance(60)
    orders.clock.advance(60)
    removals[by]()
    assert expired_of(store, orders.now) == 330
    assert expired_of(store, orders.now + 1) == 0


def test_expired_messages_are_removed_and_counted_in_a_full_server(
    store: RedisMessageStore, client: redis.Redis
) -> None:
    orders = QueueClient(store)
    orders.post("a", "b", ttl=60)
    orders.post("c", ttl=60, delay=59)
    orders.post("living")
    orders.clock.advance(60)
    client.config_set("maxmemory", 1)
    assert [message.sequence for message in orders.claim()[1]] == [4]
    assert expired_of(store, orders.now) == 3


# -- claims ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
@pytest.mark.parametrize("notify", [False, True])
def test_a_claim_counts_the_messages_of_all_batches_that_it_moved(
    open_store: OpenStore, kind: str, notify: bool
) -> None:
    """More than one script may move: 500."""
    orders = QueueClient(open_store(servers.shared(kind).uri))
    dead = orders.beside()
    dead.queue = replace(dead.queue, notify=notify)
    orders.post(*["x"] * 1203)
    orders.claim_and_release(1202, times=1)
    result = orders.store.claims.claim(
        queue=orders.queue,
        claim=Claim(new_claim_id(), 60, 60, orders.now),
        limit=10,
        now=orders.now,
        dead_letters=DeadLetters(dead.queue, 1),
    )
    assert ([each.sequence for each in result.messages], result.dead_lettered) == ([1203], 1202)
    assert len(dead.listing()) == 1202
    for each in (orders, dead):
        each.drop()


# -- usage -------------------------------------------------------------------------------------------------------------


def test_the_usage_is_read_in_bounded_scripts(store: RedisMessageStore, client: redis.Redis) -> None:
    orders = QueueClient(store)
    orders.post(*["x"] * 1500, client="somebody with a long name")
    orders.claim(1200)
    orders.post(*["12"] * 500, delay=60)
    orders.post(*["x" * (3 << 20)] * 3)

    def usage(most: int) -> QueueUsage:
        return store.queues.usage(queue=orders.queue, now=orders.now, most=most)

    assert usage(10_000) == (2003, 1500 + 2 * 500 + 3 * (3 << 20))
    assert usage(250) == (250, 250)
    client.config_resetstat()
    usage(10_000)
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3


# -- subscriptions -----------------------------------------------------------------------------------------------------


def test_subscriptions_are_counted_in_bounded_scripts(
    management: RedisManagementStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriptions, "_ENTRIES_AT_ONCE", 100)
    one = SubscriptionClient(management)
    for n in range(1250):
        one.create(f"http://example.com/{n}", ttl=60 if n < 1100 else 3600)
    count = management.subscriptions
    one.clock.advance(60)
    assert [count.count(queue_uid=one.uid, now=one.clock.now, most=most) for most in (20, 2000)] == [20, 150]
    assert [count.count_of_project(project="shop", now=one.clock.now, most=most) for most in (20, 150, 2000)] == [
        20,
        150,
        150,
    ]


def test_the_count_of_a_project_is_one_script_and_one_pipeline(
    management: RedisManagementStore, client: redis.Redis
) -> None:
    one = SubscriptionClient(management)
    for n in range(20):
        one.create(f"http://example.com/{n}")
    count = partial(management.subscriptions.count_of_project, project="shop", now=one.clock.now, most=10)
    count()
    assert commands_of(client, count) == {"evalsha": 1, "zrangebyscore": 2, "hget": 10}


class _Killed(Exception):
    pass


def test_the_count_of_a_project_is_exact_after_a_process_was_killed_between_two_steps(
    management: RedisManagementStore, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    one = SubscriptionClient(management)
    subscriptions = management.subscriptions

    def count() -> int:
        return subscriptions.count_of_project(project="shop", now=one.clock.now, most=100)

    def killed(*arguments: object, **named: object) -> None:
        raise _Killed

    kept, changed, deleted = (one.create(f"http://example.com/{n}", ttl=3600) for n in range(3))
    assert count() == 3
    with monkeypatch.context() as patch:
        # Between index and subscription.
        patch.setattr(subscriptions, "_run", killed)
        with pytest.raises(_Killed):
            one.create("http://example.com/3")
    assert count() == 3
    with monkeypatch.context() as patch:
        # Between subscription and index.
        patch.setattr(subscriptions, "_unindex", killed)
        with pytest.raises(_Killed):
            one.delete(deleted)
        with pytest.raises(_Killed):
            one.replace(replace(changed, version=changed.version + 1, expires=changed.expires + 60))
    assert count() == 2
    one.clock.advance(3600)
    assert count() == 1, "the one that was changed"
    one.clock.advance(60)
    assert count() == 0
    one.sweep()
    assert count() == 0
    assert one.get(kept.id) is None
    assert sorted(client.keys("*")) == [b"zaqar:subscriptions:indexed"]


def test_subscriptions_of_a_version_without_an_index_of_projects_are_counted(
    management: RedisManagementStore, own_redis: servers.Redis, client: redis.Redis
) -> None:
    one = SubscriptionClient(management)
    for n in range(300):
        one.create(f"http://example.com/{n}", project=f"project-{n % 2}")
    for key in client.keys("zaqar:subscriptions:project:*"):
        client.delete(key)
    again = RedisManagementStore.from_settings({"uri": own_redis.uri})
    for project in ("project-0", "project-1"):
        assert again.subscriptions.count_of_project(project=project, now=one.clock.now, most=1000) == 150
    again.close()


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
def test_a_store_tells_how_many_of_its_connections_are_in_use(open_store: OpenStore, kind: str) -> None:
    store = open_store(servers.shared(kind).uri, connections=7)
    masters = 1 if kind == "redis" else 3
    store.ping()
    assert store.connections() == {"used": 0, "idle": masters, "max": 7 * masters}
    wakeups = store.wakeups()
    assert wakeups is not None
    assert store.connections()["used"] == 0, "it is in no pool"
    wakeups.close()
