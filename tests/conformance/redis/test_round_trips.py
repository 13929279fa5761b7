# SPDX-License-Identifier: Apache-2.0
"""A warm operation is one command, as the server itself counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests import servers
from tests.conformance.queue_client import QueueClient, new_queue
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.subscription_client import SubscriptionClient
from zaqar.model import DeadLetters, QueueName
from zaqar.storage.redis.client.connection import Connection
from zaqar.storage.redis.management import RedisManagementStore

INSIDE = {"info", "config", "config|resetstat", "client", "client|setinfo", "hello", "select"}


def clients(kind: str) -> list[redis.Redis]:
    server = servers.shared(kind)
    nodes = server.nodes if kind == "redis-cluster" else [server]
    return [redis.Redis(port=node.program.port) for node in nodes]


def commands_of(nodes: list[redis.Redis], operation: Callable[[], object]) -> Counter[str]:
    """The commands that clients sent. EVALSHA counts as the only command if no command outside a script was sent."""
    operation()  # once to warm up: connections, and the script
    for node in nodes:
        node.config_resetstat()
    operation()
    counts: Counter[str] = Counter()
    for node in nodes:
        for name, stats in node.info("commandstats").items():
            counts[name.removeprefix("cmdstat_")] += stats["calls"]
    return counts


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
@pytest.mark.parametrize("size", [100, 20_000])
def test_each_operation_is_one_script(kind: str, size: int, open_store: OpenStore) -> None:
    orders = QueueClient(open_store(servers.shared(kind).uri))
    dead_letters = orders.beside()
    nodes = clients(kind)
    orders.post(*["x"] * size)
    held, _ = orders.claim(30, ttl=600)
    numbers = iter(range(1, 30))
    free = iter(range(1000, 2000) if size > 2000 else range(60, 99))
    rules = DeadLetters(dead_letters.queue, 5)
    operations: dict[str, Callable[[], object]] = {
        "post": lambda: orders.post("x"),
        "post 10": lambda: orders.post(*["x"] * 10),
        "list": lambda: orders.listing(limit=10),
        "list all kinds": lambda: orders.listing(limit=10, claimed=True, delayed=True),
        "list without a client": lambda: orders.listing(limit=10, exclude="nobody"),
        "get": lambda: orders.get(1, 50),
        "claim": lambda: orders.claim(1),
        "claim 10": lambda: orders.claim(10),
        "claim with dead letters": lambda: orders.claim(1, dead_letters=rules),
        "get claim": lambda: orders.get_claim(held),
        "renew": lambda: orders.renew(held, ttl=600),
        "delete": lambda: orders.delete(next(free)),
        "delete held": lambda: orders.delete(next(numbers), held),
        "delete several": lambda: orders.delete_many(next(numbers), next(numbers), claim_ids=[held]),
        "pop": lambda: orders.pop(2),
        "stats": lambda: orders.stats(),
        "release": lambda: orders.release(held),
        "purge": lambda: orders.purge(),
    }
    for name, operation in operations.items():
        counts = commands_of(nodes, operation)
        assert counts["evalsha"] == 1, (name, counts)
        assert not counts.keys() & {"eval", "script", "script|load", "watch", "multi", "wait"}, (name, counts)
    for each in (orders, dead_letters):
        each.drop()


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
def test_due_messages_are_promoted_in_the_same_round_trip(kind: str, open_store: OpenStore) -> None:
    orders = QueueClient(open_store(servers.shared(kind).uri))
    nodes = clients(kind)

    def fall_due() -> None:
        orders.post("late", delay=30)
        orders.post("dead", ttl=60)
        orders.claim(5, ttl=60)
        orders.clock.advance(60)

    fall_due()
    orders.claim(5)
    fall_due()
    for node in nodes:
        node.config_resetstat()
    orders.claim(5)
    assert sum(node.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"] for node in nodes) == 1
    orders.drop()


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
def test_a_queue_record_is_read_in_one_command(kind: str) -> None:
    management = RedisManagementStore.from_settings({"uri": servers.shared(kind).uri})
    queue = new_queue(project="round-trips")
    management.queue_records.create(queue=queue)
    counts = commands_of(
        clients(kind), lambda: management.queue_records.get(project=queue.project, kind=queue.kind, name=queue.name)
    )
    assert {name: count for name, count in counts.items() if name not in INSIDE} == {"hget": 1}
    management.queue_records.delete(queue=queue)
    management.close()


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
def test_queue_records_are_found_in_one_round_trip_to_each_server(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    management = RedisManagementStore.from_settings({"uri": servers.shared(kind).uri})
    names = [QueueName(f"project-{n}", "queue", "absent") for n in range(500)]
    queue = management.queue_records.create(queue=new_queue(project="round-trips"))
    names.append(QueueName(queue.project, queue.kind, queue.name))
    trips = []
    exchange = Connection.exchange

    def counted(connection: Connection, data: bytes, replies: int) -> list[Any]:
        trips.append(connection.peer())
        return exchange(connection, data, replies)

    monkeypatch.setattr(Connection, "exchange", counted)
    assert management.queue_records.find(names=names) == {names[-1]: queue}
    assert len(trips) == len(set(trips)) == (1 if kind == "redis" else 3)
    management.queue_records.delete(queue=queue)
    management.close()


def test_an_index_waits_for_replicas_like_the_record_that_it_finds(own_redis: servers.Redis) -> None:
    """In a Cluster the index is on another master. A fail-over that lost it would hide an acknowledged record."""
    replica = servers.Redis("--replicaof", "127.0.0.1", str(own_redis.program.port))
    try:
        replica.program.wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        management = RedisManagementStore.from_settings({"uri": own_redis.uri, "wait_replicas": 1})
        subscribers = SubscriptionClient(management)
        numbers = iter(range(100))
        changes: dict[str, Callable[[], object]] = {
            "create a queue on a pool": lambda: management.queue_records.create(
                queue=replace(new_queue(f"q{next(numbers)}"), pool="one")
            ),
            "create a subscription": lambda: subscribers.create(f"http://{next(numbers)}.example"),
        }
        for name, change in changes.items():
            counts = commands_of([redis.Redis(port=own_redis.program.port)], change)
            assert (counts["evalsha"], counts["wait"]) == (2, 2), (name, counts)
        management.close()
    finally:
        replica.stop()


def test_wait_for_replicas_is_sent_with_the_script(open_store: OpenStore, own_redis: servers.Redis) -> None:
    replica = servers.Redis("--replicaof", "127.0.0.1", str(own_redis.program.port))
    try:
        replica.program.wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        orders = QueueClient(open_store(own_redis.uri, wait_replicas=1))
        nodes = [redis.Redis(port=own_redis.program.port)]
        counts = commands_of(nodes, lambda: orders.post("x"))
        assert (counts["evalsha"], counts["wait"]) == (1, 1)
        assert commands_of(nodes, lambda: orders.delete(1))["wait"] == 1
        for operation in (orders.listing, orders.stats, lambda: orders.get(1)):
            assert commands_of(nodes, operation)["wait"] == 0
    finally:
        replica.stop()
