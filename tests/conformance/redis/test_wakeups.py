# SPDX-License-Identifier: Apache-2.0
"""Messages that Redis publishes wake waiting clients, and it publishes only while a client waits."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from tests import servers
from tests.conformance.queue_client import QueueClient, new_queue
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_faults import soon, when_back
from tests.conformance.redis.test_round_trips import clients
from zaqar.errors import StoreUnavailable
from zaqar.model import DeadLetters, Origin
from zaqar.storage.base import Wakeups
from zaqar.storage.redis.client import wakeups as redis_wakeups
from zaqar.storage.redis.client.connection import Connection
from zaqar.storage.redis.keys import slot_of
from zaqar.storage.redis.queues import WAITED_SECONDS
from zaqar.storage.redis.store import CHANNEL, RedisMessageStore

LONG = 20.0
"""Seconds in which a wake-up certainly comes."""

KINDS = ["redis", "redis-cluster"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def orders(kind: str, open_store: OpenStore) -> Iterator[QueueClient]:
    orders = QueueClient(open_store(servers.shared(kind).uri))
    yield orders
    orders.drop()


def ask(*queue_clients: QueueClient) -> None:
    """Call positions for the queues, as a process does while clients wait for them."""
    uids, first = [each.queue.uid for each in queue_clients], queue_clients[0]
    found = first.store.queues.positions(uids=uids, now=first.now)
    assert len(found) == len(queue_clients)


def subscribe(store: object) -> Wakeups:
    assert isinstance(store, RedisMessageStore)
    wakeups = store.wakeups()
    assert wakeups is not None
    return wakeups


def receive_until_lost(wakeups: Wakeups) -> None:
    end = time.monotonic() + LONG
    try:
        while time.monotonic() < end:
            wakeups.receive(0.2)
    except StoreUnavailable:
        wakeups.close()
    else:
        pytest.fail("the connection is not lost")


def receive_all(wakeups: Wakeups, nodes: list[redis.Redis]) -> None:
    """Everything that was published until now, at other nodes too, whose messages arrive later."""
    ends = set()
    for number, node in enumerate(nodes):
        node.publish(CHANNEL, f"end-{number}")
        ends.add(f"end-{number}")
    deadline = time.monotonic() + LONG
    while ends:
        assert time.monotonic() < deadline
        ends -= set(wakeups.receive(0.5))


def makes_available(
    orders: QueueClient, dead_letter_queue: QueueClient
) -> Iterator[tuple[str, QueueClient, Callable[[], object]]]:
    """Each operation that makes messages available, with its queue."""
    yield "post", orders, lambda: orders.post("a")
    yield "post many", orders, lambda: orders.post(*"bcde")
    yield "post a delayed one", orders, lambda: orders.post("late", delay=60)
    claim_id, _ = orders.claim(2)
    yield "release", orders, lambda: orders.release(claim_id)
    orders.claim_and_release(1, 1)
    rules = DeadLetters(dead_letter_queue.queue, 2)
    yield "dead letters", dead_letter_queue, lambda: orders.claim(3, dead_letters=rules)
    orders.post("f")
    orders.claim_and_release(1, 1)
    (dead_letter,) = orders.store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=1, now=orders.now)
    named = replace(dead_letter, origin=Origin("orders", dead_letter.id, 1))
    yield (
        "receive",
        dead_letter_queue,
        lambda: dead_letter_queue.store.dead_letters.receive(
            queue=dead_letter_queue.queue, messages=[named], now=dead_letter_queue.now
        ),
    )


def calls(nodes: list[redis.Redis]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for node in nodes:
        for name, stats in node.info("commandstats").items():
            counts[name.removeprefix("cmdstat_")] += stats["calls"]
    return counts


def reset(nodes: list[redis.Redis]) -> None:
    for node in nodes:
        node.config_resetstat()


def test_nothing_is_published_while_no_client_waits(orders: QueueClient, kind: str) -> None:
    dead_letter_queue, nodes = orders.beside("dead"), clients(kind)
    reset(nodes)
    for name, _, operation in makes_available(orders, dead_letter_queue):
        operation()
        assert calls(nodes)["publish"] == 0, name
    dead_letter_queue.drop()


def test_each_operation_publishes_once_while_a_client_waits(orders: QueueClient, kind: str) -> None:
    dead_letter_queue, nodes = orders.beside("dead"), clients(kind)
    wakeups = subscribe(orders.store)
    for name, woken, operation in makes_available(orders, dead_letter_queue):
        ask(orders)
        ask(dead_letter_queue)
        receive_all(wakeups, nodes)
        reset(nodes)
        operation()
        assert calls(nodes)["publish"] == 1, name
        assert wakeups.receive(LONG) == [woken.queue.uid], name
    assert wakeups.receive(0.05) == []
    wakeups.close()
    dead_letter_queue.drop()


def test_an_operation_that_makes_no_message_available_publishes_nothing(orders: QueueClient, kind: str) -> None:
    orders.post(*"abcd")
    claim_id, (first, *_) = orders.claim(3)
    ask(orders)
    nodes = clients(kind)
    reset(nodes)
    orders.renew(claim_id, ttl=90)
    for number in (1, 2, 3):
        orders.delete(number, claim_id)
    orders.release(claim_id)  # holds nothing any more
    orders.release("f" * 24)
    orders.pop(1)
    orders.claim()
    orders.purge()
    assert first.sequence == 1
    assert calls(nodes)["publish"] == 0


def test_a_note_ends_five_seconds_after_the_last_call_of_positions(orders: QueueClient, kind: str) -> None:
    nodes = clients(kind)

    def publishes() -> bool:
        reset(nodes)
        orders.post("a")
        return calls(nodes)["publish"] == 1

    ask(orders)
    orders.clock.advance(WAITED_SECONDS / 2)
    assert publishes()
    ask(orders)
    orders.clock.advance(WAITED_SECONDS - 0.01)
    assert publishes()
    orders.clock.advance(0.01)
    assert not publishes()
    ask(orders)
    assert publishes()
    orders.drop()
    orders.clock.advance(60)
    orders.queue = new_queue()
    orders.open()
    assert not publishes()


def test_positions_writes_the_note_again_only_if_it_is_old(orders: QueueClient, kind: str) -> None:
    """Each write goes to the append-only file."""
    nodes = clients(kind)
    orders.post("a", "late", delay=60)
    orders.clock.advance(61)
    reset(nodes)
    for _ in range(50):
        ask(orders)
        orders.clock.advance(0.2)
    seen = calls(nodes)
    assert 3 <= seen["hset"] <= 5
    assert not seen.keys() & {"zadd", "zrem", "unlink", "rename"}


def test_positions_of_many_queues_take_one_round_trip_to_each_server(
    orders: QueueClient, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_clients = [orders, *(orders.beside(f"q{n}") for n in range(30))]
    ask(*queue_clients)
    trips: Counter[int] = Counter()
    exchange = Connection.exchange

    def counted(wire: Connection, data: bytes, replies: int) -> object:
        trips[wire.peer()[1]] += 1
        return exchange(wire, data, replies)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "exchange", counted)
        ask(*queue_clients)
    assert list(trips.values()) == [1] * (1 if kind == "redis" else 3)
    for node in clients(kind):
        node.script_flush()
    ask(*queue_clients)
    for each in queue_clients[1:]:
        each.drop()


def test_a_subscriber_at_one_node_is_woken_by_posts_at_all_nodes(orders: QueueClient) -> None:
    queue_clients = [orders, *(orders.beside(f"q{n}") for n in range(12))]
    wakeups = subscribe(orders.store)
    ask(*queue_clients)
    expected = {each.queue.uid for each in queue_clients}
    for each in queue_clients:
        each.post("a")
    heard: set[str] = set()
    end = time.monotonic() + LONG
    while not heard >= expected and time.monotonic() < end:
        heard.update(wakeups.receive(0.5))
    assert heard == expected
    wakeups.close()
    for each in queue_clients[1:]:
        each.drop()


# -- the end of a connection -------------------------------------------------------------------------------------------


def test_wakeups_can_be_closed_while_another_thread_receives(orders: QueueClient) -> None:
    wakeups = subscribe(orders.store)
    closing = threading.Timer(0.1, wakeups.close)
    closing.start()
    with soon(), pytest.raises(StoreUnavailable):
        wakeups.receive(LONG)
    closing.join(LONG)
    assert not closing.is_alive()
    wakeups.close()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(0.1)


def test_a_child_process_does_not_close_the_wakeups_of_its_parent(orders: QueueClient) -> None:
    wakeups = subscribe(orders.store)
    receiving = threading.Thread(target=wakeups.receive, args=(LONG,))
    receiving.start()
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        wakeups.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ask(orders)
    orders.post("a")
    receiving.join(LONG / 2)
    assert not receiving.is_alive()
    orders.post("b")
    assert wakeups.receive(LONG) == [orders.queue.uid]
    wakeups.close()


@pytest.mark.parametrize("size", [5, 150])
def test_positions_looks_at_a_bounded_number_of_claims_without_messages(orders: QueueClient, size: int) -> None:
    """Such a claim stays until its end, so there may be many of them."""
    orders.post(*["x"] * size)
    last = orders.now + 100 + size
    for n in range(size):
        claim_id, (message,) = orders.claim(1, ttl=100 + n)
        if n:
            orders.delete(message.sequence, claim_id)
        else:
            orders.renew(claim_id, ttl=100 + size)
    (position,) = orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now).values()
    assert not position.free
    assert position.next_due is not None
    assert position.next_due == last if size < 100 else orders.now < position.next_due <= last


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from zaqar.errors import StoreUnavailable
from zaqar.model import Draft, Queue
from zaqar.storage.redis.store import RedisMessageStore

store = RedisMessageStore.from_settings({"uri": sys.argv[1]})
queue = Queue(sys.argv[2], "p", "q")
store.queues.open(queue=queue, now=1000.0)
assert queue.uid in store.queues.positions(uids=[queue.uid], now=1000.0)
wakeups = store.wakeups()
receiving = gevent.spawn(wakeups.receive, 20)
gevent.sleep(0.05)
store.messages.post(queue=queue, drafts=[Draft(b"1", 60)], client_id="c", now=1000.0)
assert receiving.get(timeout=20) == [queue.uid]

def end():
    try:
        wakeups.receive(20)
    except StoreUnavailable:
        return "ended"

ending = gevent.spawn(end)
gevent.sleep(0.05)
started = time.monotonic()
wakeups.close()
assert ending.get(timeout=20) == "ended"
assert time.monotonic() - started < 5
store.queues.drop(queue=queue, now=1000.0)
store.close()
"""


def test_receive_and_close_work_under_gevent(kind: str) -> None:
    command = [sys.executable, "-c", GREENLETS, servers.shared(kind).uri, new_queue().uid]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr


def test_a_restart_ends_the_subscription_and_a_new_one_works(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    wakeups = subscribe(orders.store)
    own_redis.kill()
    with soon():
        receive_until_lost(wakeups)
    with soon(), pytest.raises(StoreUnavailable):
        subscribe(orders.store)
    own_redis.start()
    assert_wakeups_work(orders)


def assert_wakeups_work(orders: QueueClient) -> None:
    """Assert that a new subscription, after the server is back, gets a wake-up from a post."""
    subscribed: list[Wakeups] = []
    when_back(lambda: subscribed.append(subscribe(orders.store)))
    when_back(lambda: ask(orders))
    when_back(lambda: orders.post("a"))
    assert subscribed[-1].receive(LONG) == [orders.queue.uid]
    subscribed[-1].close()


def test_a_server_that_hangs_is_noticed(
    open_store: OpenStore, own_redis: servers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ends such a connection, so the process checks at intervals whether the server answers."""
    monkeypatch.setattr(redis_wakeups, "_QUIET_SECONDS", 0.1)
    orders = QueueClient(open_store(f"{own_redis.uri}?socket_timeout=1"))
    wakeups = subscribe(orders.store)
    for _ in range(3):
        assert wakeups.receive(0.2) == []
    assert own_redis.client().info("commandstats")["cmdstat_ping"]["calls"] >= 3
    own_redis.program.signal(signal.SIGSTOP)
    try:
        with soon():
            receive_until_lost(wakeups)
    finally:
        own_redis.program.signal(signal.SIGCONT)


def test_a_fail_over_from_a_master_that_hangs_is_noticed(open_store: OpenStore) -> None:
    """Nothing ends the connection to it, but other operations find the new master."""
    group = servers.own(servers.RedisSentinel)
    try:
        orders = QueueClient(open_store(group.uri))
        assert_wakeups_work(orders)
        wakeups = subscribe(orders.store)
        assert group.master.client().wait(1, 2000) == 1
        group.master.program.signal(signal.SIGSTOP)
        group.fail_over_after_a_second()
        when_back(lambda: ask(orders))
        with soon():
            receive_until_lost(wakeups)
        assert_wakeups_work(orders)
    finally:
        group.master.program.signal(signal.SIGCONT)
        group.stop()


def test_a_subscription_ends_with_its_cluster_node_and_goes_to_another(open_store: OpenStore) -> None:
    cluster = servers.own(servers.RedisCluster)
    try:
        store = open_store(cluster.uri)
        queue_clients = [QueueClient(store) for _ in range(40)]
        slots = {slot_of(orders.queue.uid.encode()): orders for orders in queue_clients}
        node = cluster.nodes[1].client()
        first = servers.SLOTS // 3
        unused = next(slot for slot in range(first + 10, first + 60) if slot not in slots)
        # A node that misses a slot refuses all others.
        node.config_set("cluster-require-full-coverage", "yes")
        node.execute_command("CLUSTER", "DELSLOTS", unused)
        state = re.compile(r"cluster_state\W+fail")
        cluster.nodes[1].program.wait_until(lambda: bool(state.search(str(node.execute_command("CLUSTER", "INFO")))))
        refused = [orders for slot, orders in slots.items() if first < slot < 2 * first]
        assert len(refused) > 3
        with soon(), pytest.raises(StoreUnavailable):
            ask(*refused)
        subscribed = [subscribe(store)]
        while _port_of(subscribed[-1]) != cluster.nodes[0].program.port:
            subscribed.append(subscribe(store))
        cluster.nodes[0].kill()
        with soon():
            receive_until_lost(subscribed[-1])
        assert_wakeups_work(next(orders for slot, orders in slots.items() if slot > 2 * first + 1))
        for each in subscribed:
            each.close()
    finally:
        cluster.stop()


def _port_of(wakeups: Wakeups) -> int:
    assert isinstance(wakeups, redis_wakeups.RedisWakeups)
    return wakeups._connection.peer()[1]


# -- rights -----------------------------------------------------------------------------------------------------------


def test_a_store_works_for_a_user_that_may_not_subscribe_or_publish(
    open_store: OpenStore, own_redis: servers.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ["~zaqar:*", "+@all", "-publish", "-subscribe", "resetchannels"]
    own_redis.client().execute_command("ACL", "SETUSER", "zaqar", "on", ">x", *rights)
    store = open_store(own_redis.uri.replace("://", "://zaqar:x@"))
    orders = QueueClient(store)
    with caplog.at_level(logging.WARNING):
        assert store.wakeups() is None
        assert store.wakeups() is None
    assert ["subscribe" in line for line in caplog.messages if "does not let" in line] == [True]
    ask(orders)
    assert orders.post("a") == [1]
    assert len(orders.listing()) == 1
