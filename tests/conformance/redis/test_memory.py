# SPDX-License-Identifier: Apache-2.0
"""Dead records are removed completely, in bounded batches, and no reader ever sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests import servers
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.scene import Scene, bodies

MANY = 3000


@pytest.fixture
def client(own_redis: servers.Redis) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis.program.port) as client:
        yield client


@pytest.fixture
def scene(open_store: OpenStore, own_redis: servers.Redis) -> Scene:
    return Scene(open_store(own_redis.uri))


def key(scene: Scene, word: str) -> str:
    return f"zaqar:{{{scene.queue.uid}}}:{word}"


def sweep(scene: Scene) -> int:
    removed = 0
    while count := scene.store.sweep(now=scene.now, limit=100):
        assert count <= 200
        removed += count
    return removed


def fill(scene: Scene) -> None:
    """Many expired messages, and a few of every other kind between them."""
    scene.post("claimed", "living", ttl=3600)
    scene.claim(1, ttl=600)
    for n in range(0, MANY, 500):
        scene.post(*["expired"] * 500, ttl=60)
        scene.post(f"living {n}", ttl=3600)
    scene.post("late", ttl=3600, delay=900)
    scene.clock.advance(60)


LIVING = ["living", *(f"living {n}" for n in range(0, MANY, 500))]


def is_right(scene: Scene) -> None:
    assert bodies(scene.listing()) == LIVING
    assert bodies(scene.list_everything()) == ["claimed", *LIVING, "late"]
    stats = scene.stats()
    assert (stats.free, stats.claimed) == (len(LIVING), 1)
    assert (scene.volume().free, scene.volume().claimed) == (len(LIVING), 1)
    assert scene.get(3, 502, 700) == []
    scene.delete(3)
    scene.delete_many(4, 5, claim_ids=["nonsense"])
    assert scene.stats() == stats


def test_very_many_expired_messages_are_hidden_in_one_step(scene: Scene, client: redis.Redis) -> None:
    fill(scene)
    is_right(scene)
    assert client.zcard(key(scene, "expired")) == MANY
    assert client.zcard(key(scene, "ready")) == client.zcard(key(scene, "expiry")) == len(LIVING)
    assert sweep(scene) == MANY
    assert not client.exists(key(scene, "expired"))
    assert client.hlen(key(scene, "messages")) == len(LIVING) + 2
    is_right(scene)
    scene.clock.advance(840)
    assert bodies(scene.claim()[1]) == ["claimed", *LIVING, "late"]


def test_more_messages_expire_before_the_first_are_removed(scene: Scene, client: redis.Redis) -> None:
    fill(scene)
    is_right(scene)
    scene.post(*["expired as well"] * MANY, ttl=60)
    scene.clock.advance(60)
    assert client.exists(key(scene, "expired"))
    is_right(scene)
    sweep(scene)
    assert client.hlen(key(scene, "messages")) == len(LIVING) + 2
    is_right(scene)


def test_a_queue_that_nobody_reads_stays_small(scene: Scene, client: redis.Redis) -> None:
    for _ in range(60):
        scene.post(*["x"] * 50, ttl=60)
        scene.clock.advance(5)
    assert client.hlen(key(scene, "messages")) < 1500


def test_no_key_is_left_after_all_messages_are_gone(scene: Scene, client: redis.Redis) -> None:
    before = set(client.keys("*"))
    scene.post(*["x"] * 50)
    scene.post("late", delay=30)
    held, taken = scene.claim(20)
    scene.delete_many(*(message.sequence for message in taken), claim_ids=[held])
    scene.wear_out(5, times=2)
    aside = scene.store.dead_letters.set_aside(queue=scene.queue, max_claim_count=2, limit=10, now=scene.now)
    scene.store.dead_letters.forget(queue=scene.queue, sequences=[message.sequence for message in aside], now=scene.now)
    scene.pop(10)
    scene.clock.advance(3600)
    sweep(scene)
    assert set(client.keys("*")) == before
    scene.drop()
    assert {name for name in client.keys("*") if b"{" in name} == {key(scene, "fence").encode()}
    scene.clock.advance(86_400)
    sweep(scene)
    assert client.keys("*") == []


def test_memory_is_given_back(scene: Scene, client: redis.Redis) -> None:
    def come_and_go(rounds: int) -> int:
        for _ in range(rounds):
            scene.post(*["x" * 500] * 200, ttl=300)
            held, taken = scene.claim(100, ttl=60)
            scene.delete_many(*(message.sequence for message in taken), claim_ids=[held])
            scene.clock.advance(60)
        scene.clock.advance(3600)
        sweep(scene)
        return int(client.info("memory")["used_memory"])

    first = come_and_go(5)
    assert abs(come_and_go(50) - first) < 300_000
