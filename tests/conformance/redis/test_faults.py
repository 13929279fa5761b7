# SPDX-License-Identifier: Apache-2.0
"""Servers that restart, hang, forget their scripts or are replaced: operations are refused soon, and recover."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from tests import servers
from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, bodies
from tests.conformance.redis.conftest import OpenStore
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.model import DONE, DeliveryKey
from zaqar.storage.redis.store import RedisMessageStore

SOON = 5.0
PATIENCE = 30.0


@contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


def refused_soon(operation: Callable[[], object]) -> None:
    with soon(), pytest.raises(StoreUnavailable) as caught:
        operation()
    assert caught.value.__cause__ is not None


def when_back(operation: Callable[[], object]) -> int:
    """Repeat the operation until it succeeds; return how often it was refused."""
    end = time.monotonic() + PATIENCE
    refused = 0
    while True:
        try:
            with soon():
                operation()
        except StoreUnavailable:
            refused += 1
            assert time.monotonic() < end
            time.sleep(0.1)
        else:
            return refused


def test_scripts_that_were_forgotten_are_loaded_again(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("a")
    own_redis.client().script_flush()
    orders.post("b")
    assert bodies(orders.listing()) == ["a", "b"]


def test_an_operation_after_a_restart_succeeds_at_once(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("a")
    own_redis.kill()
    own_redis.start()
    time.sleep(0.1)
    orders.post("b")
    assert bodies(orders.listing()) == ["a", "b"]


def test_operations_are_refused_soon_while_the_server_is_away(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("a")
    own_redis.kill()
    refused_soon(lambda: orders.post("b"))
    started = time.monotonic()
    for _ in range(10):
        refused_soon(orders.listing)
    assert time.monotonic() - started < SOON, "operations after the first one must not wait again"
    own_redis.start()
    when_back(lambda: orders.post("c"))
    assert bodies(orders.listing()) == ["a", "c"]


def test_operations_are_refused_soon_while_the_server_hangs(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("a")
    own_redis.program.signal(signal.SIGSTOP)
    try:
        refused_soon(orders.listing)
        refused_soon(lambda: orders.post("b"))
    finally:
        own_redis.program.signal(signal.SIGCONT)
    when_back(orders.listing)
    assert bodies(orders.listing())[0] == "a"


def test_a_server_that_never_accepts_is_refused_soon(open_store: OpenStore) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with soon():
            store = open_store(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        refused_soon(store.ping)


def test_a_store_opens_while_its_server_is_away(open_store: OpenStore, own_redis: servers.Redis) -> None:
    own_redis.kill()
    with soon():
        store = open_store(own_redis.uri)
    refused_soon(store.ping)
    own_redis.start()
    when_back(store.ping)


def test_a_wrong_password_stops_the_start_and_is_not_shown(
    own_redis: servers.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.client().config_set("requirepass", "right")
    for uri in (own_redis.uri.replace("127.0.0.1", ":s3cr3t@127.0.0.1"), own_redis.uri):
        with pytest.raises(StartupError) as caught:
            RedisMessageStore.from_settings({"uri": uri})
        assert "log in" in str(caught.value)
        assert "s3cr3t" not in str(caught.value) + caplog.text


def test_parent_and_child_of_a_fork_use_different_connections(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("before")
    child = os.fork()
    if child == 0:
        try:
            for n in range(50):
                orders.post(f"child {n}")
            assert len(orders.listing(limit=1)) == 1
            os._exit(0)
        except BaseException:  # noqa: BLE001, the child reports every error by its exit status
            os._exit(1)
    for n in range(50):
        orders.post(f"parent {n}")
    assert os.waitpid(child, 0)[1] == 0
    assert len(orders.listing()) == 101


def test_acknowledged_posts_survive_kills_of_the_server_and_none_is_stored_twice(
    open_store: OpenStore, own_redis: servers.Redis
) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    done = threading.Event()
    told: list[str] = []

    def post_on() -> None:
        n = 0
        while not done.is_set():
            n += 1
            try:
                orders.post(str(n))
            except StoreUnavailable:
                time.sleep(0.05)
            else:
                told.append(str(n))

    writer = threading.Thread(target=post_on)
    writer.start()
    try:
        for _ in range(3):
            time.sleep(0.3)
            own_redis.kill()
            time.sleep(0.2)
            own_redis.start()
        time.sleep(1.0)
    finally:
        done.set()
        writer.join()
    seen = bodies(orders.listing())
    assert len(told) > 100
    assert len(seen) == len(set(seen)), "stored twice"
    assert set(told) <= set(seen)
    assert len(seen) <= len(told) + 3


def test_an_operation_is_refused_if_too_few_replicas_confirm_it(
    open_store: OpenStore, own_redis: servers.Redis
) -> None:
    store = open_store(own_redis.uri, wait_replicas=1, wait_timeout=0.05)
    assert "nothing can be acknowledged" in store.durability()["warning"]
    with soon(), pytest.raises(StoreUnavailable):
        QueueClient(store)


def test_reads_do_not_wait_for_replicas(open_store: OpenStore, own_redis: servers.Redis) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post("a")
    waiting = open_store(own_redis.uri, wait_replicas=1, wait_timeout=0.05)
    seen = waiting.messages.list_after(queue=orders.queue, after=0, limit=10, now=orders.now)
    assert bodies(seen) == ["a"]


def test_a_server_without_memory_refuses_posts_and_serves_claims(
    open_store: OpenStore, own_redis: servers.Redis
) -> None:
    orders = QueueClient(open_store(own_redis.uri))
    orders.post(*(str(n) for n in range(50)))
    orders.post("late", delay=30)
    orders.claim(5, ttl=60)
    own_redis.client().config_set("maxmemory", "1kb")
    refused_soon(lambda: orders.post("too much"))
    assert bodies(orders.listing()) == [str(n) for n in range(5, 50)]
    for step, first in ((0, "5"), (30, "10"), (30, "0")):
        orders.clock.advance(step)
        assert orders.stats().free > 0
        held, taken = orders.claim(5, ttl=600)
        assert taken[0].body.decode() == first
        orders.delete_many(*(message.sequence for message in taken), claim_ids=[held])
        orders.release(held)
    own_redis.client().config_set("maxmemory", "0")
    orders.post("now")
    assert bodies(orders.listing())[-2:] == ["late", "now"]


def test_operations_go_to_the_new_master_after_a_sentinel_fail_over(open_store: OpenStore) -> None:
    group = servers.own(servers.RedisSentinel)
    try:
        orders = QueueClient(open_store(group.uri))
        orders.post("before")
        assert group.master.client().wait(1, 2000) == 1
        group.master.kill()
        group.fail_over_after_a_second()
        refused_soon(lambda: orders.post("lost"))
        when_back(lambda: orders.post("after"))
        assert bodies(orders.listing()) == ["before", "after"]
        # The old master returns as a replica once the Sentinel has finished the fail-over. No client writes to it.
        group.await_switch_to(group.replica.program.port)
        group.master.start()
        group.master.program.wait_until(lambda: group.master.client().info("replication")["role"] == "slave")
        orders.post("later")
        assert bodies(orders.listing()) == ["before", "after", "later"]
        # A master that is demoted while connections to it are open.
        group.replica.program.wait_until(
            lambda: group.master.client().info("replication")["master_link_status"] == "up"
        )
        wakeups = orders.store.wakeups()
        assert wakeups is not None
        when_back(lambda: demote(group))
        when_back(lambda: orders.post("last"))
        assert bodies(orders.listing())[-1] == "last"
        with pytest.raises(StoreUnavailable):
            wakeups.receive(PATIENCE)
        wakeups.close()
    finally:
        group.stop()


def demote(group: servers.RedisSentinel) -> None:
    try:
        redis.Redis(port=group.sentinel.port).execute_command("SENTINEL", "FAILOVER", group.name)
    except redis.ResponseError as exc:  # the Sentinel refuses a fail-over shortly after another
        raise StoreUnavailable from exc


def test_operations_go_to_the_promoted_replica_after_a_node_is_lost(open_store: OpenStore) -> None:
    cluster = servers.own(lambda: servers.RedisCluster(replica=True))
    try:
        store = open_store(cluster.uri)
        queue_clients = [QueueClient(store) for _ in range(12)]
        for orders in queue_clients:
            orders.post("before")
        assert cluster.nodes[0].client().wait(1, 2000) == 1
        cluster.nodes[0].kill()
        for orders in queue_clients:
            when_back(lambda orders=orders: orders.post("after"))  # type: ignore[misc]
        for orders in queue_clients:
            assert bodies(orders.listing()) == ["before", "after"]
        assert store.volume(now=queue_clients[0].now).free == 24
    finally:
        cluster.stop()


def test_messages_of_a_slot_that_moves_are_served_whole_or_refused(open_store: OpenStore) -> None:
    """A slot moves from one node to another, key by key, while the store is used."""
    cluster = servers.own(servers.RedisCluster)
    try:
        orders = QueueClient(open_store(cluster.uri))
        orders.post(*(str(n) for n in range(50)))
        orders.claim(10)
        move_slot_of(cluster, f"zaqar:{{{orders.queue.uid}}}:fence", during=lambda: when_tried(orders))
        orders.post("after")
        assert bodies(orders.listing())[-1] == "after"
        assert orders.stats().claimed == 10
        texts = bodies(orders.list_everything())
        assert sorted(set(texts)) == sorted(texts)
        assert {str(n) for n in range(50)} <= set(texts)
    finally:
        cluster.stop()


def test_deliveries_of_a_slot_that_moves_are_served_whole_or_refused(open_store: OpenStore) -> None:
    cluster = servers.own(servers.RedisCluster)
    try:
        notifier = NotifierClient(open_store(cluster.uri))
        orders = notifier.open_queue()
        backlogs = [SubscriptionBacklog(notifier, orders.queue.uid) for _ in range(3)]
        names = [backlog.subscription_id for backlog in backlogs]
        orders.post(*(str(n) for n in range(50)))
        (posted,) = notifier.take_posted()
        notifier.expand(posted, deliveries_of(posted, *names))
        delivered: list[DeliveryKey] = []

        def work() -> None:
            with suppress(StoreUnavailable):
                orders.post("during")
            with suppress(StoreUnavailable):
                for posted in notifier.take_posted():
                    notifier.expand(posted, deliveries_of(posted, *names))
            with suppress(StoreUnavailable):
                taken = notifier.take(limit=3, most_of_one=1)
                notifier.settle_as(DONE, taken)
                delivered.extend(each.key for each in taken)

        def work_in_the_middle() -> None:
            with soon():
                work()

        move_slot_of(cluster, f"zaqar:{{{orders.queue.uid}}}:posts", during=work_in_the_middle)
        notifier.clock.advance(LEASE)
        for posted in notifier.take_all_posted():
            notifier.expand(posted, deliveries_of(posted, *names))
        while taken := notifier.take():
            notifier.settle_as(DONE, taken)
            delivered.extend(each.key for each in taken)
        posted_numbers = [message.sequence for message in orders.listing()]
        assert set(delivered) == {backlog.key(number) for backlog in backlogs for number in posted_numbers}
        for backlog in backlogs:
            assert numbers(backlog.listing(DONE)) == posted_numbers[::-1]
            assert backlog.counts() == (0, 0)
    finally:
        cluster.stop()


def when_tried(orders: QueueClient) -> None:
    """During a move an operation is served completely or refused completely."""
    with soon(), suppress(StoreUnavailable):
        orders.post("during")


def migrate(node: Any, port: int, keys: list[str]) -> None:
    """Move keys to another node. On a busy machine, that node may believe for a moment that the others are away."""
    deadline = time.monotonic() + 30
    while True:
        try:
            node.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        except redis.ResponseError as exc:
            if "CLUSTERDOWN" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def move_slot_of(cluster: servers.RedisCluster, key: str, *, during: Callable[[], None]) -> None:
    nodes = [node.client() for node in cluster.nodes]
    slot = int(nodes[0].execute_command("CLUSTER", "KEYSLOT", key))
    names = [node.execute_command("CLUSTER", "MYID") for node in nodes]
    source = next(n for n in range(3) if slot < servers.SLOTS * (n + 1) // 3)
    target = (source + 1) % 3
    nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    port = cluster.nodes[target].program.port
    while keys := nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 4):
        migrate(nodes[source], port, keys)
        during()
    for node in (nodes[target], nodes[source], nodes[3 - source - target]):
        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
