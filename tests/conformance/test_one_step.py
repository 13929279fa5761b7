# SPDX-License-Identifier: Apache-2.0
"""Promises 1, 6, 7 and 10, one step: no reader sees a change that is half done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from tests.conformance.drivers import Driver
from tests.conformance.queue_client import QueueClient, at_once
from zaqar.errors import StaleQueue
from zaqar.model import DeadLetters

SIZE = 700
"""More than any driver should want to move in one batch."""


def seen_during(change: Callable[[], object], look: Callable[[], int]) -> set[int]:
    """What three onlookers saw from before the change began until after it ended."""
    seen: set[int] = set()
    started, ended = threading.Barrier(4), threading.Event()

    def act() -> None:
        started.wait(60)
        try:
            change()
        finally:
            ended.set()

    def watch() -> None:
        seen.add(look())
        started.wait(60)
        while not ended.is_set():
            seen.add(look())
        seen.add(look())

    at_once(act, watch, watch, watch)
    return seen


def test_a_post_is_seen_whole_or_not_at_all(orders: QueueClient) -> None:
    def post_three() -> None:
        for _ in range(3):
            orders.post(*["x"] * SIZE)

    assert seen_during(post_three, lambda: len(orders.listing())) <= {0, SIZE, 2 * SIZE, 3 * SIZE}


def test_statistics_count_a_post_whole_or_not_at_all(orders: QueueClient) -> None:
    def post_three() -> None:
        for _ in range(3):
            orders.post(*["x"] * SIZE)

    assert seen_during(post_three, lambda: orders.stats().total) <= {0, SIZE, 2 * SIZE, 3 * SIZE}


def test_a_purge_is_seen_whole_or_not_at_all(orders: QueueClient) -> None:
    orders.post(*["x"] * SIZE)
    orders.claim(SIZE // 2)
    assert seen_during(orders.purge, lambda: len(orders.listing(claimed=True))) == {0, SIZE}


def test_a_drop_is_seen_whole_or_not_at_all(orders: QueueClient) -> None:
    orders.post(*["x"] * SIZE)

    def count() -> int:
        try:
            return len(orders.listing())
        except StaleQueue:
            return -1

    assert seen_during(orders.drop, count) == {-1, SIZE}


def test_a_bulk_delete_is_seen_whole_or_not_at_all(orders: QueueClient) -> None:
    orders.post(*["x"] * SIZE)
    claim_id, _ = orders.claim(20)
    delete = partial(orders.delete_many, *range(1, 21), claim_ids=[claim_id])
    assert seen_during(delete, lambda: len(orders.listing(claimed=True))) == {SIZE, SIZE - 20}


def test_a_claim_and_its_release_are_seen_whole_or_not_at_all(orders: QueueClient) -> None:
    orders.post(*["x"] * SIZE)

    def claim_and_release() -> None:
        for _ in range(5):
            claim_id, _ = orders.claim(20)
            orders.release(claim_id)

    assert seen_during(claim_and_release, lambda: len(orders.listing())) <= {SIZE, SIZE - 20}


def test_a_moving_dead_letter_is_in_exactly_one_queue_at_each_moment(driver: Driver, orders: QueueClient) -> None:
    """At each moment the message is in exactly one of the two queues: the sum over all queues stays.

    If two queues cannot change together, it may for a moment be in neither, but never in both. Then nobody sees both at
    one moment either: who looks at the source first counts a message twice that moves meanwhile, so this test looks at
    the dead letters first.
    """
    dead = orders.beside()
    orders.post(*["x"] * SIZE)
    orders.claim_and_release(SIZE, times=1)
    before = orders.volume().total
    move = partial(orders.claim, 1, dead_letters=DeadLetters(dead.queue, 1))

    def count() -> int:
        if driver.one_step_across_queues:
            return orders.volume().total
        others = before - SIZE
        return others + dead.stats().total + orders.stats().total

    seen = seen_during(move, count)
    assert max(seen) == before
    assert len(seen) == 1 or not driver.one_step_across_queues
    assert orders.volume().total == before
    assert dead.stats().total == SIZE
    dead.drop()


def test_many_claims_end_at_one_moment_for_all_readers(orders: QueueClient) -> None:
    """Nobody changes anything here but the clock; whoever looks at the same time of it sees the same."""
    orders.post(*["x"] * SIZE)
    orders.claim(SIZE, ttl=60)
    orders.clock.advance(60)
    assert seen_during(lambda: orders.claim(1), lambda: orders.stats().total) == {SIZE}
