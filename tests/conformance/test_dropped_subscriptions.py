# SPDX-License-Identifier: Apache-2.0
"""Part ``delivery_log``, ``drop``: posts and deliveries of a dropped queue or subscription are unreachable.

They delay no other subscription, and sweeps remove them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, at_once, bodies
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, SUBSCRIPTION_CONFIRMATION, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME, TOMBSTONE_LIFETIME

LIFETIMES = {"queue": TOMBSTONE_LIFETIME, "subscription": DROPPED_LIFETIME}


@pytest.fixture
def queue(notifier: NotifierClient) -> QueueClient:
    return notifier.open_queue()


@pytest.fixture
def backlog(notifier: NotifierClient, queue: QueueClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier, queue.queue.uid)


@pytest.fixture(params=list(LIFETIMES))
def what(request: pytest.FixtureRequest) -> str:
    """What is dropped: the whole queue, or one subscription of it."""
    return str(request.param)


@pytest.fixture
def drop(what: str, queue: QueueClient, backlog: SubscriptionBacklog) -> Callable[[], None]:
    return queue.drop if what == "queue" else partial(drop_backlogs, backlog)


def drop_backlogs(*backlogs: SubscriptionBacklog) -> None:
    """Drop several subscriptions of one queue."""
    ids = [backlog.subscription_id for backlog in backlogs]
    notifier = backlogs[0].notifier
    notifier.store.delivery_log.drop(queue_uid=backlogs[0].queue_uid, subscription_ids=ids, now=notifier.now)


def left(backlog: SubscriptionBacklog) -> list[int]:
    """The numbers of those that take space, once nothing is left to sweep."""
    removed = sweep_clean(backlog.notifier.store, backlog.notifier.now, limit=100)
    assert not removed or max(removed) <= 200
    assert all(backlog.get(number) is None for number in range(8) if number not in numbers(backlog.listing()))
    return numbers(backlog.listing())


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
def test_deliveries_in_each_state_are_dropped(
    notifier: NotifierClient, backlog: SubscriptionBacklog, drop: Callable[[], None], fields: dict[str, Any]
) -> None:
    times = {name: notifier.now + fields[name] for name in ("due", "keep_until") if name in fields}
    notifier.put(replace(backlog.new(1), **{**fields, **times}))
    drop()
    notifier.clock.advance(60)
    assert notifier.take("you") == []
    assert left(backlog) == []
    assert backlog.counts() == (0, 0)
    assert notifier.take("you") == []


def test_posts_of_a_dropped_queue_are_not_expanded(notifier: NotifierClient, queue: QueueClient) -> None:
    other = notifier.open_queue()
    for _ in range(3):
        queue.post("a", "b")
        other.post("c")
    notifier.take_posted("me", limit=2)
    queue.drop()
    notifier.clock.advance(LEASE)
    taken = notifier.take_all_posted("you", limit=2)
    assert {posted.queue_uid for posted in taken} == {other.queue.uid}
    assert len(taken) == 3


def test_posts_of_a_dropped_queue_are_removed(notifier: NotifierClient, queue: QueueClient) -> None:
    sweep_clean(notifier.store, notifier.now)
    for _ in range(300):
        queue.post("a")
    queue.drop()
    removed = sweep_clean(notifier.store, notifier.now, limit=100)
    assert not removed or max(removed) <= 200
    notifier.clock.advance(TOMBSTONE_LIFETIME + 60)
    assert notifier.take_posted() == []
    sweep_clean(notifier.store, notifier.now)
    queue.queue = replace(queue.queue, generation=2)
    queue.open()
    notifier.clock.advance(60)
    assert notifier.take_posted() == [], "the uid is free again, and what was dropped is gone"


def test_other_subscriptions_and_queues_keep_their_deliveries(
    notifier: NotifierClient, backlog: SubscriptionBacklog, what: str, drop: Callable[[], None]
) -> None:
    """Another subscription of the queue too, where only one is dropped."""
    stranger = SubscriptionBacklog(notifier, notifier.open_queue().queue.uid)
    beside = backlog.beside()
    for each in (stranger, beside, backlog):
        each.fill(5)
        notifier.put(each.new(7, state=DEAD, keep_until=notifier.now + 3600))
    drop()
    living = [stranger] if what == "queue" else [stranger, beside]
    notifier.clock.advance(60)
    taken = notifier.take_all()
    assert {each.subscription_id for each in taken} == {each.subscription_id for each in living}
    assert len(taken) == 5 * len(living)
    assert left(backlog) == []
    for each in living:
        assert left(each) == [7, 5, 4, 3, 2, 1]
        assert each.counts() == (5, 1)
        assert each.resend_dead() == 1


def test_several_subscriptions_are_dropped_in_one_call(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlogs = [backlog.beside() for _ in range(20)]
    for each in (backlog, *backlogs):
        each.fill(3)
    drop_backlogs(*backlogs)
    assert {each.subscription_id for each in notifier.take_all()} == {backlog.subscription_id}
    assert [left(each) for each in backlogs] == [[]] * 20


def test_the_same_id_at_another_queue_is_another_subscription(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    """No service makes two of one id; what is dropped is that of one queue all the same."""
    other = SubscriptionBacklog(notifier, notifier.open_queue().queue.uid, backlog.subscription_id)
    for each in (backlog, other):
        each.fill(3)
    drop_backlogs(backlog)
    assert left(backlog) == []
    assert left(other) == [3, 2, 1]
    assert {each.queue_uid for each in notifier.take_all()} == {other.queue_uid}


def test_to_drop_an_unknown_or_dropped_subscription_is_no_error(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    drop_backlogs(backlog)
    backlog.fill(1)
    drop_backlogs(backlog, backlog.beside())
    notifier.store.delivery_log.drop(queue_uid=backlog.queue_uid, subscription_ids=[], now=notifier.now)
    drop_backlogs(SubscriptionBacklog(notifier))
    assert notifier.take() == []
    assert left(backlog) == []


# -- nothing comes back -----------------------------------------------------------------------------------------------


def test_an_expansion_that_began_before_the_drop_stores_nothing(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog, drop: Callable[[], None]
) -> None:
    queue.post("a", "b", "c")
    (posted,) = notifier.take_posted("me")
    made = deliveries_of(posted, backlog.subscription_id)
    for n in range(3):
        if n == 1:
            drop()
        position = PostPosition("", "a", n + 1) if n < 2 else None
        notifier.expand(posted, [replace(made[n], owner="me", due=notifier.now + LEASE)], to=position)
        posted = replace(posted, position=position or posted.position)
    notifier.clock.advance(LEASE)
    assert notifier.take() == []
    assert notifier.take_posted("you") == []
    assert left(backlog) == []


def test_an_expansion_stores_the_deliveries_of_subscriptions_that_are_not_dropped(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog
) -> None:
    queue.post("a", "b")
    (posted,) = notifier.take_posted("me")
    others = [backlog.beside() for _ in range(3)]
    drop_backlogs(backlog, others[0])
    ids = [each.subscription_id for each in (others[1], backlog, others[0], others[2])]
    notifier.expand(posted, deliveries_of(posted, *ids))
    assert sorted(notifier.take_all(), key=lambda each: each.key) == sorted(
        (
            replace(each, owner="me", due=notifier.now + LEASE)
            for each in deliveries_of(posted, others[1].subscription_id, others[2].subscription_id)
        ),
        key=lambda each: each.key,
    )
    assert [left(each) for each in (backlog, *others)] == [[], [], [2, 1], [2, 1]]


def test_after_the_first_sweep_an_expansion_stores_nothing(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog
) -> None:
    """Else it would stay until the lifetime of the tombstone is over."""
    queue.post("a", "b")
    (posted,) = notifier.take_posted("me")
    beside = backlog.beside()
    drop_backlogs(backlog)
    sweep_clean(notifier.store, notifier.now)
    assert notifier.expand(posted, deliveries_of(posted, backlog.subscription_id, beside.subscription_id))
    assert (numbers(backlog.listing()), numbers(beside.listing())) == ([], [2, 1])
    notifier.put(backlog.new(0, kind=SUBSCRIPTION_CONFIRMATION))
    assert backlog.get(0) is None


def test_a_confirmation_that_is_put_after_the_drop_is_not_stored(
    notifier: NotifierClient, backlog: SubscriptionBacklog, drop: Callable[[], None]
) -> None:
    drop()
    notifier.put(backlog.new(0, kind=SUBSCRIPTION_CONFIRMATION))
    assert notifier.take() == []
    assert left(backlog) == []


@pytest.mark.parametrize("swept", [False, True])
def test_a_late_settle_does_not_bring_back_a_dropped_delivery(
    notifier: NotifierClient, backlog: SubscriptionBacklog, drop: Callable[[], None], swept: bool
) -> None:
    backlog.fill(4)
    taken = notifier.take("me")
    drop()
    if swept:
        assert left(backlog) == []
    notifier.extend(taken, notifier.now + 60)
    notifier.retry_at(notifier.now, taken[:1])
    notifier.settle_as(DONE, taken[1:2])
    notifier.settle_as(DEAD, taken[2:3])
    notifier.discard(taken[3:])
    notifier.clock.advance(60)
    assert notifier.take("you") == []
    assert left(backlog) == []
    assert backlog.counts() == (0, 0)


def test_after_the_lifetime_nothing_is_left(
    notifier: NotifierClient, backlog: SubscriptionBacklog, what: str, drop: Callable[[], None]
) -> None:
    backlog.fill(5)
    drop()
    sweep_clean(notifier.store, notifier.now)
    for _ in range(2):
        notifier.clock.advance(LIFETIMES[what] + 60)
        sweep_clean(notifier.store, notifier.now)
        assert notifier.take() == []
        assert left(backlog) == []


def test_a_tombstone_stays_until_all_that_it_hides_is_swept(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog, what: str, drop: Callable[[], None]
) -> None:
    """A tombstone goes only after what it hides, however long that takes."""
    backlog.fill(300)
    if what == "queue":
        queue.post("a")
    drop()
    notifier.clock.advance(LIFETIMES[what] + 60)
    while notifier.store.sweep(now=notifier.now, limit=50).removed:
        assert notifier.take() == []
        assert notifier.take_posted() == []
    assert left(backlog) == []


def test_deliveries_of_a_concurrent_expansion_are_unreachable_after_the_drop(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog, what: str, drop: Callable[[], None]
) -> None:
    """What the one stores at the moment of the other is not given to anybody, and goes in the end."""
    for n in range(40):
        queue.post(str(n))
    posts = notifier.take_all_posted("me")

    def expand_on(part: int) -> None:
        for posted in posts[part::3]:
            notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))

    at_once(*(partial(expand_on, part) for part in range(3)), drop)
    assert notifier.take_all() == []
    sweep_clean(notifier.store, notifier.now)
    notifier.clock.advance(LIFETIMES[what] + 60)
    assert left(backlog) == []


# -- they delay no other -----------------------------------------------------------------------------------------------


def test_a_take_passes_over_many_dropped_deliveries_at_once(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog, drop: Callable[[], None]
) -> None:
    """Longer due than all others, and many: one call with the smallest limit gives what somebody else has due."""
    backlog.fill(1500)
    for _ in range(50):
        queue.post("a")
    other_queue = notifier.open_queue()
    other = SubscriptionBacklog(notifier, other_queue.queue.uid)
    notifier.clock.advance(5)
    other.fill(3)
    drop()
    assert [numbers(notifier.take(limit=1, most_of_one=1)) for _ in range(4)] == [[1], [2], [3], []]


def test_posts_of_dropped_queues_are_passed_over(notifier: NotifierClient) -> None:
    queue_clients = [notifier.open_queue() for _ in range(30)]
    for orders in queue_clients:
        for _ in range(5):
            orders.post("dropped")
    other = notifier.open_queue()
    other.post("a")
    other.post("b")
    for orders in queue_clients:
        orders.drop()
    first: list[Posted] = notifier.take_posted(limit=1)
    assert [posted.queue_uid for posted in first + notifier.take_posted(limit=1)] == [other.queue.uid] * 2


def test_a_sweep_comes_to_an_end_while_tombstones_last(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    for each in [backlog.beside() for _ in range(10)]:
        each.fill(2)
        drop_backlogs(each)
    sweep_clean(notifier.store, notifier.now)
    assert notifier.store.sweep(now=notifier.now, limit=10).removed == 0
    notifier.clock.advance(DROPPED_LIFETIME + 60)
    sweep_clean(notifier.store, notifier.now)
    assert notifier.store.sweep(now=notifier.now, limit=10).removed == 0


def test_a_purge_drops_no_deliveries(
    notifier: NotifierClient, queue: QueueClient, backlog: SubscriptionBacklog
) -> None:
    """The counterpart: deliveries go on where only the messages are taken away."""
    backlog.fill(2)
    queue.post("a")
    queue.purge()
    assert numbers(notifier.take_all()) == [1, 2]
    assert bodies(queue.listing()) == []
    assert (
        backlog.get(1) is not None and notifier.get(DeliveryKey(backlog.queue_uid, backlog.subscription_id, 9)) is None
    )
    assert len(notifier.take_posted()) == 1
