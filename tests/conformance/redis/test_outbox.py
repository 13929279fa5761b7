# SPDX-License-Identifier: Apache-2.0
"""Cost of the outbox: one script an operation, nothing for a queue without subscribers, no memory afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import redis

from tests import servers
from tests.conformance.outbox import KEPT, LEASE, Lane, Outbox, deliveries_of
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_round_trips import clients, commands_of
from tests.conformance.scene import Scene
from tests.conformance.subscribers import Subscribers
from tests.conformance.test_dropped_deliveries import drop_lanes
from tests.conformance.test_sweep import sweep_clean
from tests.conformance.test_undelivered_before import crowd_in_order, is_held
from zaqar.errors import StoreUnavailable
from zaqar.model import DEAD, DONE, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.redis.management import RedisManagementStore


@pytest.fixture
def client(own_redis: servers.Redis) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis.program.port) as client:
        yield client


@pytest.fixture
def outbox(open_store: OpenStore, own_redis: servers.Redis) -> Outbox:
    return Outbox(open_store(own_redis.uri))


def deliver(outbox: Outbox, scene: Scene, lanes: list[Lane]) -> None:
    """Post, expand, deliver, fail, retry and resend: everything that may happen to a delivery."""
    scene.post(*map(str, range(20)))
    scene.post("late", delay=60)
    for posted in outbox.take_all_posted():
        outbox.expand(posted, deliveries_of(posted, *(lane.subscription_id for lane in lanes)))
    taken = outbox.take_all(limit=7, most_of_one=3)
    assert len(taken) == 20 * len(lanes)
    outbox.extend(taken, outbox.now + 60)
    outbox.settle_as(DONE, taken[::4])
    outbox.settle_as(DEAD, taken[1::4])
    outbox.discard(taken[2::4])
    outbox.retry_at(outbox.now + 5, taken[3::4])
    for lane in lanes:
        lane.resend_dead(2)
    outbox.clock.advance(60)
    outbox.settle_as(DONE, outbox.take_all())


@pytest.mark.parametrize("dropped", ["nothing", "the queue", "subscriptions", "subscriptions, then the queue"])
def test_no_key_is_left_after_deliveries_are_settled_or_dropped(
    outbox: Outbox, client: redis.Redis, dropped: str
) -> None:
    scene = outbox.new_scene()
    before = set(client.keys("*"))
    lanes = [Lane(outbox, scene.queue.uid) for _ in range(3)]
    deliver(outbox, scene, lanes)
    assert client.exists(f"zaqar:{{{scene.queue.uid}}}:deliveries_kept", "zaqar:kept") == 2
    scene.post("not expanded")
    for posted in outbox.take_all_posted():
        made = deliveries_of(posted, lanes[0].subscription_id)
        outbox.expand(posted, made, to=None if dropped == "nothing" else PostPosition("", "x", 1))
    if dropped == "nothing":
        outbox.settle_as(DONE, outbox.take_all())
    if dropped.startswith("subscriptions"):
        drop_lanes(*lanes)
    if dropped == "subscriptions":
        sweep_clean(outbox.store, outbox.now, limit=7)
        assert {name for name in client.keys("*") if name.startswith(f"zaqar:{{{scene.queue.uid}}}:".encode())} == {
            f"zaqar:{{{scene.queue.uid}}}:{word}".encode()
            for word in (
                *("fence", "messages", "states", "ready", "expiry"),
                *("posts", "post_positions", "posts_leased", "dropped_subscriptions"),
            )
        }, "of deliveries only that their subscriptions were dropped"
        outbox.clock.advance(LEASE)
        outbox.expand(*outbox.take_posted())
    if dropped.endswith("queue"):
        scene.drop()
        before = {f"zaqar:{{{scene.queue.uid}}}:fence".encode(), b"zaqar:agenda"}
        assert set(client.keys("*")) == before
    outbox.clock.advance(KEPT)
    sweep_clean(outbox.store, outbox.now)
    assert set(client.keys("*")) == before


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_the_number_of_dropped_deliveries_does_not_matter_to_a_drop_and_a_take(
    outbox: Outbox, client: redis.Redis, what: str
) -> None:
    """The server runs the same commands beside few and beside many, with their posts."""
    seen = []
    for size in (4, 4_000):
        scene = outbox.new_scene()
        lane = Lane(outbox, scene.queue.uid)
        lane.fill(size)
        for _ in range(size // 4):
            scene.post("x")
        drop = scene.drop if what == "queue" else partial(drop_lanes, lane)
        dropping = commands_in([client], drop)
        if what == "subscription":
            assert len(outbox.take_all_posted()) == size // 4
        seen.append((dropping, commands_in([client], lambda: (outbox.take(), outbox.take_posted()))))
        assert outbox.take_all() == []
        sweep_clean(outbox.store, outbox.now)
        scene.drop()
    assert seen[0] == seen[1]


def test_a_sweep_removes_dropped_subscriptions_in_bounded_batches(outbox: Outbox, client: redis.Redis) -> None:
    lanes = [Lane(outbox) for _ in range(3)]
    beside = lanes[0].beside()
    for lane in (*lanes, beside):
        lane.fill(250)
    for lane in lanes:
        drop_lanes(lane)
    outbox.clock.advance(1)
    removed = sweep_clean(outbox.store, outbox.now, limit=100)
    assert max(removed) <= 100
    assert sum(removed) == 3 * 250 + 3
    assert [lane.counts() for lane in (*lanes, beside)] == [(0, 0)] * 3 + [(250, 0)]
    assert outbox.store.sweep(now=outbox.now, limit=100) == 0
    outbox.clock.advance(DROPPED_LIFETIME + 1)
    assert sweep_clean(outbox.store, outbox.now) == [3]
    drop_lanes(beside)
    sweep_clean(outbox.store, outbox.now)
    outbox.clock.advance(DROPPED_LIFETIME + 1)
    sweep_clean(outbox.store, outbox.now)
    assert client.keys("*") == []


def test_a_server_without_memory_lets_deliveries_be_sent_and_settled(outbox: Outbox, client: redis.Redis) -> None:
    scene = outbox.new_scene()
    lane = Lane(outbox, scene.queue.uid)
    scene.post(*map(str, range(20)))
    (posted,) = outbox.take_posted()
    outbox.expand(posted, deliveries_of(posted, lane.subscription_id))
    other = outbox.new_scene()
    client.config_set("maxmemory", "1kb")
    with pytest.raises(StoreUnavailable):
        scene.post("too much")
    taken = outbox.take_all(limit=3)
    assert len(taken) == 20
    outbox.extend(taken, outbox.now + 60)
    outbox.retry_at(outbox.now + 5, taken[:5])
    outbox.settle_as(DONE, taken[5:10])
    outbox.discard(taken[10:])
    outbox.clock.advance(5)
    outbox.discard(outbox.take_all(limit=3))
    assert lane.counts() == (0, 0)
    drop_lanes(lane.beside(), lane.beside())
    sweep_clean(outbox.store, outbox.now)
    drop_lanes(lane)
    sweep_clean(outbox.store, outbox.now + KEPT)
    other.drop()
    client.config_set("maxmemory", "0")
    scene.post("now")
    assert len(outbox.take_posted()) == 1


def test_a_post_to_a_queue_without_subscribers_has_no_more_commands(open_store: OpenStore) -> None:
    outbox = Outbox(open_store(servers.shared("redis").uri))
    scene = outbox.new_scene(notify=False)
    counts = commands_of(clients("redis"), lambda: scene.post("x"))
    scene.queue = replace(scene.queue, generation=2, notify=True)
    scene.open()
    noted = commands_of(clients("redis"), lambda: scene.post("x"))
    assert noted - counts == {"zadd": 2, "hset": 1}
    assert not counts - noted
    outbox.close()


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
@pytest.mark.parametrize("size", [20, 2_000])
def test_each_operation_is_one_script(kind: str, size: int, open_store: OpenStore) -> None:
    """However many deliveries there are, of this subscription and of others of the queue."""
    outbox = Outbox(open_store(servers.shared(kind).uri))
    outbox.drain()
    scene = outbox.new_scene()
    nodes = clients(kind)
    lane = Lane(outbox, scene.queue.uid)
    for _ in range(0, size, 20):
        scene.post(*["x"] * 20)
        (posted,) = outbox.take_posted()
        outbox.expand(posted, deliveries_of(posted, lane.subscription_id, lane.beside().subscription_id))
    for _ in range(4):
        scene.post("x")
    posts = iter(outbox.take_posted())
    outbox.take(limit=2)  # nothing rises to its turn any more
    settled = iter(range(1, 9))

    def settle(state: str) -> None:
        number = next(settled)
        outbox.settle_as(state, [lane.new(number)])

    operations: dict[str, Callable[[], object]] = {
        "post": lambda: scene.post("x"),
        "post 10": lambda: scene.post(*["x"] * 10),
        "take posted": lambda: outbox.take_posted(limit=1),
        "expand": lambda: outbox.expand((posted := next(posts)), deliveries_of(posted, lane.subscription_id)),
        "put": lambda: outbox.put(lane.new(0)),
        "take": lambda: outbox.take(limit=5, most_of_one=3),
        "extend": lambda: outbox.extend([lane.new(1), lane.new(2)], outbox.now + 60),
        "settle": lambda: settle(DONE),
        "settle as dead": lambda: settle(DEAD),
        "list": lambda: lane.listing(limit=10),
        "list of a state": lambda: lane.listing(DEAD, limit=10),
        "get": lambda: lane.get(1),
        "count": lambda: lane.counts(),
        "resend": lambda: lane.resend_dead(1),
    }
    for name, operation in operations.items():
        counts = commands_of(nodes, operation)
        assert counts["evalsha"] == 1, (name, counts)
        assert not counts.keys() & {"eval", "script", "script|load", "watch", "multi", "wait"}, (name, counts)
    outbox.close()


def commands_in(nodes: list[redis.Redis], operation: Callable[[], object]) -> Counter[str]:
    counts = commands_of(nodes, operation)
    return Counter(
        {name: count for name, count in counts.items() if name not in ("info", "config", "config|resetstat")}
    )


def serve_others(outbox: Outbox, busy: Lane) -> None:
    others = (busy.beside(), Lane(outbox))
    for other in others:
        other.fill(1)
    taken = outbox.take(limit=2, most_of_one=1, without=[busy.subscription_id])
    assert {each.subscription_id for each in taken} == {other.subscription_id for other in others}
    outbox.discard(taken)


def test_the_backlog_of_a_subscription_does_not_matter_to_others(outbox: Outbox, client: redis.Redis) -> None:
    """The same commands beside few and beside many, for another of the same queue and for one elsewhere."""
    seen = []
    for size in (4, 4_000):
        busy = Lane(outbox)
        busy.fill(size)
        outbox.take(limit=1, without=[busy.subscription_id])
        seen.append(commands_in([client], partial(serve_others, outbox, busy)))
        outbox.discard(outbox.take_all())
    assert seen[0] == seen[1]


@pytest.mark.parametrize("later", [None, 60.0])
def test_has_undelivered_before_runs_the_same_commands_beside_few_and_many(
    outbox: Outbox, client: redis.Redis, later: float | None
) -> None:
    """Whatever there is before the number that is settled, from it on that waits, and in the outbox."""
    seen = []
    soon = None if later is None else outbox.now + later
    for size in (10, 5_000):
        scene, lane = crowd_in_order(outbox, size)
        assert len(outbox.take_posted(limit=5)) == 5
        seen.append(
            [commands_in([client], partial(is_held, lane, number, soon)) for number in (2 * size + 1, 2 * size + 2)]
        )
        assert [is_held(lane, number, soon) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        outbox.discard(outbox.take_all())
        seen[-1].append(commands_in([client], partial(is_held, lane, 4 * size, soon)))
        assert is_held(lane, 4 * size, soon)
        scene.drop()
    assert seen[0] == seen[1]
    assert all(counts["evalsha"] == 1 and sum(counts.values()) <= 6 for counts in seen[0]), seen[0]


def test_an_idle_take_asks_only_slots_that_ever_had_a_post(open_store: OpenStore) -> None:
    nodes = clients("redis-cluster")
    outbox = Outbox(open_store(servers.shared("redis-cluster").uri))
    outbox.drain()
    quiet = [outbox.new_scene(notify=False) for _ in range(20)]
    slots = outbox.store._core.slots.recorded(b"zaqar:slots:outbox")  # type: ignore[attr-defined]
    counts = commands_in(nodes, outbox.take)
    assert counts["zrange"] == counts["zrangebyscore"] == len(slots)
    assert counts["evalsha"] == 0
    outbox.take_posted()
    for scene in quiet:
        scene.drop()


def test_no_key_is_left_after_subscriptions_are_removed(own_redis: servers.Redis, client: redis.Redis) -> None:
    management = RedisManagementStore.from_settings({"uri": own_redis.uri})
    queue = Subscribers(management)
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
