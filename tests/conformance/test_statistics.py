# SPDX-License-Identifier: Apache-2.0
"""Promise 10: statistics are true at each moment, and at rest equal to a listing."""

from __future__ import annotations

import threading

import pytest

from tests.clock import TICK
from tests.conformance.scene import Scene, at_once, bodies
from zaqar.errors import ClientError
from zaqar.model import Stats


def equal_to_a_listing(scene: Scene) -> None:
    stats = scene.stats()
    there = scene.listing(claimed=True)
    assert stats.free == len(scene.listing())
    assert stats.claimed == sum(message.claim_id is not None for message in there)
    assert stats.total == len(there)
    assert stats.oldest == (there[0] if there else None)
    assert stats.newest == (there[-1] if there else None)


def test_an_empty_queue(scene: Scene) -> None:
    assert scene.stats() == Stats(0, 0, None, None)


def test_they_follow_every_step(scene: Scene) -> None:
    scene.post(*"abcdef", ttl=600)
    equal_to_a_listing(scene)
    assert scene.stats().free == 6
    claim_id, _ = scene.claim(3, ttl=60)
    equal_to_a_listing(scene)
    assert (scene.stats().free, scene.stats().claimed) == (3, 3)
    scene.delete(1, claim_id)
    equal_to_a_listing(scene)
    scene.delete_many(2, 6)
    equal_to_a_listing(scene)
    assert (scene.stats().free, scene.stats().claimed) == (2, 1)
    scene.pop(1)
    equal_to_a_listing(scene)
    scene.post("late", delay=30)
    equal_to_a_listing(scene)
    assert scene.stats().total == 2
    scene.release(claim_id)
    equal_to_a_listing(scene)
    assert (scene.stats().free, scene.stats().claimed) == (2, 0)
    scene.clock.advance(30)
    equal_to_a_listing(scene)
    assert scene.stats().free == 3
    scene.purge()
    assert scene.stats() == Stats()


def test_they_follow_the_clock_alone(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.post("b", ttl=3600)
    scene.post("c", delay=50)
    scene.post("d", ttl=130, delay=55)
    scene.claim(1, ttl=60, grace=90)
    scene.claim(1, ttl=100)
    for _ in range(18):
        for step in (10 - 2 * TICK, TICK, TICK):
            scene.clock.advance(step)
            equal_to_a_listing(scene)
    assert (scene.stats().free, scene.stats().claimed) == (2, 0)
    assert bodies(scene.listing()) == ["b", "c"]


def test_oldest_and_newest_are_by_place_and_skip_delayed_ones(scene: Scene) -> None:
    scene.post("late", delay=60)
    scene.post("a")
    scene.post("b")
    scene.post("later", delay=60)
    oldest, newest = scene.stats().oldest, scene.stats().newest
    assert oldest is not None and newest is not None
    assert bodies([oldest, newest]) == ["a", "b"]
    claim_id, _ = scene.claim(2)
    oldest, newest = scene.stats().oldest, scene.stats().newest
    assert oldest is not None and newest is not None
    assert [oldest.claim_id, newest.claim_id] == [claim_id, claim_id]


def test_oldest_is_by_place_and_not_by_the_clock(scene: Scene) -> None:
    scene.post("first")
    scene.clock.advance(-10)
    scene.post("second")
    scene.clock.advance(20)
    assert scene.stats().oldest == scene.get(1)[0]
    assert scene.stats().newest == scene.get(2)[0]


def test_a_failed_delete_changes_no_count(scene: Scene) -> None:
    scene.post("a", "b")
    scene.claim(1)
    before = scene.stats()
    with pytest.raises(ClientError):
        scene.delete(1)
    with pytest.raises(ClientError):
        scene.delete_many(1, 2, claim_ids=["nonsense"])
    assert scene.stats() == before
    equal_to_a_listing(scene)


def test_they_hold_while_others_work(scene: Scene) -> None:
    """60 messages that nobody deletes are claimed and released all the time: each moment counts 60."""
    scene.post(*["x"] * 60)
    done = threading.Event()
    totals: list[int] = []

    def work() -> None:
        while not done.is_set():
            claim_id, _ = scene.claim(7)
            scene.release(claim_id)

    def watch() -> None:
        try:
            totals.extend(scene.stats().total for _ in range(100))
        finally:
            done.set()

    at_once(watch, *[work] * 4)
    assert totals == [60] * 100
    equal_to_a_listing(scene)


def test_the_volume_is_the_sum_of_all_queues(scene: Scene) -> None:
    other = scene.beside()
    before = scene.volume()
    assert (before.oldest, before.newest) == (None, None)
    scene.post(*"abc")
    other.post(*"vwxyz")
    other.post("late", delay=60)
    scene.claim(2)
    other.claim(1)
    now = scene.volume()
    assert (now.free - before.free, now.claimed - before.claimed) == (5, 3)
    other.drop()
    now = scene.volume()
    assert (now.free - before.free, now.claimed - before.claimed) == (1, 2)
    scene.purge()
    assert scene.volume() == before
