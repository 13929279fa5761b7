# SPDX-License-Identifier: Apache-2.0
"""Posts and deliveries of a dropped queue or subscription: nobody gets them, they delay no other, and they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.conformance.outbox import LEASE, Lane, Outbox, deliveries_of, numbers
from tests.conformance.scene import Scene, at_once, bodies
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, SUBSCRIPTION_CONFIRMATION, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME, TOMBSTONE_LIFETIME

LIFETIMES = {"queue": TOMBSTONE_LIFETIME, "subscription": DROPPED_LIFETIME}


@pytest.fixture
def queue(outbox: Outbox) -> Scene:
    return outbox.new_scene()


@pytest.fixture
def lane(outbox: Outbox, queue: Scene) -> Lane:
    return Lane(outbox, queue.queue.uid)


@pytest.fixture(params=list(LIFETIMES))
def what(request: pytest.FixtureRequest) -> str:
    """What is dropped: the whole queue, or one subscription of it."""
    return str(request.param)


@pytest.fixture
def drop(what: str, queue: Scene, lane: Lane) -> Callable[[], None]:
    return queue.drop if what == "queue" else partial(drop_lanes, lane)


def drop_lanes(*lanes: Lane) -> None:
    """Drop several subscriptions of one queue."""
    ids = [lane.subscription_id for lane in lanes]
    outbox = lanes[0].outbox
    outbox.store.delivery_log.drop(queue_uid=lanes[0].queue_uid, subscription_ids=ids, now=outbox.now)


def left(lane: Lane) -> list[int]:
    """The numbers of those that take space, once nothing is left to sweep."""
    removed = sweep_clean(lane.outbox.store, lane.outbox.now, limit=100)
    assert not removed or max(removed) <= 200
    assert all(lane.get(number) is None for number in range(8) if number not in numbers(lane.listing()))
    return numbers(lane.listing())


# -- nobody gets them -------------------------------------------------------------------------------------------------

STATES: dict[str, dict[str, Any]] = {
    "waiting": {},
    "delayed": {"due": 30.0},
    "leased": {"owner": "me", "due": LEASE},
    "tried": {"tries": 3, "due": 20.0},
    "confirmation": {"kind": SUBSCRIPTION_CONFIRMATION, "number": 0},
    "done": {"state": DONE, "keep_until": TOMBSTONE_LIFETIME * 3},
    "dead": {"state": DEAD, "keep_until": TOMBSTONE_LIFETIME * 3},
}


@pytest.mark.parametrize("fields", STATES.values(), ids=STATES.keys())
def test_no_state_survives(outbox: Outbox, lane: Lane, drop: Callable[[], None], fields: dict[str, Any]) -> None:
    times = {name: outbox.now + fields[name] for name in ("due", "keep_until") if name in fields}
    outbox.put(replace(lane.new(1), **{**fields, **times}))
    drop()
    outbox.clock.advance(60)
    assert outbox.take("you") == []
    assert left(lane) == []
    assert lane.counts() == (0, 0)
    assert outbox.take("you") == []


def test_posts_of_a_dropped_queue_are_not_expanded(outbox: Outbox, queue: Scene) -> None:
    other = outbox.new_scene()
    for _ in range(3):
        queue.post("a", "b")
        other.post("c")
    outbox.take_posted("me", limit=2)
    queue.drop()
    outbox.clock.advance(LEASE)
    taken = outbox.take_all_posted("you", limit=2)
    assert {posted.queue_uid for posted in taken} == {other.queue.uid}
    assert len(taken) == 3


def test_posts_of_a_dropped_queue_are_removed(outbox: Outbox, queue: Scene) -> None:
    sweep_clean(outbox.store, outbox.now)
    for _ in range(300):
        queue.post("a")
    queue.drop()
    removed = sweep_clean(outbox.store, outbox.now, limit=100)
    assert not removed or max(removed) <= 200
    outbox.clock.advance(TOMBSTONE_LIFETIME + 60)
    assert outbox.take_posted() == []
    sweep_clean(outbox.store, outbox.now)
    queue.queue = replace(queue.queue, generation=2)
    queue.open()
    outbox.clock.advance(60)
    assert outbox.take_posted() == [], "the uid is free again, and what was dropped is gone"


def test_neighbours_keep_theirs(outbox: Outbox, lane: Lane, what: str, drop: Callable[[], None]) -> None:
    """Another subscription of the queue too, where only one is dropped."""
    stranger = Lane(outbox, outbox.new_scene().queue.uid)
    beside = lane.beside()
    for each in (stranger, beside, lane):
        each.fill(5)
        outbox.put(each.new(7, state=DEAD, keep_until=outbox.now + 3600))
    drop()
    living = [stranger] if what == "queue" else [stranger, beside]
    outbox.clock.advance(60)
    taken = outbox.take_all()
    assert {each.subscription_id for each in taken} == {each.subscription_id for each in living}
    assert len(taken) == 5 * len(living)
    assert left(lane) == []
    for each in living:
        assert left(each) == [7, 5, 4, 3, 2, 1]
        assert each.counts() == (5, 1)
        assert each.resend_dead() == 1


def test_several_subscriptions_at_a_time(outbox: Outbox, lane: Lane) -> None:
    lanes = [lane.beside() for _ in range(20)]
    for each in (lane, *lanes):
        each.fill(3)
    drop_lanes(*lanes)
    assert {each.subscription_id for each in outbox.take_all()} == {lane.subscription_id}
    assert [left(each) for each in lanes] == [[]] * 20


def test_the_same_id_at_another_queue_is_another_subscription(outbox: Outbox, lane: Lane) -> None:
    """No service makes two of one id; what is dropped is that of one queue all the same."""
    other = Lane(outbox, outbox.new_scene().queue.uid, lane.subscription_id)
    for each in (lane, other):
        each.fill(3)
    drop_lanes(lane)
    assert left(lane) == []
    assert left(other) == [3, 2, 1]
    assert {each.queue_uid for each in outbox.take_all()} == {other.queue_uid}


def test_unknown_and_dropped_ones_are_fine(outbox: Outbox, lane: Lane) -> None:
    drop_lanes(lane)
    lane.fill(1)
    drop_lanes(lane, lane.beside())
    outbox.store.delivery_log.drop(queue_uid=lane.queue_uid, subscription_ids=[], now=outbox.now)
    drop_lanes(Lane(outbox))
    assert outbox.take() == []
    assert left(lane) == []


# -- nothing comes back -----------------------------------------------------------------------------------------------


def test_an_expansion_that_began_before(outbox: Outbox, queue: Scene, lane: Lane, drop: Callable[[], None]) -> None:
    queue.post("a", "b", "c")
    (posted,) = outbox.take_posted("me")
    made = deliveries_of(posted, lane.subscription_id)
    for n in range(3):
        if n == 1:
            drop()
        position = PostPosition("", "a", n + 1) if n < 2 else None
        outbox.expand(posted, [replace(made[n], owner="me", due=outbox.now + LEASE)], to=position)
        posted = replace(posted, position=position or posted.position)
    outbox.clock.advance(LEASE)
    assert outbox.take() == []
    assert outbox.take_posted("you") == []
    assert left(lane) == []


def test_of_an_expansion_the_others_get_theirs(outbox: Outbox, queue: Scene, lane: Lane) -> None:
    queue.post("a", "b")
    (posted,) = outbox.take_posted("me")
    others = [lane.beside() for _ in range(3)]
    drop_lanes(lane, others[0])
    ids = [each.subscription_id for each in (others[1], lane, others[0], others[2])]
    outbox.expand(posted, deliveries_of(posted, *ids))
    assert sorted(outbox.take_all(), key=lambda each: each.key) == sorted(
        (
            replace(each, owner="me", due=outbox.now + LEASE)
            for each in deliveries_of(posted, others[1].subscription_id, others[2].subscription_id)
        ),
        key=lambda each: each.key,
    )
    assert [left(each) for each in (lane, *others)] == [[], [], [2, 1], [2, 1]]


def test_after_the_first_sweep_an_expansion_stores_nothing(outbox: Outbox, queue: Scene, lane: Lane) -> None:
    """Else it would stay until the lifetime of the tombstone is over."""
    queue.post("a", "b")
    (posted,) = outbox.take_posted("me")
    beside = lane.beside()
    drop_lanes(lane)
    sweep_clean(outbox.store, outbox.now)
    assert outbox.expand(posted, deliveries_of(posted, lane.subscription_id, beside.subscription_id))
    assert (numbers(lane.listing()), numbers(beside.listing())) == ([], [2, 1])
    outbox.put(lane.new(0, kind=SUBSCRIPTION_CONFIRMATION))
    assert lane.get(0) is None


def test_a_confirmation_that_comes_late(outbox: Outbox, lane: Lane, drop: Callable[[], None]) -> None:
    drop()
    outbox.put(lane.new(0, kind=SUBSCRIPTION_CONFIRMATION))
    assert outbox.take() == []
    assert left(lane) == []


@pytest.mark.parametrize("swept", [False, True])
def test_what_its_owner_says_late(outbox: Outbox, lane: Lane, drop: Callable[[], None], swept: bool) -> None:
    lane.fill(4)
    taken = outbox.take("me")
    drop()
    if swept:
        assert left(lane) == []
    outbox.extend(taken, outbox.now + 60)
    outbox.retry_at(outbox.now, taken[:1])
    outbox.settle_as(DONE, taken[1:2])
    outbox.settle_as(DEAD, taken[2:3])
    outbox.discard(taken[3:])
    outbox.clock.advance(60)
    assert outbox.take("you") == []
    assert left(lane) == []
    assert lane.counts() == (0, 0)


def test_after_the_lifetime_nothing_is_left(outbox: Outbox, lane: Lane, what: str, drop: Callable[[], None]) -> None:
    lane.fill(5)
    drop()
    sweep_clean(outbox.store, outbox.now)
    for _ in range(2):
        outbox.clock.advance(LIFETIMES[what] + 60)
        sweep_clean(outbox.store, outbox.now)
        assert outbox.take() == []
        assert left(lane) == []


def test_one_that_is_swept_late(outbox: Outbox, queue: Scene, lane: Lane, what: str, drop: Callable[[], None]) -> None:
    """A tombstone goes only after what it hides, however long that takes."""
    lane.fill(300)
    if what == "queue":
        queue.post("a")
    drop()
    outbox.clock.advance(LIFETIMES[what] + 60)
    while outbox.store.sweep(now=outbox.now, limit=50):
        assert outbox.take() == []
        assert outbox.take_posted() == []
    assert left(lane) == []


def test_expansions_beside_a_drop(
    outbox: Outbox, queue: Scene, lane: Lane, what: str, drop: Callable[[], None]
) -> None:
    """What the one stores at the moment of the other is not given to anybody, and goes in the end."""
    for n in range(40):
        queue.post(str(n))
    posts = outbox.take_all_posted("me")

    def expand_on(part: int) -> None:
        for posted in posts[part::3]:
            outbox.expand(posted, deliveries_of(posted, lane.subscription_id))

    at_once(*(partial(expand_on, part) for part in range(3)), drop)
    assert outbox.take_all() == []
    sweep_clean(outbox.store, outbox.now)
    outbox.clock.advance(LIFETIMES[what] + 60)
    assert left(lane) == []


# -- they delay no other -----------------------------------------------------------------------------------------------


def test_they_are_passed_over(outbox: Outbox, queue: Scene, lane: Lane, drop: Callable[[], None]) -> None:
    """Longer due than all others, and many: one call with the smallest limit gives what somebody else has due."""
    lane.fill(1500)
    for _ in range(50):
        queue.post("a")
    other_queue = outbox.new_scene()
    other = Lane(outbox, other_queue.queue.uid)
    outbox.clock.advance(5)
    other.fill(3)
    drop()
    assert [numbers(outbox.take(limit=1, most_of_one=1)) for _ in range(4)] == [[1], [2], [3], []]


def test_posts_of_dropped_queues_are_passed_over(outbox: Outbox) -> None:
    scenes = [outbox.new_scene() for _ in range(30)]
    for scene in scenes:
        for _ in range(5):
            scene.post("dropped")
    other = outbox.new_scene()
    other.post("a")
    other.post("b")
    for scene in scenes:
        scene.drop()
    first: list[Posted] = outbox.take_posted(limit=1)
    assert [posted.queue_uid for posted in first + outbox.take_posted(limit=1)] == [other.queue.uid] * 2


def test_a_sweep_comes_to_an_end_while_tombstones_last(outbox: Outbox, lane: Lane) -> None:
    for each in [lane.beside() for _ in range(10)]:
        each.fill(2)
        drop_lanes(each)
    sweep_clean(outbox.store, outbox.now)
    assert outbox.store.sweep(now=outbox.now, limit=10) == 0
    outbox.clock.advance(DROPPED_LIFETIME + 60)
    sweep_clean(outbox.store, outbox.now)
    assert outbox.store.sweep(now=outbox.now, limit=10) == 0


def test_a_purge_leaves_them(outbox: Outbox, queue: Scene, lane: Lane) -> None:
    """The counterpart: deliveries go on where only the messages are taken away."""
    lane.fill(2)
    queue.post("a")
    queue.purge()
    assert numbers(outbox.take_all()) == [1, 2]
    assert bodies(queue.listing()) == []
    assert lane.get(1) is not None and outbox.get(DeliveryKey(lane.queue_uid, lane.subscription_id, 9)) is None
    assert len(outbox.take_posted()) == 1
