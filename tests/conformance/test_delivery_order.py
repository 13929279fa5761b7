# SPDX-License-Identifier: Apache-2.0
"""Part ``deliveries``, ``has_undelivered_before``: notifiers that push in order rely on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.queue_client import QueueClient, at_once
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Posted, PostPosition
from zaqar.storage.base import MOST_PASSED

LARGEST = 2**48 - 1
"""Of the numbers that every store has room for."""

GIVEN_OUT = 40


def new_backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    """A subscription of a queue that has given out some numbers and nothing in its outbox."""
    orders = notifier.open_queue(notify=False)
    orders.post(*["x"] * GIVEN_OUT)
    return of(orders, notifier)


def of(orders: QueueClient, notifier: NotifierClient) -> SubscriptionBacklog:
    """A subscription of a queue."""
    return SubscriptionBacklog(notifier, orders.queue.uid)


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return new_backlog(notifier)


def is_held(backlog: SubscriptionBacklog, number: int, due_before: float | None = None) -> bool:
    return backlog.notifier.store.deliveries.has_undelivered_before(
        queue_uid=backlog.queue_uid, subscription_id=backlog.subscription_id, number=number, due_before=due_before
    )


def first_held(backlog: SubscriptionBacklog, numbers: range) -> int | None:
    """The first number that has to wait; all after it have to as well. The queue has given out all of them."""
    held = [number for number in numbers if is_held(backlog, number)]
    assert held == list(range(held[0], numbers.stop)) if held else True
    return held[0] if held else None


def fill_in_order(notifier: NotifierClient, size: int) -> tuple[QueueClient, SubscriptionBacklog]:
    """A subscription: ``size`` deliveries are done, then as many are dead, as many wait, and as many are to come."""
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    for state in (DONE, DEAD, WAITING):
        orders.post(*["x"] * size)
        (posted,) = notifier.take_all_posted()
        fields = {} if state == WAITING else {"state": state, "keep_until": notifier.now + 600}
        notifier.expand_whole(posted, deliveries_of(posted, backlog.subscription_id, **fields))
    for _ in range(size):
        orders.post("to come")
    return orders, backlog


# -- deliveries -------------------------------------------------------------------------------------------------------


def test_a_single_delivery_has_nothing_before_it(backlog: SubscriptionBacklog) -> None:
    assert first_held(backlog, range(1, GIVEN_OUT + 1)) is None
    backlog.fill(1, first=7)
    assert not is_held(backlog, 6)
    assert not is_held(backlog, 7)
    assert is_held(backlog, 8)
    assert is_held(backlog, LARGEST)


def test_deliveries_of_other_subscriptions_do_not_count(backlog: SubscriptionBacklog, notifier: NotifierClient) -> None:
    beside, elsewhere = backlog.beside(), new_backlog(notifier)
    beside.fill(3)
    elsewhere.fill(3)
    assert not is_held(backlog, 9)
    same_id = SubscriptionBacklog(notifier, elsewhere.queue_uid, backlog.subscription_id)
    same_id.fill(3)
    assert not is_held(backlog, 9)
    assert is_held(same_id, 2)


def test_an_earlier_number_counts_though_it_is_due_later(backlog: SubscriptionBacklog) -> None:
    """Such as one that waits for its next try: the order is that of the numbers, not of the times."""
    backlog.fill(3, first=5)
    backlog.notifier.put(backlog.new(4, due=backlog.notifier.now + 900))
    assert first_held(backlog, range(1, 9)) == 5
    assert first_held(backlog, range(4, 9)) == 5


def test_a_leased_delivery_counts_during_and_after_its_lease(
    backlog: SubscriptionBacklog, notifier: NotifierClient
) -> None:
    backlog.fill(2)
    first, _ = notifier.take()
    assert is_held(backlog, 2)
    notifier.clock.advance(2 * LEASE)
    assert is_held(backlog, 2)
    (again,) = notifier.take("other", limit=1)
    notifier.discard([first])
    assert is_held(backlog, 2)
    notifier.discard([again], owner="other")
    assert not is_held(backlog, 2)


def test_a_retried_delivery_counts_until_it_is_settled(backlog: SubscriptionBacklog, notifier: NotifierClient) -> None:
    backlog.fill(2)
    notifier.retry_at(notifier.now + 60, notifier.take(limit=1))
    assert is_held(backlog, 2)
    notifier.clock.advance(60)
    (first,) = [each for each in notifier.take() if each.number == 1]
    assert is_held(backlog, 2)
    notifier.settle_as(DONE, [first])
    assert not is_held(backlog, 2)
    assert is_held(backlog, 3)


@pytest.mark.parametrize("state", [DONE, DEAD])
def test_settled_deliveries_count_only_after_a_resend(
    backlog: SubscriptionBacklog, notifier: NotifierClient, state: str
) -> None:
    backlog.fill(5)
    notifier.settle_as(state, notifier.take())
    assert not is_held(backlog, 9)
    assert backlog.resend(3) == 1
    assert first_held(backlog, range(1, 9)) == 4
    notifier.settle_as(DONE, notifier.take())
    assert not is_held(backlog, 9)


def test_dead_deliveries_count_after_a_resend_of_all(backlog: SubscriptionBacklog, notifier: NotifierClient) -> None:
    backlog.fill(5, first=3)
    notifier.settle_as(DEAD, notifier.take())
    assert backlog.resend_dead() == 5
    assert first_held(backlog, range(1, 9)) == 4
    notifier.discard(notifier.take())
    assert not is_held(backlog, 9)


def test_the_smallest_of_many_numbers_is_found(backlog: SubscriptionBacklog, notifier: NotifierClient) -> None:
    """Whatever was put, taken and settled in which order."""
    for number in (9, 4, 12, 6, 1, 30):
        notifier.put(backlog.new(number))
    assert first_held(backlog, range(GIVEN_OUT + 1)) == 2
    taken = {each.number: each for each in notifier.take()}
    notifier.discard([taken[1], taken[6]])
    assert first_held(backlog, range(GIVEN_OUT + 1)) == 5
    notifier.settle_as(DONE, [taken[4], taken[12]])
    assert first_held(backlog, range(GIVEN_OUT + 1)) == 10
    notifier.put(backlog.new(2))
    assert first_held(backlog, range(GIVEN_OUT + 1)) == 3
    notifier.put(replace(backlog.new(2), state=DONE, keep_until=notifier.now + 60))
    assert first_held(backlog, range(GIVEN_OUT + 1)) == 10
    notifier.discard([taken[9], taken[30]])
    assert first_held(backlog, range(GIVEN_OUT + 1)) is None


def test_the_largest_number_is_compared_correctly(backlog: SubscriptionBacklog) -> None:
    backlog.fill(1, first=LARGEST - 1)
    assert is_held(backlog, LARGEST)


def test_deliveries_due_at_or_after_due_before_do_not_count(
    backlog: SubscriptionBacklog, notifier: NotifierClient
) -> None:
    """Such as the delivery of a message with a delay. What is on lease is due when that ends."""
    soon = notifier.now + LEASE + 1
    notifier.put(backlog.new(1, due=soon), backlog.new(2, due=soon + 900), backlog.new(5, due=soon - 1 / 1024))
    assert [number for number in range(1, 9) if is_held(backlog, number, soon)] == [6, 7, 8]
    assert first_held(backlog, range(1, 9)) == 2
    notifier.put(backlog.new(3))
    assert [number for number in range(1, 9) if is_held(backlog, number, soon)] == [4, 5, 6, 7, 8]
    (taken,) = notifier.take()
    assert is_held(backlog, 5, soon)
    assert not is_held(backlog, 5, notifier.now + LEASE)
    notifier.discard([taken])
    assert not is_held(backlog, 5, soon)
    assert is_held(backlog, 5, soon + 1)
    notifier.clock.advance(1000)
    assert is_held(backlog, 2, notifier.now + LEASE + 1)


def test_a_post_counts_whenever_its_messages_are_due(notifier: NotifierClient) -> None:
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    orders.post("late", delay=900)
    orders.post("x")
    soon = notifier.now + LEASE + 1
    assert is_held(backlog, 2, soon)
    first, second = notifier.take_all_posted()
    assert notifier.expand(second, deliveries_of(second, backlog.subscription_id))
    assert is_held(backlog, 2, soon)
    assert notifier.expand(first, deliveries_of(first, backlog.subscription_id))
    assert not is_held(backlog, 2, soon)
    assert is_held(backlog, 2)


@pytest.mark.parametrize("many", [MOST_PASSED - 1, MOST_PASSED])
def test_the_result_is_true_if_most_passed_deliveries_do_not_count(notifier: NotifierClient, many: int) -> None:
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    orders.post(*["x"] * many, delay=900)
    orders.post("x")
    for posted in notifier.take_all_posted():
        notifier.expand_whole(posted, deliveries_of(posted, backlog.subscription_id))
    soon = notifier.now + LEASE + 1
    assert is_held(backlog, many + 1, soon) is (many == MOST_PASSED)
    assert not is_held(backlog, many // 2, soon)


def test_each_of_many_subscriptions_has_its_own_smallest_number(backlog: SubscriptionBacklog) -> None:
    backlogs = [backlog, *(backlog.beside() for _ in range(20))]
    for n, each in enumerate(backlogs, 1):
        each.fill(2, first=n)
    for n, each in enumerate(backlogs, 1):
        assert first_held(each, range(1, GIVEN_OUT)) == n + 1


# -- posts ------------------------------------------------------------------------------------------------------------


def test_a_post_counts_until_it_is_expanded(notifier: NotifierClient) -> None:
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    orders.post("a", "b", "c")
    orders.post("d")
    orders.post("e", "f")
    assert first_held(backlog, range(1, 7)) == 2
    first, second, third = notifier.take_all_posted()
    assert first_held(backlog, range(1, 7)) == 2
    assert notifier.expand(first, deliveries_of(first, backlog.subscription_id))
    assert first_held(backlog, range(1, 7)) == 2
    notifier.discard(notifier.take())
    assert first_held(backlog, range(1, 7)) == 5
    assert notifier.expand(second)
    assert first_held(backlog, range(1, 7)) == 6
    assert notifier.expand(third)
    assert first_held(backlog, range(1, 7)) is None


def test_posts_of_other_queues_do_not_count(notifier: NotifierClient) -> None:
    one, other = notifier.open_queue(), notifier.open_queue("other")
    backlog = of(one, notifier)
    one.post("a", "b", "c")
    assert notifier.expand(*notifier.take_posted())
    other.post("a")
    assert first_held(backlog, range(1, 4)) is None
    one.post("d", "e")
    assert first_held(backlog, range(1, 6)) == 5


def test_a_partly_expanded_post_counts(notifier: NotifierClient) -> None:
    """Also if its first deliveries are sent already: those of its other messages are still to come."""
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    orders.post("a", "b", "c")
    orders.post("d")
    first, second = notifier.take_all_posted()
    assert notifier.expand(second, deliveries_of(second, backlog.subscription_id))
    made = deliveries_of(first, backlog.subscription_id)
    position = PostPosition("", backlog.subscription_id, 2)
    assert notifier.expand(first, made[:2], to=position)
    notifier.discard([each for each in notifier.take() if each.number < 4])
    assert is_held(backlog, 4)
    notifier.clock.advance(2 * LEASE)
    (rest,) = notifier.take_all_posted("other")
    assert rest.position == position
    assert is_held(backlog, 4)
    assert notifier.expand(rest, made[2:])
    assert is_held(backlog, 4)
    notifier.discard([each for each in notifier.take_all() if each.number == 3])
    assert not is_held(backlog, 4)


def test_posts_that_are_expanded_in_another_order_count_by_their_numbers(notifier: NotifierClient) -> None:
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    for text in "abc":
        orders.post(text)
    first, second, third = notifier.take_all_posted()
    assert notifier.expand(third, deliveries_of(third, backlog.subscription_id))
    assert is_held(backlog, 3)
    assert notifier.expand(first)
    assert is_held(backlog, 3)
    assert notifier.expand(second)
    assert not is_held(backlog, 3)


def test_posts_without_notification_do_not_count(notifier: NotifierClient) -> None:
    orders = notifier.open_queue(notify=False)
    orders.post("a", "b")
    assert first_held(of(orders, notifier), range(1, 3)) is None


# -- what is dropped --------------------------------------------------------------------------------------------------


def test_a_dropped_subscription_does_not_count_after_a_sweep(
    backlog: SubscriptionBacklog, notifier: NotifierClient
) -> None:
    kept = backlog.beside()
    backlog.fill(3)
    kept.fill(3)
    notifier.store.delivery_log.drop(
        queue_uid=backlog.queue_uid, subscription_ids=[backlog.subscription_id], now=notifier.now
    )
    assert is_held(kept, 2)
    sweep_clean(notifier.store, notifier.now)
    assert not is_held(backlog, 9)
    assert is_held(kept, 2)


def test_a_dropped_queue_does_not_count_for_other_queues(
    backlog: SubscriptionBacklog, notifier: NotifierClient
) -> None:
    orders = notifier.open_queue()
    orders.post("a", "b")
    dropped = of(orders, notifier)
    dropped.fill(2)
    orders.drop()
    sweep_clean(notifier.store, notifier.now)
    assert first_held(backlog, range(1, GIVEN_OUT)) is None
    backlog.fill(2)
    assert first_held(backlog, range(1, GIVEN_OUT)) == 2


# -- at the same moment -----------------------------------------------------------------------------------------------

ROUNDS = 25
POSTS = 40


def test_a_concurrent_expansion_is_never_overlooked(notifier: NotifierClient) -> None:
    """A post moves from the outbox into the deliveries: whoever asks meanwhile meets it in one of the two."""
    for _ in range(ROUNDS):
        orders = notifier.open_queue()
        backlog = of(orders, notifier)
        orders.post("a")
        orders.post("b")
        first, second = notifier.take_all_posted()
        is_over = threading.Event()
        answers: list[bool] = []

        def expand(
            backlog: SubscriptionBacklog = backlog,
            posts: Sequence[Posted] = (second, first),
            is_over: threading.Event = is_over,
        ) -> None:
            try:
                for posted in posts:
                    assert notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
            finally:
                is_over.set()

        def ask(
            backlog: SubscriptionBacklog = backlog, answers: list[bool] = answers, is_over: threading.Event = is_over
        ) -> None:
            while not is_over.is_set():
                answers.append(is_held(backlog, 2))

        at_once(expand, ask, ask)
        assert all(answers)
        assert is_held(backlog, 2)
        notifier.discard(notifier.take_all())
        assert not is_held(backlog, 2)


def test_deliveries_sent_when_nothing_is_before_them_are_sent_in_order(notifier: NotifierClient) -> None:
    """Posts, expansions in any order and notifiers that ask before they send, all at a time."""
    orders = notifier.open_queue()
    backlog = of(orders, notifier)
    sent: list[int] = []
    one_at_a_time = threading.Lock()
    is_over = threading.Event()
    last = time.monotonic() + 60

    def post_all() -> None:
        for n in range(POSTS):
            orders.post(str(n))

    def expand_some() -> None:
        for posted in reversed(notifier.take_posted(limit=5)):
            assert notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))

    def send_some() -> None:
        owner = f"notifier {threading.get_ident()}"
        for each in notifier.take(owner, limit=4):
            # What the process of the connection does: one question and one push at a time.
            with one_at_a_time:
                if is_held(backlog, each.number):
                    notifier.settle(replace(each, due=notifier.now), owner=owner)
                    continue
                sent.append(each.number)
                notifier.discard([each], owner=owner)

    def go_on(work: Callable[[], None]) -> None:
        try:
            while not is_over.is_set() and len(sent) < POSTS and time.monotonic() < last:
                work()
        finally:
            is_over.set()

    at_once(post_all, *(partial(go_on, work) for work in (expand_some, send_some, send_some)))
    assert sent == list(range(1, POSTS + 1))
