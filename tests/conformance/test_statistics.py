# SPDX-License-Identifier: Apache-2.0
"""Promise 10, statistics: they are true at each moment, and at rest they equal a listing."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.clock import TICK
from tests.conformance.notifier_client import NotifierClient
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import ClientError
from zaqar.model import DEAD, Delivery, Stats


def equal_to_a_listing(orders: QueueClient) -> None:
    stats = orders.stats()
    there = orders.listing(claimed=True)
    assert stats.free == len(orders.listing())
    assert stats.claimed == sum(message.claim_id is not None for message in there)
    assert stats.total == len(there)
    assert stats.oldest == (there[0] if there else None)
    assert stats.newest == (there[-1] if there else None)


def test_an_empty_queue_counts_nothing(orders: QueueClient) -> None:
    assert orders.stats() == Stats(0, 0, None, None)


def test_statistics_change_with_every_operation(orders: QueueClient) -> None:
    orders.post(*"abcdef", ttl=600)
    equal_to_a_listing(orders)
    assert orders.stats().free == 6
    claim_id, _ = orders.claim(3, ttl=60)
    equal_to_a_listing(orders)
    assert (orders.stats().free, orders.stats().claimed) == (3, 3)
    orders.delete(1, claim_id)
    equal_to_a_listing(orders)
    orders.delete_many(2, 6)
    equal_to_a_listing(orders)
    assert (orders.stats().free, orders.stats().claimed) == (2, 1)
    orders.pop(1)
    equal_to_a_listing(orders)
    orders.post("late", delay=30)
    equal_to_a_listing(orders)
    assert orders.stats().total == 2
    orders.release(claim_id)
    equal_to_a_listing(orders)
    assert (orders.stats().free, orders.stats().claimed) == (2, 0)
    orders.clock.advance(30)
    equal_to_a_listing(orders)
    assert orders.stats().free == 3
    orders.purge()
    assert orders.stats() == Stats()


def test_statistics_change_with_the_clock_alone(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.post("b", ttl=3600)
    orders.post("c", delay=50)
    orders.post("d", ttl=130, delay=55)
    orders.claim(1, ttl=60, grace=90)
    orders.claim(1, ttl=100)
    for _ in range(18):
        for step in (10 - 2 * TICK, TICK, TICK):
            orders.clock.advance(step)
            equal_to_a_listing(orders)
    assert (orders.stats().free, orders.stats().claimed) == (2, 0)
    assert bodies(orders.listing()) == ["b", "c"]


def test_oldest_and_newest_are_by_sequence_and_skip_delayed_messages(orders: QueueClient) -> None:
    orders.post("late", delay=60)
    orders.post("a")
    orders.post("b")
    orders.post("later", delay=60)
    oldest, newest = orders.stats().oldest, orders.stats().newest
    assert oldest is not None and newest is not None
    assert bodies([oldest, newest]) == ["a", "b"]
    claim_id, _ = orders.claim(2)
    oldest, newest = orders.stats().oldest, orders.stats().newest
    assert oldest is not None and newest is not None
    assert [oldest.claim_id, newest.claim_id] == [claim_id, claim_id]


def test_oldest_is_by_sequence_and_not_by_the_clock(orders: QueueClient) -> None:
    orders.post("first")
    orders.clock.advance(-10)
    orders.post("second")
    orders.clock.advance(20)
    assert orders.stats().oldest == orders.get(1)[0]
    assert orders.stats().newest == orders.get(2)[0]


def test_a_failed_delete_changes_no_count(orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.claim(1)
    before = orders.stats()
    with pytest.raises(ClientError):
        orders.delete(1)
    with pytest.raises(ClientError):
        orders.delete_many(1, 2, claim_ids=["nonsense"])
    assert orders.stats() == before
    equal_to_a_listing(orders)


def test_statistics_are_true_during_concurrent_claims_and_releases(orders: QueueClient) -> None:
    """60 messages that nobody deletes are claimed and released all the time: each moment counts 60."""
    orders.post(*["x"] * 60)
    done = threading.Event()
    totals: list[int] = []

    def work() -> None:
        while not done.is_set():
            claim_id, _ = orders.claim(7)
            orders.release(claim_id)

    def watch() -> None:
        try:
            totals.extend(orders.stats().total for _ in range(100))
        finally:
            done.set()

    at_once(watch, *[work] * 4)
    assert totals == [60] * 100
    equal_to_a_listing(orders)


def test_the_volume_is_the_sum_of_all_queues(orders: QueueClient) -> None:
    other = orders.beside()
    before = orders.volume()
    orders.post(*"abc")
    other.post(*"vwxyz")
    other.post("late", delay=60)
    orders.claim(2)
    other.claim(1)
    now = orders.volume()
    assert (now.free - before.free, now.claimed - before.claimed, now.delayed - before.delayed) == (5, 3, 1)
    other.clock.advance(60)
    now = orders.volume()
    assert now.delayed == before.delayed
    other.drop()
    now = orders.volume()
    assert now.total - before.total == 3
    orders.purge()
    assert orders.volume().total == before.total


def test_the_volume_tells_the_age_of_the_oldest_message(orders: QueueClient) -> None:
    began = orders.now
    orders.post("a")
    orders.clock.advance(10)
    orders.post("b")
    oldest = orders.volume().oldest
    assert oldest is not None
    # Other queues of the store may have older messages.
    assert oldest <= began
    orders.claim(1)
    claimed = orders.volume().oldest
    assert claimed is not None
    assert claimed <= began


def test_the_volume_counts_deliveries_by_state(notifier: NotifierClient) -> None:
    before, began = notifier.store.volume(now=notifier.now), notifier.now
    uid = notifier.open_queue().queue.uid
    first = Delivery(uid, "a" * 24, 1, b"1", 60, began, "c", began)
    notifier.put(first, *(replace(first, number=n, created=began + n) for n in (2, 3)))
    now = notifier.store.volume(now=notifier.now)
    assert (now.waiting - before.waiting, now.dead - before.dead) == (3, 0)
    assert now.oldest_waiting is not None
    assert now.oldest_waiting <= began
    # A lease does not change the state.
    taken = notifier.take(limit=1)
    dead = [replace(each, state=DEAD, owner=None, keep_until=notifier.now + 3600) for each in taken]
    assert notifier.store.volume(now=notifier.now).waiting - before.waiting == 3
    notifier.store.deliveries.settle(owner="me", settled=dead, now=notifier.now)
    now = notifier.store.volume(now=notifier.now)
    assert (now.waiting - before.waiting, now.dead - before.dead) == (2, 1)
