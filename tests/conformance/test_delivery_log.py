# SPDX-License-Identifier: Apache-2.0
"""The log of deliveries: listed page by page, counted, sent again, and removed when they were kept long enough."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.clock import TICK
from tests.conformance.outbox import KEPT, LEASE, Lane, Outbox, numbers
from tests.conformance.scene import at_once
from tests.conformance.test_deliveries import ATTEMPTS
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Delivery


@pytest.fixture
def lane(outbox: Outbox) -> Lane:
    return Lane(outbox)


def settle_some(lane: Lane, *, total: int = 12, kept: float = KEPT) -> list[Delivery]:
    """Deliveries of which every third is done, the next ones dead, the others leased or waiting; the newest first."""
    outbox = lane.outbox
    lane.fill(total)
    taken = outbox.take_all()
    outbox.settle_as(DONE, [each for each in taken if each.number % 3 == 0], kept=kept)
    outbox.settle_as(DEAD, [each for each in taken if each.number % 3 == 1], kept=kept)
    outbox.retry_at(outbox.now + 60, [each for each in taken if each.number % 6 == 2])
    return lane.listing()


# -- listing and counts -----------------------------------------------------------------------------------------------


def test_the_newest_come_first(lane: Lane) -> None:
    settle_some(lane)
    assert numbers(lane.listing()) == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert numbers(lane.listing(DONE)) == [12, 9, 6, 3]
    assert numbers(lane.listing(DEAD)) == [10, 7, 4, 1]
    assert numbers(lane.listing(WAITING)) == [11, 8, 5, 2]
    assert lane.counts() == (4, 4)
    assert numbers(lane.listing(limit=3)) == [12, 11, 10]
    assert numbers(lane.listing(DEAD, limit=3)) == [10, 7, 4]
    assert numbers(lane.listing(before=4)) == [3, 2, 1]
    assert numbers(lane.listing(DONE, before=9)) == [6, 3]
    assert numbers(lane.listing(DEAD, before=9, limit=1)) == [7]
    assert lane.listing(before=1) == lane.listing(DONE, before=3) == []
    assert numbers(lane.listing(before=2**40)) == numbers(lane.listing())


@pytest.mark.parametrize("state", [None, WAITING, DONE, DEAD])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_following_the_pages_while_new_ones_come(outbox: Outbox, lane: Lane, state: str | None, size: int) -> None:
    expected = [each for each in settle_some(lane, total=30) if state in (None, each.state)]
    seen: list[Delivery] = []
    while page := lane.listing(state, before=seen[-1].number if seen else None, limit=size):
        assert len(page) == min(size, len(expected) - len(seen))
        seen += page
        first = 31 + 3 * len(seen)
        outbox.put(*(lane.new(n, due=outbox.now + 60) for n in range(first, first + 3)))
    assert seen == expected


def test_a_confirmation_is_listed_last(outbox: Outbox, lane: Lane) -> None:
    outbox.put(lane.new(0), lane.new(5))
    assert numbers(lane.listing()) == [5, 0]
    assert numbers(lane.listing(before=5)) == [0]
    assert lane.listing(before=0) == []


# -- resend -----------------------------------------------------------------------------------------------------------


def test_some_are_sent_again(outbox: Outbox, lane: Lane) -> None:
    before = {each.number: each for each in settle_some(lane)}
    outbox.clock.advance(1)
    assert lane.resend(1, 3, 4, 99) == 3
    for number in (1, 3, 4):
        expected = replace(before[number], state=WAITING, due=outbox.now, owner=None, tries=0, keep_until=None)
        assert lane.get(number) == expected
    assert lane.counts() == (7, 2)
    assert sorted(numbers(outbox.take("you"))) == [1, 3, 4]
    assert lane.resend(1, 3, 4) == 0


def test_what_is_under_way_is_not_sent_again(outbox: Outbox, lane: Lane) -> None:
    settle_some(lane)
    before = lane.listing()
    waiting, leased = 2, 5
    assert lane.resend(waiting, leased) == 0
    assert lane.resend() == 0
    assert lane.listing() == before


def test_one_that_is_sent_again_keeps_its_past_and_begins_anew(outbox: Outbox, lane: Lane) -> None:
    outbox.put(lane.new(1))
    for state in (DEAD, DONE, DEAD):
        (taken,) = outbox.take()
        outbox.settle(
            replace(taken, state=state, tries=9, attempts=ATTEMPTS, due=outbox.now, keep_until=outbox.now + KEPT)
        )
        outbox.clock.advance(1)
        assert lane.resend(1) == 1
        again = lane.get(1)
        assert again is not None
        assert (again.state, again.tries, again.attempts, again.due) == (WAITING, 0, ATTEMPTS, outbox.now)
        assert lane.counts() == (1, 0)


def test_all_dead_are_sent_again_in_batches(outbox: Outbox, lane: Lane) -> None:
    other = lane.beside()
    for each in (lane, other):
        settle_some(each, total=105)
    outbox.clock.advance(1)
    assert [lane.resend_dead(10) for _ in range(5)] == [10, 10, 10, 5, 0]
    assert lane.counts() == (70, 0)
    assert other.counts() == (35, 35)
    again = outbox.take_all("you")
    assert sorted(numbers(again)) == [number for number in range(1, 106) if number % 3 == 1]
    assert {each.tries for each in again} == {0}


def test_one_that_is_sent_again_is_not_swept_at_the_end_of_its_first_life(outbox: Outbox, lane: Lane) -> None:
    settle_some(lane, total=6, kept=60)
    lane.resend(1, 3)
    outbox.clock.advance(3600)
    sweep_clean(outbox.store, outbox.now)
    assert numbers(lane.listing()) == [5, 3, 2, 1]
    assert lane.counts() == (4, 0)
    assert sorted(numbers(outbox.take_all())) == [1, 2, 3, 5]


def test_resends_at_a_time_count_each_once(lane: Lane) -> None:
    settle_some(lane, total=90)
    counted: list[int] = []
    at_once(*[lambda: counted.append(lane.resend_dead(12))] * 4, lambda: counted.append(lane.resend(1, 4, 7)))
    while some := lane.resend_dead(10):
        counted.append(some)
    assert sum(counted) == 30
    assert lane.counts() == (60, 0)


# -- sweep ------------------------------------------------------------------------------------------------------------


def test_what_was_kept_long_enough_is_swept(outbox: Outbox, lane: Lane) -> None:
    sweep_clean(outbox.store, outbox.now)
    other = lane.beside()
    settle_some(lane, total=30, kept=60)
    settle_some(other, total=30, kept=60 + TICK)
    outbox.clock.advance(60 - TICK)
    sweep_clean(outbox.store, outbox.now)
    assert (len(lane.listing()), len(other.listing())) == (30, 30)
    assert (lane.counts(), other.counts()) == ((10, 10), (10, 10))
    outbox.clock.advance(TICK)
    assert sum(sweep_clean(outbox.store, outbox.now)) >= 20
    assert {each.state for each in lane.listing()} == {WAITING}
    assert (lane.counts(), other.counts()) == ((10, 0), (10, 10))
    assert len(other.listing()) == 30
    assert lane.resend(1) == 0
    outbox.clock.advance(TICK)
    sweep_clean(outbox.store, outbox.now)
    assert (lane.counts(), other.counts()) == ((10, 0), (10, 0))
    assert outbox.store.sweep(now=outbox.now, limit=100) == 0


def test_a_sweep_is_bounded(outbox: Outbox, lane: Lane) -> None:
    sweep_clean(outbox.store, outbox.now)
    settle_some(lane, total=300, kept=60)
    outbox.clock.advance(60)
    removed = sweep_clean(outbox.store, outbox.now, limit=50)
    assert sum(removed) >= 200
    assert max(removed) <= 100
    assert len(lane.listing()) == 100


def test_what_waits_is_never_swept(outbox: Outbox, lane: Lane) -> None:
    """Neither a delivery nor a post, however long nobody has come for it, and though its message is over."""
    scene = outbox.new_scene()
    scene.post("a", ttl=60)
    lane.fill(3, ttl=60)
    outbox.retry_at(outbox.now + 60, outbox.take(limit=1))
    outbox.take("killed", limit=1)
    outbox.clock.advance(10_000_000)
    sweep_clean(outbox.store, outbox.now)
    assert lane.counts() == (3, 0)
    assert sorted(numbers(outbox.take())) == [1, 2, 3]
    assert len(outbox.take_posted()) == 1


def test_one_that_was_put_again_is_kept_as_the_new_one_says(outbox: Outbox, lane: Lane) -> None:
    settled = replace(lane.new(1), state=DONE, keep_until=outbox.now + 60)
    outbox.put(settled)
    longer = replace(settled, keep_until=outbox.now + 120)
    outbox.put(longer)
    outbox.clock.advance(60)
    sweep_clean(outbox.store, outbox.now)
    assert lane.listing() == [longer]
    outbox.clock.advance(60)
    sweep_clean(outbox.store, outbox.now)
    assert lane.listing() == []


def test_sweeps_beside_deliveries_and_resends(outbox: Outbox, lane: Lane) -> None:
    """What a sweep found over may be waiting again when it comes to remove it; then it stays."""
    sweep_clean(outbox.store, outbox.now)
    lanes = [lane, lane.beside()]
    for each in lanes:
        each.fill(40)
    again: list[int] = []

    def sweep_on() -> None:
        for _ in range(40):
            outbox.store.sweep(now=outbox.now + 60, limit=5)

    def deliver_on() -> None:
        for _ in range(20):
            outbox.settle_as(DEAD, outbox.take(limit=8, most_of_one=4), kept=60)

    def resend_on(which: Lane) -> None:
        for _ in range(20):
            again.append(which.resend_dead(3))

    at_once(sweep_on, sweep_on, deliver_on, *(partial(resend_on, each) for each in lanes))
    outbox.clock.advance(LEASE + 60)
    sweep_clean(outbox.store, outbox.now)
    for each in lanes:
        assert {one.state for one in each.listing()} <= {WAITING}
        assert each.counts() == (len(each.listing()), 0)
    assert len(outbox.take_all()) == sum(each.counts()[0] for each in lanes)
