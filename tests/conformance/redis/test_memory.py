# SPDX-License-Identifier: Apache-2.0
"""Expired and deleted records are removed completely, in bounded batches, and no reader ever sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests import servers
from tests.conformance.queue_client import QueueClient, bodies
from tests.conformance.redis.conftest import OpenStore

MANY = 3000


@pytest.fixture
def client(own_redis: servers.Redis) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis.program.port) as client:
        yield client


@pytest.fixture
def orders(open_store: OpenStore, own_redis: servers.Redis) -> QueueClient:
    return QueueClient(open_store(own_redis.uri))


def key(orders: QueueClient, word: str) -> str:
    return f"zaqar:{{{orders.queue.uid}}}:{word}"


def sweep(orders: QueueClient) -> int:
    removed = 0
    while count := orders.store.sweep(now=orders.now, limit=100).removed:
        assert count <= 200
        removed += count
    return removed


def fill(orders: QueueClient) -> None:
    """Post many expired messages, and a few of every other kind between them."""
    orders.post("claimed", "living", ttl=3600)
    orders.claim(1, ttl=600)
    for n in range(0, MANY, 500):
        orders.post(*["expired"] * 500, ttl=60)
        orders.post(f"living {n}", ttl=3600)
    orders.post("late", ttl=3600, delay=900)
    orders.clock.advance(60)


LIVING = ["living", *(f"living {n}" for n in range(0, MANY, 500))]


def assert_listing_is_right(orders: QueueClient) -> None:
    assert bodies(orders.listing()) == LIVING
    assert bodies(orders.list_everything()) == ["claimed", *LIVING, "late"]
    stats = orders.stats()
    assert (stats.free, stats.claimed) == (len(LIVING), 1)
    assert (orders.volume().free, orders.volume().claimed) == (len(LIVING), 1)
    assert orders.get(3, 502, 700) == []
    orders.delete(3)
    orders.delete_many(4, 5, claim_ids=["nonsense"])
    assert orders.stats() == stats


def test_very_many_expired_messages_are_hidden_in_one_step(orders: QueueClient, client: redis.Redis) -> None:
    fill(orders)
    assert_listing_is_right(orders)
    assert client.zcard(key(orders, "expired")) == MANY
    assert client.zcard(key(orders, "ready")) == client.zcard(key(orders, "expiry")) == len(LIVING)
    assert sweep(orders) == MANY
    assert not client.exists(key(orders, "expired"))
    assert client.hlen(key(orders, "messages")) == len(LIVING) + 2
    assert_listing_is_right(orders)
    orders.clock.advance(840)
    assert bodies(orders.claim()[1]) == ["claimed", *LIVING, "late"]


def test_messages_that_expire_before_a_removal_has_ended_are_hidden_and_removed_too(
    orders: QueueClient, client: redis.Redis
) -> None:
    fill(orders)
    assert_listing_is_right(orders)
    orders.post(*["expired as well"] * MANY, ttl=60)
    orders.clock.advance(60)
    assert client.exists(key(orders, "expired"))
    assert_listing_is_right(orders)
    sweep(orders)
    assert client.hlen(key(orders, "messages")) == len(LIVING) + 2
    assert_listing_is_right(orders)


def test_a_queue_without_readers_stays_small(orders: QueueClient, client: redis.Redis) -> None:
    for _ in range(60):
        orders.post(*["x"] * 50, ttl=60)
        orders.clock.advance(5)
    assert client.hlen(key(orders, "messages")) < 1500


def test_no_key_is_left_after_all_messages_are_gone(orders: QueueClient, client: redis.Redis) -> None:
    before = set(client.keys("*"))
    orders.post(*["x"] * 50)
    orders.post("late", delay=30)
    held, taken = orders.claim(20)
    orders.delete_many(*(message.sequence for message in taken), claim_ids=[held])
    orders.claim_and_release(5, times=2)
    aside = orders.store.dead_letters.set_aside(queue=orders.queue, max_claim_count=2, limit=10, now=orders.now)
    orders.store.dead_letters.forget(
        queue=orders.queue, sequences=[message.sequence for message in aside], now=orders.now
    )
    orders.pop(10)
    orders.clock.advance(3600)
    sweep(orders)
    assert set(client.keys("*")) == before
    orders.drop()
    assert {name for name in client.keys("*") if b"{" in name} == {key(orders, "fence").encode()}
    orders.clock.advance(86_400)
    sweep(orders)
    assert client.keys("*") == []


def test_memory_is_reused_after_messages_are_removed(orders: QueueClient, client: redis.Redis) -> None:
    def post_and_remove(rounds: int) -> int:
        for _ in range(rounds):
            orders.post(*["x" * 500] * 200, ttl=300)
            held, taken = orders.claim(100, ttl=60)
            orders.delete_many(*(message.sequence for message in taken), claim_ids=[held])
            orders.clock.advance(60)
        orders.clock.advance(3600)
        sweep(orders)
        return int(client.info("memory")["used_memory"])

    first = post_and_remove(5)
    assert abs(post_and_remove(50) - first) < 300_000
