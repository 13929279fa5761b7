# SPDX-License-Identifier: Apache-2.0
"""``MessageStore.sweep``: it removes dead records in bounded steps, comes to an end, and changes no result."""

from __future__ import annotations

import threading

import pytest

from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.cmd import gc
from zaqar.model import DONE
from zaqar.storage.base import MessageStore


def sweep_clean(store: MessageStore, now: float, limit: int = 1000) -> list[int]:
    """How many each sweep removed, until there was nothing left."""
    removed = []
    while count := store.sweep(now=now, limit=limit).removed:
        removed.append(count)
        assert len(removed) < 10_000
    return removed


def test_expired_messages_are_removed_in_bounded_steps(orders: QueueClient) -> None:
    sweep_clean(orders.store, orders.now)
    orders.post(*["x"] * 400, ttl=60)
    orders.post("alive", ttl=3600)
    orders.clock.advance(60)
    removed = sweep_clean(orders.store, orders.now, limit=100)
    assert sum(removed) >= 400
    assert max(removed) <= 200
    assert orders.store.sweep(now=orders.now, limit=100).removed == 0
    assert bodies(orders.list_everything()) == ["alive"]


def test_a_sweep_counts_the_expired_messages_that_it_removes(orders: QueueClient) -> None:
    """Purged and dropped messages have not expired, and a claim is no message."""
    sweep_clean(orders.store, orders.now)
    purged, dropped = orders.beside(), orders.beside()
    for queue in (orders, purged, dropped):
        queue.post(*["x"] * 30, ttl=60)
    orders.post("alive", ttl=3600)
    orders.claim(1, ttl=60, grace=60)
    purged.purge()
    dropped.drop()
    orders.clock.advance(200)
    expired = 0
    while (swept := orders.store.sweep(now=orders.now, limit=1000)).removed:
        expired += swept.expired
    assert expired == 30
    purged.drop()


def test_a_sweep_that_removes_less_than_its_limit_has_left_nothing(orders: QueueClient) -> None:
    """More queues than a driver looks at in one step; a sweeper leaves the store then."""
    sweep_clean(orders.store, orders.now)
    queues = [orders.beside() for _ in range(60)]
    for number, queue in enumerate(queues):
        queue.post("a", "b", "c", ttl=60)
        queue.claim(1, ttl=60, grace=60)
        if number % 3 == 0:
            queue.purge()
    orders.clock.advance(200)
    removed = []
    while not removed or removed[-1] >= 50:
        removed.append(orders.store.sweep(now=orders.now, limit=50).removed)
    assert sum(removed) >= 120
    assert orders.store.sweep(now=orders.now, limit=50).removed == 0
    for queue in queues:
        queue.drop()
    if orders.store.sweep(now=orders.now, limit=1000).removed < 1000:
        assert orders.store.sweep(now=orders.now, limit=1000).removed == 0


def test_a_sweeper_leaves_a_store_after_its_share_and_continues_in_the_next_round(
    orders: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on in the next round, until no more is there than a batch has room for."""
    monkeypatch.setattr(gc, "BATCH", 50)
    sweep_clean(orders.store, orders.now)
    orders.post(*["x"] * 400, ttl=60)
    orders.clock.advance(60)
    shares = []
    while not shares or not shares[-1][1]:
        shares.append(gc.sweep(orders.store, clock=orders.clock, pause=lambda: None, most=100, seconds=60))
    assert len(shares) >= 3
    assert all(100 <= removed <= 200 for removed, is_clean in shares if not is_clean)
    assert sum(removed for removed, _ in shares) >= 400
    assert orders.store.sweep(now=orders.now, limit=50).removed == 0


def test_a_dropped_queue_is_removed_in_bounded_steps(orders: QueueClient) -> None:
    other = orders.beside()
    other.post(*["x"] * 400)
    other.claim(200)
    other.drop()
    removed = sweep_clean(orders.store, orders.now, limit=100)
    assert not removed or max(removed) <= 200
    assert orders.store.sweep(now=orders.now, limit=100).removed == 0


def test_the_messages_of_a_purged_queue_are_removed_and_the_queue_can_be_used(orders: QueueClient) -> None:
    orders.post(*["x"] * 400)
    orders.claim(200)
    orders.purge()
    orders.post("new")
    sweep_clean(orders.store, orders.now, limit=100)
    assert bodies(orders.list_everything()) == ["new"]
    assert orders.post("next") == [402]


def test_a_sweep_changes_no_result(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.post("b", "c", "d", ttl=600)
    orders.post("late", ttl=600, delay=120)
    orders.clock.advance(30)
    live, _ = orders.claim(2, ttl=60, grace=60)
    over, _ = orders.claim(1, ttl=30)
    for step in (0, 29, 1, 29, 1, 30, 30, 30):
        orders.clock.advance(step)
        before = orders.list_everything(), orders.listing(), orders.stats(), orders.get(1, 2, 3, 4, 5)
        sweep_clean(orders.store, orders.now)
        assert before == (orders.list_everything(), orders.listing(), orders.stats(), orders.get(1, 2, 3, 4, 5))
    orders.release(live)
    orders.release(over)
    assert bodies(orders.claim()[1]) == ["b", "c", "d", "late"]


def test_a_live_claim_without_messages_survives_a_sweep(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=600)
    orders.delete(1, claim_id)
    sweep_clean(orders.store, orders.now)
    assert orders.get_claim(claim_id)[1] == []


def test_a_claimed_message_past_its_first_ttl_survives_a_sweep(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=300, grace=60)
    orders.clock.advance(120)
    sweep_clean(orders.store, orders.now)
    assert bodies(orders.get_claim(claim_id)[1]) == ["a"]
    orders.clock.advance(180)
    sweep_clean(orders.store, orders.now)
    assert bodies(orders.listing()) == ["a"]
    orders.clock.advance(60)
    sweep_clean(orders.store, orders.now)
    assert orders.list_everything() == []


def test_statistics_are_true_after_sweeps_during_other_operations(orders: QueueClient) -> None:
    """What it found dead may have been purged, and the queue be full of other messages, when it comes to remove it."""
    done = threading.Event()

    def sweep_on() -> None:
        while not done.is_set():
            orders.store.sweep(now=orders.now, limit=10)

    def live_on() -> None:
        try:
            for _ in range(150):
                orders.post(*["y"] * 5)
                claim_id, _ = orders.claim(4)
                orders.clock.advance(-120)
                orders.post(*["x"] * 5, ttl=60)
                orders.clock.advance(120)
                orders.purge()
                orders.release(claim_id)
        finally:
            done.set()

    at_once(live_on, sweep_on, sweep_on)
    orders.post("a", "b", "c")
    sweep_clean(orders.store, orders.now)
    assert bodies(orders.list_everything()) == ["a", "b", "c"]
    assert (orders.stats().free, orders.stats().claimed) == (3, 0)


def test_messages_that_keep_expiring_do_not_keep_deliveries_from_being_swept(notifier: NotifierClient) -> None:
    """Each sweep finds more expired messages than it removes, and still comes to deliveries that are over."""
    sweep_clean(notifier.store, notifier.now)
    orders = notifier.open_queue(notify=False)
    orders.post(*["x"] * 900, ttl=60)
    settled, dropped = SubscriptionBacklog(notifier, orders.queue.uid), SubscriptionBacklog(notifier, orders.queue.uid)
    settled.fill(3)
    notifier.settle_as(DONE, notifier.take(), kept=30)
    dropped.fill(3)
    notifier.clock.advance(60)
    notifier.store.delivery_log.drop(
        queue_uid=dropped.queue_uid, subscription_ids=[dropped.subscription_id], now=notifier.now
    )
    for _ in range(4):
        assert 0 < notifier.store.sweep(now=notifier.now, limit=100).removed <= 200
    assert settled.listing() == dropped.listing() == []
