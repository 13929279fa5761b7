# SPDX-License-Identifier: Apache-2.0
"""Whether a delivery with a smaller number is still to come: what pushes in order rest on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from tests.conformance.outbox import LEASE, Lane, Outbox, deliveries_of
from tests.conformance.scene import Scene, at_once
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Posted, PostPosition
from zaqar.storage.base import MOST_PASSED

LARGEST = 2**48 - 1
"""Of the numbers that every store has room for."""

GIVEN_OUT = 40


def new_lane(outbox: Outbox) -> Lane:
    """A subscription of a queue that has given out some numbers and nothing in its outbox."""
    scene = outbox.new_scene(notify=False)
    scene.post(*["x"] * GIVEN_OUT)
    return of(scene, outbox)


def of(scene: Scene, outbox: Outbox) -> Lane:
    """A subscription of a queue."""
    return Lane(outbox, scene.queue.uid)


@pytest.fixture
def lane(outbox: Outbox) -> Lane:
    return new_lane(outbox)


def is_held(lane: Lane, number: int, due_before: float | None = None) -> bool:
    return lane.outbox.store.deliveries.has_undelivered_before(
        queue_uid=lane.queue_uid, subscription_id=lane.subscription_id, number=number, due_before=due_before
    )


def first_held(lane: Lane, numbers: range) -> int | None:
    """The first number that has to wait; all after it have to as well. The queue has given out all of them."""
    held = [number for number in numbers if is_held(lane, number)]
    assert held == list(range(held[0], numbers.stop)) if held else True
    return held[0] if held else None


def crowd_in_order(outbox: Outbox, size: int) -> tuple[Scene, Lane]:
    """A subscription: ``size`` deliveries are done, then as many are dead, as many wait, and as many are to come."""
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    for state in (DONE, DEAD, WAITING):
        scene.post(*["x"] * size)
        (posted,) = outbox.take_all_posted()
        fields = {} if state == WAITING else {"state": state, "keep_until": outbox.now + 600}
        outbox.expand_whole(posted, deliveries_of(posted, lane.subscription_id, **fields))
    for _ in range(size):
        scene.post("to come")
    return scene, lane


# -- deliveries -------------------------------------------------------------------------------------------------------


def test_nothing_holds_what_is_alone(lane: Lane) -> None:
    assert first_held(lane, range(1, GIVEN_OUT + 1)) is None
    lane.fill(1, first=7)
    assert not is_held(lane, 6)
    assert not is_held(lane, 7)
    assert is_held(lane, 8)
    assert is_held(lane, LARGEST)


def test_only_the_same_subscription_holds(lane: Lane, outbox: Outbox) -> None:
    beside, elsewhere = lane.beside(), new_lane(outbox)
    beside.fill(3)
    elsewhere.fill(3)
    assert not is_held(lane, 9)
    same_id = Lane(outbox, elsewhere.queue_uid, lane.subscription_id)
    same_id.fill(3)
    assert not is_held(lane, 9)
    assert is_held(same_id, 2)


def test_what_is_due_later_holds(lane: Lane) -> None:
    """Such as one that waits for its next try: the order is that of the numbers, not of the times."""
    lane.fill(3, first=5)
    lane.outbox.put(lane.new(4, due=lane.outbox.now + 900))
    assert first_held(lane, range(1, 9)) == 5
    assert first_held(lane, range(4, 9)) == 5


def test_a_lease_holds_while_it_lasts_and_when_it_is_over(lane: Lane, outbox: Outbox) -> None:
    lane.fill(2)
    first, _ = outbox.take()
    assert is_held(lane, 2)
    outbox.clock.advance(2 * LEASE)
    assert is_held(lane, 2)
    (again,) = outbox.take("other", limit=1)
    outbox.discard([first])
    assert is_held(lane, 2)
    outbox.discard([again], owner="other")
    assert not is_held(lane, 2)


def test_one_that_is_retried_holds_until_it_is_settled(lane: Lane, outbox: Outbox) -> None:
    lane.fill(2)
    outbox.retry_at(outbox.now + 60, outbox.take(limit=1))
    assert is_held(lane, 2)
    outbox.clock.advance(60)
    (first,) = [each for each in outbox.take() if each.number == 1]
    assert is_held(lane, 2)
    outbox.settle_as(DONE, [first])
    assert not is_held(lane, 2)
    assert is_held(lane, 3)


@pytest.mark.parametrize("state", [DONE, DEAD])
def test_settled_ones_hold_nothing_until_they_are_sent_again(lane: Lane, outbox: Outbox, state: str) -> None:
    lane.fill(5)
    outbox.settle_as(state, outbox.take())
    assert not is_held(lane, 9)
    assert lane.resend(3) == 1
    assert first_held(lane, range(1, 9)) == 4
    outbox.settle_as(DONE, outbox.take())
    assert not is_held(lane, 9)


def test_all_that_are_dead_hold_when_they_are_sent_again(lane: Lane, outbox: Outbox) -> None:
    lane.fill(5, first=3)
    outbox.settle_as(DEAD, outbox.take())
    assert lane.resend_dead() == 5
    assert first_held(lane, range(1, 9)) == 4
    outbox.discard(outbox.take())
    assert not is_held(lane, 9)


def test_the_least_of_many_is_found(lane: Lane, outbox: Outbox) -> None:
    """Whatever was put, taken and settled in which order."""
    for number in (9, 4, 12, 6, 1, 30):
        outbox.put(lane.new(number))
    assert first_held(lane, range(GIVEN_OUT + 1)) == 2
    taken = {each.number: each for each in outbox.take()}
    outbox.discard([taken[1], taken[6]])
    assert first_held(lane, range(GIVEN_OUT + 1)) == 5
    outbox.settle_as(DONE, [taken[4], taken[12]])
    assert first_held(lane, range(GIVEN_OUT + 1)) == 10
    outbox.put(lane.new(2))
    assert first_held(lane, range(GIVEN_OUT + 1)) == 3
    outbox.put(replace(lane.new(2), state=DONE, keep_until=outbox.now + 60))
    assert first_held(lane, range(GIVEN_OUT + 1)) == 10
    outbox.discard([taken[9], taken[30]])
    assert first_held(lane, range(GIVEN_OUT + 1)) is None


def test_the_largest_number_is_compared_as_the_others_are(lane: Lane) -> None:
    lane.fill(1, first=LARGEST - 1)
    assert is_held(lane, LARGEST)


def test_what_is_due_too_late_need_not_count(lane: Lane, outbox: Outbox) -> None:
    """Such as the delivery of a message with a delay. What is on lease is due when that ends."""
    soon = outbox.now + LEASE + 1
    outbox.put(lane.new(1, due=soon), lane.new(2, due=soon + 900), lane.new(5, due=soon - 1 / 1024))
    assert [number for number in range(1, 9) if is_held(lane, number, soon)] == [6, 7, 8]
    assert first_held(lane, range(1, 9)) == 2
    outbox.put(lane.new(3))
    assert [number for number in range(1, 9) if is_held(lane, number, soon)] == [4, 5, 6, 7, 8]
    (taken,) = outbox.take()
    assert is_held(lane, 5, soon)
    assert not is_held(lane, 5, outbox.now + LEASE)
    outbox.discard([taken])
    assert not is_held(lane, 5, soon)
    assert is_held(lane, 5, soon + 1)
    outbox.clock.advance(1000)
    assert is_held(lane, 2, outbox.now + LEASE + 1)


def test_a_post_counts_whenever_its_messages_are_due(outbox: Outbox) -> None:
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    scene.post("late", delay=900)
    scene.post("x")
    soon = outbox.now + LEASE + 1
    assert is_held(lane, 2, soon)
    first, second = outbox.take_all_posted()
    assert outbox.expand(second, deliveries_of(second, lane.subscription_id))
    assert is_held(lane, 2, soon)
    assert outbox.expand(first, deliveries_of(first, lane.subscription_id))
    assert not is_held(lane, 2, soon)
    assert is_held(lane, 2)


@pytest.mark.parametrize("many", [MOST_PASSED - 1, MOST_PASSED])
def test_as_many_as_are_passed_over_count_all_the_same(outbox: Outbox, many: int) -> None:
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    scene.post(*["x"] * many, delay=900)
    scene.post("x")
    for posted in outbox.take_all_posted():
        outbox.expand_whole(posted, deliveries_of(posted, lane.subscription_id))
    soon = outbox.now + LEASE + 1
    assert is_held(lane, many + 1, soon) is (many == MOST_PASSED)
    assert not is_held(lane, many // 2, soon)


def test_each_of_many_subscriptions_has_a_least_number(lane: Lane) -> None:
    lanes = [lane, *(lane.beside() for _ in range(20))]
    for n, each in enumerate(lanes, 1):
        each.fill(2, first=n)
    for n, each in enumerate(lanes, 1):
        assert first_held(each, range(1, GIVEN_OUT)) == n + 1


# -- posts ------------------------------------------------------------------------------------------------------------


def test_a_post_holds_until_it_is_expanded(outbox: Outbox) -> None:
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    scene.post("a", "b", "c")
    scene.post("d")
    scene.post("e", "f")
    assert first_held(lane, range(1, 7)) == 2
    first, second, third = outbox.take_all_posted()
    assert first_held(lane, range(1, 7)) == 2
    assert outbox.expand(first, deliveries_of(first, lane.subscription_id))
    assert first_held(lane, range(1, 7)) == 2
    outbox.discard(outbox.take())
    assert first_held(lane, range(1, 7)) == 5
    assert outbox.expand(second)
    assert first_held(lane, range(1, 7)) == 6
    assert outbox.expand(third)
    assert first_held(lane, range(1, 7)) is None


def test_the_posts_of_other_queues_hold_nothing(outbox: Outbox) -> None:
    one, other = outbox.new_scene(), outbox.new_scene("other")
    lane = of(one, outbox)
    one.post("a", "b", "c")
    assert outbox.expand(*outbox.take_posted())
    other.post("a")
    assert first_held(lane, range(1, 4)) is None
    one.post("d", "e")
    assert first_held(lane, range(1, 6)) == 5


def test_a_post_of_which_a_part_is_expanded_holds(outbox: Outbox) -> None:
    """Also if its first deliveries are sent already: those of its other messages are still to come."""
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    scene.post("a", "b", "c")
    scene.post("d")
    first, second = outbox.take_all_posted()
    assert outbox.expand(second, deliveries_of(second, lane.subscription_id))
    made = deliveries_of(first, lane.subscription_id)
    position = PostPosition("", lane.subscription_id, 2)
    assert outbox.expand(first, made[:2], to=position)
    outbox.discard([each for each in outbox.take() if each.number < 4])
    assert is_held(lane, 4)
    outbox.clock.advance(2 * LEASE)
    (rest,) = outbox.take_all_posted("other")
    assert rest.position == position
    assert is_held(lane, 4)
    assert outbox.expand(rest, made[2:])
    assert is_held(lane, 4)
    outbox.discard([each for each in outbox.take_all() if each.number == 3])
    assert not is_held(lane, 4)


def test_posts_that_are_expanded_in_another_order_hold_by_their_numbers(outbox: Outbox) -> None:
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    for text in "abc":
        scene.post(text)
    first, second, third = outbox.take_all_posted()
    assert outbox.expand(third, deliveries_of(third, lane.subscription_id))
    assert is_held(lane, 3)
    assert outbox.expand(first)
    assert is_held(lane, 3)
    assert outbox.expand(second)
    assert not is_held(lane, 3)


def test_what_is_not_notified_holds_nothing(outbox: Outbox) -> None:
    scene = outbox.new_scene(notify=False)
    scene.post("a", "b")
    assert first_held(of(scene, outbox), range(1, 3)) is None


# -- what is dropped --------------------------------------------------------------------------------------------------


def test_nothing_holds_when_what_was_dropped_is_swept(lane: Lane, outbox: Outbox) -> None:
    kept = lane.beside()
    lane.fill(3)
    kept.fill(3)
    outbox.store.delivery_log.drop(queue_uid=lane.queue_uid, subscription_ids=[lane.subscription_id], now=outbox.now)
    assert is_held(kept, 2)
    sweep_clean(outbox.store, outbox.now)
    assert not is_held(lane, 9)
    assert is_held(kept, 2)


def test_what_was_dropped_holds_nothing_else(lane: Lane, outbox: Outbox) -> None:
    scene = outbox.new_scene()
    scene.post("a", "b")
    dropped = of(scene, outbox)
    dropped.fill(2)
    scene.drop()
    sweep_clean(outbox.store, outbox.now)
    assert first_held(lane, range(1, GIVEN_OUT)) is None
    lane.fill(2)
    assert first_held(lane, range(1, GIVEN_OUT)) == 2


# -- at the same moment -----------------------------------------------------------------------------------------------

ROUNDS = 25
POSTS = 40


def test_an_expansion_at_the_same_moment_is_never_overlooked(outbox: Outbox) -> None:
    """A post moves from the outbox into the deliveries: whoever asks meanwhile meets it in one of the two."""
    for _ in range(ROUNDS):
        scene = outbox.new_scene()
        lane = of(scene, outbox)
        scene.post("a")
        scene.post("b")
        first, second = outbox.take_all_posted()
        is_over = threading.Event()
        answers: list[bool] = []

        def expand(
            lane: Lane = lane, posts: Sequence[Posted] = (second, first), is_over: threading.Event = is_over
        ) -> None:
            try:
                for posted in posts:
                    assert outbox.expand(posted, deliveries_of(posted, lane.subscription_id))
            finally:
                is_over.set()

        def ask(lane: Lane = lane, answers: list[bool] = answers, is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                answers.append(is_held(lane, 2))

        at_once(expand, ask, ask)
        assert all(answers)
        assert is_held(lane, 2)
        outbox.discard(outbox.take_all())
        assert not is_held(lane, 2)


def test_what_is_sent_when_nothing_holds_it_is_sent_in_order(outbox: Outbox) -> None:
    """Posts, expansions in any order and notifiers that ask before they send, all at a time."""
    scene = outbox.new_scene()
    lane = of(scene, outbox)
    sent: list[int] = []
    one_at_a_time = threading.Lock()
    is_over = threading.Event()
    last = time.monotonic() + 60

    def post_all() -> None:
        for n in range(POSTS):
            scene.post(str(n))

    def expand_some() -> None:
        for posted in reversed(outbox.take_posted(limit=5)):
            assert outbox.expand(posted, deliveries_of(posted, lane.subscription_id))

    def send_some() -> None:
        owner = f"notifier {threading.get_ident()}"
        for each in outbox.take(owner, limit=4):
            # What the process of the connection does: one question and one push at a time.
            with one_at_a_time:
                if is_held(lane, each.number):
                    outbox.settle(replace(each, due=outbox.now), owner=owner)
                    continue
                sent.append(each.number)
                outbox.discard([each], owner=owner)

    def go_on(work: Callable[[], None]) -> None:
        try:
            while not is_over.is_set() and len(sent) < POSTS and time.monotonic() < last:
                work()
        finally:
            is_over.set()

    at_once(post_all, *(partial(go_on, work) for work in (expand_some, send_some, send_some)))
    assert sent == list(range(1, POSTS + 1))
