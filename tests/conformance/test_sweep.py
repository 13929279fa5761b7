# SPDX-License-Identifier: Apache-2.0
"""A sweep removes what is dead, is bounded, comes to an end, and changes nothing that anybody can see."""

from __future__ import annotations

import threading

import pytest

from tests.conformance.outbox import Lane, Outbox
from tests.conformance.scene import Scene, at_once, bodies
from zaqar.cmd import gc
from zaqar.model import DONE
from zaqar.storage.base import MessageStore


def sweep_clean(store: MessageStore, now: float, limit: int = 1000) -> list[int]:
    """How many each sweep removed, until there was nothing left."""
    removed = []
    while count := store.sweep(now=now, limit=limit):
        removed.append(count)
        assert len(removed) < 10_000
    return removed


def test_expired_messages_are_removed_in_bounded_steps(scene: Scene) -> None:
    sweep_clean(scene.store, scene.now)
    scene.post(*["x"] * 400, ttl=60)
    scene.post("alive", ttl=3600)
    scene.clock.advance(60)
    removed = sweep_clean(scene.store, scene.now, limit=100)
    assert sum(removed) >= 400
    assert max(removed) <= 200
    assert scene.store.sweep(now=scene.now, limit=100) == 0
    assert bodies(scene.list_everything()) == ["alive"]


def test_a_sweep_of_less_than_its_limit_has_left_nothing(scene: Scene) -> None:
    """More queues than a driver looks at in one step; a sweeper leaves the store then."""
    sweep_clean(scene.store, scene.now)
    queues = [scene.beside() for _ in range(60)]
    for number, queue in enumerate(queues):
        queue.post("a", "b", "c", ttl=60)
        queue.claim(1, ttl=60, grace=60)
        if number % 3 == 0:
            queue.purge()
    scene.clock.advance(200)
    removed = []
    while not removed or removed[-1] >= 50:
        removed.append(scene.store.sweep(now=scene.now, limit=50))
    assert sum(removed) >= 120
    assert scene.store.sweep(now=scene.now, limit=50) == 0
    for queue in queues:
        queue.drop()
    if scene.store.sweep(now=scene.now, limit=1000) < 1000:
        assert scene.store.sweep(now=scene.now, limit=1000) == 0


def test_a_sweeper_leaves_the_store_after_its_share(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on in the next round, until no more is there than a batch has room for."""
    monkeypatch.setattr(gc, "BATCH", 50)
    sweep_clean(scene.store, scene.now)
    scene.post(*["x"] * 400, ttl=60)
    scene.clock.advance(60)
    shares = []
    while not shares or not shares[-1][1]:
        shares.append(gc.sweep(scene.store, clock=scene.clock, pause=lambda: None, most=100, seconds=60))
    assert len(shares) >= 3
    assert all(100 <= removed <= 200 for removed, is_clean in shares if not is_clean)
    assert sum(removed for removed, _ in shares) >= 400
    assert scene.store.sweep(now=scene.now, limit=50) == 0


def test_a_dropped_queue_is_removed_in_bounded_steps(scene: Scene) -> None:
    other = scene.beside()
    other.post(*["x"] * 400)
    other.claim(200)
    other.drop()
    removed = sweep_clean(scene.store, scene.now, limit=100)
    assert not removed or max(removed) <= 200
    assert scene.store.sweep(now=scene.now, limit=100) == 0


def test_a_purged_queue_is_removed_and_goes_on(scene: Scene) -> None:
    scene.post(*["x"] * 400)
    scene.claim(200)
    scene.purge()
    scene.post("new")
    sweep_clean(scene.store, scene.now, limit=100)
    assert bodies(scene.list_everything()) == ["new"]
    assert scene.post("next") == [402]


def test_nobody_sees_a_sweep(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.post("b", "c", "d", ttl=600)
    scene.post("late", ttl=600, delay=120)
    scene.clock.advance(30)
    live, _ = scene.claim(2, ttl=60, grace=60)
    over, _ = scene.claim(1, ttl=30)
    for step in (0, 29, 1, 29, 1, 30, 30, 30):
        scene.clock.advance(step)
        before = scene.list_everything(), scene.listing(), scene.stats(), scene.get(1, 2, 3, 4, 5)
        sweep_clean(scene.store, scene.now)
        assert before == (scene.list_everything(), scene.listing(), scene.stats(), scene.get(1, 2, 3, 4, 5))
    scene.release(live)
    scene.release(over)
    assert bodies(scene.claim()[1]) == ["b", "c", "d", "late"]


def test_a_live_claim_that_holds_nothing_survives_a_sweep(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=600)
    scene.delete(1, claim_id)
    sweep_clean(scene.store, scene.now)
    assert scene.get_claim(claim_id)[1] == []


def test_a_claimed_message_past_its_first_ttl_survives_a_sweep(scene: Scene) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=300, grace=60)
    scene.clock.advance(120)
    sweep_clean(scene.store, scene.now)
    assert bodies(scene.get_claim(claim_id)[1]) == ["a"]
    scene.clock.advance(180)
    sweep_clean(scene.store, scene.now)
    assert bodies(scene.listing()) == ["a"]
    scene.clock.advance(60)
    sweep_clean(scene.store, scene.now)
    assert scene.list_everything() == []


def test_a_sweep_beside_everything_else_leaves_true_statistics(scene: Scene) -> None:
    """What it found dead may have been purged, and the queue be full of other messages, when it comes to remove it."""
    done = threading.Event()

    def sweep_on() -> None:
        while not done.is_set():
            scene.store.sweep(now=scene.now, limit=10)

    def live_on() -> None:
        try:
            for _ in range(150):
                scene.post(*["y"] * 5)
                claim_id, _ = scene.claim(4)
                scene.clock.advance(-120)
                scene.post(*["x"] * 5, ttl=60)
                scene.clock.advance(120)
                scene.purge()
                scene.release(claim_id)
        finally:
            done.set()

    at_once(live_on, sweep_on, sweep_on)
    scene.post("a", "b", "c")
    sweep_clean(scene.store, scene.now)
    assert bodies(scene.list_everything()) == ["a", "b", "c"]
    assert (scene.stats().free, scene.stats().claimed) == (3, 0)


def test_what_expires_all_the_time_does_not_keep_deliveries_from_going(outbox: Outbox) -> None:
    """Each sweep finds more expired messages than it removes, and still comes to deliveries that are over."""
    sweep_clean(outbox.store, outbox.now)
    scene = outbox.new_scene(notify=False)
    scene.post(*["x"] * 900, ttl=60)
    settled, dropped = Lane(outbox, scene.queue.uid), Lane(outbox, scene.queue.uid)
    settled.fill(3)
    outbox.settle_as(DONE, outbox.take(), kept=30)
    dropped.fill(3)
    outbox.clock.advance(60)
    outbox.store.delivery_log.drop(
        queue_uid=dropped.queue_uid, subscription_ids=[dropped.subscription_id], now=outbox.now
    )
    for _ in range(4):
        assert 0 < outbox.store.sweep(now=outbox.now, limit=100) <= 200
    assert settled.listing() == dropped.listing() == []
