# SPDX-License-Identifier: Apache-2.0
"""Part ``delivery_log``: deliveries are listed in pages, counted, resent, and removed after their time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.clock import TICK
from tests.conformance.notifier_client import KEPT, LEASE, NotifierClient, SubscriptionBacklog, numbers
from tests.conformance.queue_client import at_once
from tests.conformance.test_deliveries import ATTEMPTS
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Delivery


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier)


def settle_some(backlog: SubscriptionBacklog, *, total: int = 12, kept: float = KEPT) -> list[Delivery]:
    """Deliveries of which every third is done, the next ones dead, the others leased or waiting; the newest first."""
    notifier = backlog.notifier
    backlog.fill(total)
    taken = notifier.take_all()
    notifier.settle_as(DONE, [each for each in taken if each.number % 3 == 0], kept=kept)
    notifier.settle_as(DEAD, [each for each in taken if each.number % 3 == 1], kept=kept)
    notifier.retry_at(notifier.now + 60, [each for each in taken if each.number % 6 == 2])
    return backlog.listing()


# -- listing and counts -----------------------------------------------------------------------------------------------


def test_the_newest_deliveries_are_listed_first(backlog: SubscriptionBacklog) -> None:
    settle_some(backlog)
    assert numbers(backlog.listing()) == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert numbers(backlog.listing(DONE)) == [12, 9, 6, 3]
    assert numbers(backlog.listing(DEAD)) == [10, 7, 4, 1]
    assert numbers(backlog.listing(WAITING)) == [11, 8, 5, 2]
    assert backlog.counts() == (4, 4)
    assert numbers(backlog.listing(limit=3)) == [12, 11, 10]
    assert numbers(backlog.listing(DEAD, limit=3)) == [10, 7, 4]
    assert numbers(backlog.listing(before=4)) == [3, 2, 1]
    assert numbers(backlog.listing(DONE, before=9)) == [6, 3]
    assert numbers(backlog.listing(DEAD, before=9, limit=1)) == [7]
    assert backlog.listing(before=1) == backlog.listing(DONE, before=3) == []
    assert numbers(backlog.listing(before=2**40)) == numbers(backlog.listing())


@pytest.mark.parametrize("state", [None, WAITING, DONE, DEAD])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_pages_list_each_delivery_once_while_new_ones_are_stored(
    notifier: NotifierClient, backlog: SubscriptionBacklog, state: str | None, size: int
) -> None:
    expected = [each for each in settle_some(backlog, total=30) if state in (None, each.state)]
    seen: list[Delivery] = []
    while page := backlog.listing(state, before=seen[-1].number if seen else None, limit=size):
        assert len(page) == min(size, len(expected) - len(seen))
        seen += page
        first = 31 + 3 * len(seen)
        notifier.put(*(backlog.new(n, due=notifier.now + 60) for n in range(first, first + 3)))
    assert seen == expected


def test_a_confirmation_is_listed_last(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    notifier.put(backlog.new(0), backlog.new(5))
    assert numbers(backlog.listing()) == [5, 0]
    assert numbers(backlog.listing(before=5)) == [0]
    assert backlog.listing(before=0) == []


# -- resend -----------------------------------------------------------------------------------------------------------


def test_resend_by_number_makes_settled_deliveries_due(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    before = {each.number: each for each in settle_some(backlog)}
    notifier.clock.advance(1)
    assert backlog.resend(1, 3, 4, 99) == 3
    for number in (1, 3, 4):
        expected = replace(before[number], state=WAITING, due=notifier.now, owner=None, tries=0, keep_until=None)
        assert backlog.get(number) == expected
    assert backlog.counts() == (7, 2)
    assert sorted(numbers(notifier.take("you"))) == [1, 3, 4]
    assert backlog.resend(1, 3, 4) == 0


def test_a_waiting_or_leased_delivery_is_not_resent(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    settle_some(backlog)
    before = backlog.listing()
    waiting, leased = 2, 5
    assert backlog.resend(waiting, leased) == 0
    assert backlog.resend() == 0
    assert backlog.listing() == before


def test_a_resent_delivery_keeps_its_attempts_and_has_no_tries(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    notifier.put(backlog.new(1))
    for state in (DEAD, DONE, DEAD):
        (taken,) = notifier.take()
        notifier.settle(
            replace(taken, state=state, tries=9, attempts=ATTEMPTS, due=notifier.now, keep_until=notifier.now + KEPT)
        )
        notifier.clock.advance(1)
        assert backlog.resend(1) == 1
        again = backlog.get(1)
        assert again is not None
        assert (again.state, again.tries, again.attempts, again.due) == (WAITING, 0, ATTEMPTS, notifier.now)
        assert backlog.counts() == (1, 0)


def test_all_dead_deliveries_are_resent_in_batches(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    other = backlog.beside()
    for each in (backlog, other):
        settle_some(each, total=105)
    notifier.clock.advance(1)
    assert [backlog.resend_dead(10) for _ in range(5)] == [10, 10, 10, 5, 0]
    assert backlog.counts() == (70, 0)
    assert other.counts() == (35, 35)
    again = notifier.take_all("you")
    assert sorted(numbers(again)) == [number for number in range(1, 106) if number % 3 == 1]
    assert {each.tries for each in again} == {0}


def test_a_resent_delivery_is_not_swept_at_its_old_keep_until(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    settle_some(backlog, total=6, kept=60)
    backlog.resend(1, 3)
    notifier.clock.advance(3600)
    sweep_clean(notifier.store, notifier.now)
    assert numbers(backlog.listing()) == [5, 3, 2, 1]
    assert backlog.counts() == (4, 0)
    assert sorted(numbers(notifier.take_all())) == [1, 2, 3, 5]


def test_concurrent_resends_count_each_delivery_once(backlog: SubscriptionBacklog) -> None:
    settle_some(backlog, total=90)
    counted: list[int] = []
    at_once(*[lambda: counted.append(backlog.resend_dead(12))] * 4, lambda: counted.append(backlog.resend(1, 4, 7)))
    while some := backlog.resend_dead(10):
        counted.append(some)
    assert sum(counted) == 30
    assert backlog.counts() == (60, 0)


# -- sweep ------------------------------------------------------------------------------------------------------------


def test_a_settled_delivery_is_swept_from_keep_until_on(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    sweep_clean(notifier.store, notifier.now)
    other = backlog.beside()
    settle_some(backlog, total=30, kept=60)
    settle_some(other, total=30, kept=60 + TICK)
    notifier.clock.advance(60 - TICK)
    sweep_clean(notifier.store, notifier.now)
    assert (len(backlog.listing()), len(other.listing())) == (30, 30)
    assert (backlog.counts(), other.counts()) == ((10, 10), (10, 10))
    notifier.clock.advance(TICK)
    assert sum(sweep_clean(notifier.store, notifier.now)) >= 20
    assert {each.state for each in backlog.listing()} == {WAITING}
    assert (backlog.counts(), other.counts()) == ((10, 0), (10, 10))
    assert len(other.listing()) == 30
    assert backlog.resend(1) == 0
    notifier.clock.advance(TICK)
    sweep_clean(notifier.store, notifier.now)
    assert (backlog.counts(), other.counts()) == ((10, 0), (10, 0))
    assert notifier.store.sweep(now=notifier.now, limit=100).removed == 0


def test_a_sweep_is_bounded(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    sweep_clean(notifier.store, notifier.now)
    settle_some(backlog, total=300, kept=60)
    notifier.clock.advance(60)
    removed = sweep_clean(notifier.store, notifier.now, limit=50)
    assert sum(removed) >= 200
    assert max(removed) <= 100
    assert len(backlog.listing()) == 100


def test_a_waiting_delivery_or_post_is_never_swept(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    """Neither a delivery nor a post, however long nobody has come for it, and though its message is over."""
    orders = notifier.open_queue()
    orders.post("a", ttl=60)
    backlog.fill(3, ttl=60)
    notifier.retry_at(notifier.now + 60, notifier.take(limit=1))
    notifier.take("killed", limit=1)
    notifier.clock.advance(10_000_000)
    sweep_clean(notifier.store, notifier.now)
    assert backlog.counts() == (3, 0)
    assert sorted(numbers(notifier.take())) == [1, 2, 3]
    assert len(notifier.take_posted()) == 1


def test_a_replaced_delivery_is_kept_by_its_new_keep_until(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    settled = replace(backlog.new(1), state=DONE, keep_until=notifier.now + 60)
    notifier.put(settled)
    longer = replace(settled, keep_until=notifier.now + 120)
    notifier.put(longer)
    notifier.clock.advance(60)
    sweep_clean(notifier.store, notifier.now)
    assert backlog.listing() == [longer]
    notifier.clock.advance(60)
    sweep_clean(notifier.store, notifier.now)
    assert backlog.listing() == []


def test_sweeps_during_takes_and_resends_remove_no_waiting_delivery(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    """What a sweep found over may be waiting again when it comes to remove it; then it stays."""
    sweep_clean(notifier.store, notifier.now)
    backlogs = [backlog, backlog.beside()]
    for each in backlogs:
        each.fill(40)
    again: list[int] = []

    def sweep_on() -> None:
        for _ in range(40):
            notifier.store.sweep(now=notifier.now + 60, limit=5)

    def deliver_on() -> None:
        for _ in range(20):
            notifier.settle_as(DEAD, notifier.take(limit=8, most_of_one=4), kept=60)

    def resend_on(which: SubscriptionBacklog) -> None:
        for _ in range(20):
            again.append(which.resend_dead(3))

    at_once(sweep_on, sweep_on, deliver_on, *(partial(resend_on, each) for each in backlogs))
    notifier.clock.advance(LEASE + 60)
    sweep_clean(notifier.store, notifier.now)
    for each in backlogs:
        assert {one.state for one in each.listing()} <= {WAITING}
        assert each.counts() == (len(each.listing()), 0)
    assert len(notifier.take_all()) == sum(each.counts()[0] for each in backlogs)
