# SPDX-License-Identifier: Apache-2.0
"""Part ``subscriptions``: they belong to the uid of a queue, and each subscriber has one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.clock import START, TICK
from tests.conformance.queue_client import at_once
from tests.conformance.subscription_client import SubscriptionClient
from tests.conformance.test_queue_records import METADATA
from zaqar.errors import Conflict
from zaqar.limits import YEAR_10000
from zaqar.model import CONFIRMED, PENDING, REFUSED, TOPIC, Secret, Subscription
from zaqar.storage.base import ManagementStore


@pytest.fixture
def queue(management: ManagementStore) -> Iterator[SubscriptionClient]:
    queue = SubscriptionClient(management)
    yield queue
    queue.delete_all()


def next_of(subscription: Subscription, **changes: Any) -> Subscription:
    return replace(subscription, version=subscription.version + 1, **changes)


def by_id(subscriptions: list[Subscription]) -> list[Subscription]:
    return sorted(subscriptions, key=lambda each: each.id)


# -- what was written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", METADATA.values(), ids=METADATA.keys())
def test_a_subscription_comes_back_as_it_was_written(queue: SubscriptionClient, options: dict[str, Any]) -> None:
    written = replace(
        queue.new("https://user:p%40ss@example.org/h\u00f6\u00f6k?a=1&b=%00#x"),
        project="sh\u00f6p ",
        kind=TOPIC,
        source="na-me_1",
        ttl=2**31,
        created=queue.clock.now - 0.125,
        expires=queue.clock.now + 2.0**31,
        options=options,
        state=CONFIRMED,
        secrets=(Secret("whsec_n\u00e9w"), Secret("whsec_old", queue.clock.now + 0.5)),
        version=7,
        challenge=2**40,
    )
    assert queue.put(written) == written
    for back in (queue.get(written.id), *queue.listing()):
        assert back == written
        assert back.secrets == written.secrets
        assert {key: type(value) for key, value in back.options.items()} == {
            key: type(value) for key, value in options.items()
        }


@pytest.mark.parametrize("state", [PENDING, CONFIRMED, REFUSED])
def test_a_subscription_in_each_state_without_secret_comes_back(queue: SubscriptionClient, state: str) -> None:
    written = queue.create("mailto:a@example.org", state=state)
    assert queue.get(written.id) == written


def test_a_subscription_is_found_by_its_subscriber(queue: SubscriptionClient) -> None:
    def found(subscriber: str, uid: str) -> Subscription | None:
        return queue.store.subscriptions.find(queue_uid=uid, subscriber=subscriber, now=queue.clock.now)

    written = queue.create("https://a.example/?x=\u00f6", ttl=60)
    queue.create("https://b.example")
    assert found(written.subscriber, queue.uid) == written
    assert found("https://c.example", queue.uid) is None
    assert found(written.subscriber, queue.beside().uid) is None
    queue.clock.advance(60 - TICK)
    assert found(written.subscriber, queue.uid) == written
    queue.clock.advance(TICK)
    assert found(written.subscriber, queue.uid) is None
    again = queue.create(written.subscriber)
    assert found(written.subscriber, queue.uid) == again
    queue.delete(again)
    assert found(written.subscriber, queue.uid) is None


def test_get_of_an_absent_subscription_is_none(queue: SubscriptionClient) -> None:
    assert queue.get(secrets.token_hex(12)) is None
    assert queue.listing() == []


def test_a_change_to_the_copy_of_a_caller_changes_no_subscription(queue: SubscriptionClient) -> None:
    options: dict[str, Any] = {"tags": ["a"]}
    written = queue.create("http://a.example", options=options)
    options["tags"].append("b")
    back = queue.get(written.id)
    assert back is not None and back.options == {"tags": ["a"]}
    back.options["tags"].append("c")
    again = queue.get(written.id)
    assert again is not None and again.options == {"tags": ["a"]}


# -- one per subscriber -----------------------------------------------------------------------------------------------


def test_a_second_create_returns_the_subscription_in_place(queue: SubscriptionClient) -> None:
    first = queue.create("http://a.example", options={"a": 1})
    assert queue.put(queue.new("http://a.example", options={"b": 2})) == first
    assert queue.listing() == [first]


@pytest.mark.parametrize("round_", range(5))
def test_of_concurrent_creations_exactly_one_succeeds(queue: SubscriptionClient, round_: int) -> None:
    answers: list[Subscription] = []
    at_once(*[lambda: answers.append(queue.put(queue.new("http://a.example")))] * 8)
    assert len(answers) == 8
    assert [answers[0]] * 8 == answers
    assert queue.listing() == [answers[0]]


def test_subscribers_that_are_almost_the_same_have_their_own_subscriptions(queue: SubscriptionClient) -> None:
    long = "https://example.org/" + secrets.token_hex(990)
    subscribers = [
        "http://a.example/x",
        "http://a.example/X",
        "http://a.example/x ",
        "http://a.example/x/",
        "http://a.example/\u00e9",
        "http://a.example/e\u0301",
        "http://a.example/%",
        "http://a.example/_",
        long + "a",
        long + "b",
    ]
    made = [queue.create(subscriber) for subscriber in subscribers]
    assert queue.listing() == by_id(made)
    for subscription in made:
        assert queue.put(queue.new(subscription.subscriber)) == subscription


def test_each_queue_may_have_the_same_subscriber(queue: SubscriptionClient) -> None:
    other = queue.beside()
    mine, theirs = queue.create("http://a.example"), other.create("http://a.example")
    assert (queue.listing(), other.listing()) == ([mine], [theirs])
    assert queue.get(theirs.id) is None
    assert not queue.replace(next_of(replace(theirs, queue_uid=queue.uid)))
    queue.delete(theirs)
    assert other.get(theirs.id) == theirs
    queue.delete_all()
    assert (queue.listing(), other.listing()) == ([], [theirs])
    assert other.put(other.new("http://a.example")) == theirs
    other.delete_all()


# -- over -------------------------------------------------------------------------------------------------------------


def test_an_expired_subscription_is_absent_for_each_method(queue: SubscriptionClient) -> None:
    short, long = queue.create("http://a.example", ttl=60), queue.create("http://b.example")
    queue.clock.advance(60 - TICK)
    assert queue.get(short.id) == short
    assert queue.listing() == by_id([short, long])
    queue.clock.advance(TICK)
    assert queue.get(short.id) is None
    assert queue.listing() == [long]
    assert not queue.replace(next_of(short, expires=queue.clock.now + 600))
    assert queue.get(short.id) is None


def test_an_expired_subscription_does_not_refuse_its_subscriber(queue: SubscriptionClient) -> None:
    short = queue.create("http://a.example", ttl=60)
    queue.clock.advance(60)
    heir = queue.create("http://a.example", ttl=600)
    assert queue.listing() == [heir]
    queue.delete(short)  # by a sweep that found it before
    assert queue.listing() == [heir]
    assert queue.put(queue.new("http://a.example")) == heir
    assert heir.id not in [each.id for each in queue.sweep()]
    assert queue.get(heir.id) == heir


@pytest.mark.parametrize("round_", range(3))
def test_of_concurrent_creations_after_an_expiry_exactly_one_succeeds(queue: SubscriptionClient, round_: int) -> None:
    queue.create("http://a.example", ttl=60)
    queue.clock.advance(60)
    answers: list[Subscription] = []
    at_once(*[lambda: answers.append(queue.put(queue.new("http://a.example")))] * 8)
    assert [answers[0]] * 8 == answers
    assert queue.listing() == [answers[0]]


def test_list_expired_returns_the_expired_subscriptions_of_every_queue(queue: SubscriptionClient) -> None:
    queues = [queue, queue.beside(), queue.beside()]
    over = [each.create(f"http://{n}.example", ttl=60) for each in queues for n in range(25)]
    live = [[each.create(f"http://{n}.example", ttl=61) for n in range(25, 28)] for each in queues]
    queue.clock.advance(60)
    assert {each.id for each in over} <= {each.id for each in queue.sweep(limit=7)}
    for each, left in zip(queues, live, strict=True):
        assert each.listing() == by_id(left)
        each.create("http://0.example")
        each.delete_all()


def test_an_extended_subscription_is_not_listed_at_its_old_expiry(queue: SubscriptionClient) -> None:
    short = queue.create("http://a.example", ttl=60)
    longer = next_of(short, ttl=600, expires=queue.clock.now + 600)
    assert queue.replace(longer)
    queue.clock.advance(60)
    assert short.id not in [each.id for each in queue.sweep()]
    assert queue.get(short.id) == longer
    queue.clock.advance(540)
    assert short.id in [each.id for each in queue.sweep()]
    assert queue.get(short.id) is None


def test_list_expired_returns_whole_subscriptions(queue: SubscriptionClient) -> None:
    """Whoever sweeps has to know its queue, to see whether it was the last one."""
    short = queue.create("http://a.example", ttl=60, options={"a": [1]}, state=REFUSED, secrets=(Secret("x"),))
    queue.clock.advance(60)
    assert short in queue.sweep()


# What Senlin and Heat ask for, what a 32-bit integer cannot hold, and the longest life there is.
LONG_LIVES = [2**31 - 1, 2**31, 2**32, 2**36, 220_367_260_800, YEAR_10000 - int(START) - 1]


@pytest.mark.parametrize("ttl", LONG_LIVES)
def test_the_expiry_of_a_long_subscription_is_exact(queue: SubscriptionClient, ttl: int) -> None:
    written = queue.create("http://a.example", ttl=ttl)
    shorter = queue.create("http://b.example", ttl=ttl - 1)
    changed = queue.create("http://c.example", ttl=60)
    queue.clock.advance(30)
    changed = next_of(changed, ttl=ttl - 30, expires=written.expires)
    assert queue.replace(changed)
    assert queue.listing() == by_id([written, shorter, changed])
    assert {each.ttl for each in queue.listing()} == {ttl, ttl - 1, ttl - 30}
    # Not of a subclass, which an encoder might not know.
    assert {type(each.ttl) for each in queue.listing()} == {int}
    queue.clock.now = written.expires - TICK
    assert queue.get(written.id) == written
    assert queue.listing() == by_id([written, changed])
    swept = {each.id for each in queue.sweep()}
    assert swept & {written.id, shorter.id, changed.id} == {shorter.id}
    assert queue.put(queue.new(written.subscriber)) == written
    queue.clock.advance(TICK)
    assert queue.get(written.id) is None
    assert queue.listing() == []
    assert {written.id, changed.id} <= {each.id for each in queue.sweep()}


# -- replace ----------------------------------------------------------------------------------------------------------


def test_a_replacement_needs_the_version_before(queue: SubscriptionClient) -> None:
    first = queue.create("http://a.example")
    for version in (0, 1, 3):
        assert not queue.replace(replace(first, version=version, state=CONFIRMED))
    assert queue.get(first.id) == first
    second = next_of(
        first,
        subscriber="http://b.example",
        state=CONFIRMED,
        options={"post_data": "x"},
        ttl=120,
        expires=queue.clock.now + 120,
        secrets=(Secret("b"), Secret("a", queue.clock.now + 60)),
    )
    assert queue.replace(second)
    assert queue.get(first.id) == second
    assert queue.listing() == [second]
    assert not queue.replace(second)
    third = next_of(second, state=REFUSED, secrets=(), options={})
    assert queue.replace(third)
    assert queue.get(first.id) == third


def test_an_absent_subscription_is_not_replaced(queue: SubscriptionClient) -> None:
    never = queue.new("http://a.example")
    assert not queue.replace(next_of(never))
    assert queue.get(never.id) is None
    gone = queue.create("http://a.example")
    queue.delete(gone)
    assert not queue.replace(next_of(gone))
    assert queue.listing() == []


@pytest.mark.parametrize("round_", range(3))
def test_of_concurrent_replacements_exactly_one_succeeds(queue: SubscriptionClient, round_: int) -> None:
    first = queue.create("http://a.example")
    won: list[int] = []

    def write(writer: int) -> None:
        if queue.replace(next_of(first, options={"writer": writer})):
            won.append(writer)

    at_once(*(partial(write, writer) for writer in range(8)))
    assert len(won) == 1
    assert queue.get(first.id) == next_of(first, options={"writer": won[0]})


def test_no_concurrent_replacement_is_lost(queue: SubscriptionClient) -> None:
    first = queue.create("http://a.example", options={"count": 0})

    def add_five() -> None:
        added = 0
        while added < 5:
            there = queue.get(first.id)
            assert there is not None
            added += queue.replace(next_of(there, options={"count": there.options["count"] + 1}))

    at_once(*[add_five] * 4)
    assert queue.get(first.id) == replace(first, version=21, options={"count": 20})


def test_a_replacement_with_the_subscriber_of_another_subscription_is_a_conflict(queue: SubscriptionClient) -> None:
    one, two = queue.create("http://a.example"), queue.create("http://b.example", ttl=60)
    with pytest.raises(Conflict):
        queue.replace(next_of(one, subscriber=two.subscriber, state=CONFIRMED))
    assert queue.listing() == by_id([one, two])
    assert queue.put(queue.new(one.subscriber)) == one
    queue.clock.advance(60)
    changed = next_of(one, subscriber=two.subscriber)
    assert queue.replace(changed)
    assert queue.listing() == [changed]
    queue.delete(two)
    assert queue.put(queue.new(two.subscriber)) == changed


def test_a_subscriber_that_was_replaced_can_be_used_again(queue: SubscriptionClient) -> None:
    first = queue.create("http://a.example")
    moved = next_of(first, subscriber="http://b.example")
    assert queue.replace(moved)
    second = queue.create("http://a.example")
    assert queue.listing() == by_id([moved, second])
    queue.delete(moved)
    assert queue.listing() == [second]
    assert queue.put(queue.new("http://a.example")) == second
    third = queue.create("http://b.example")
    assert queue.listing() == by_id([second, third])


def test_concurrent_changes_never_give_two_subscriptions_one_subscriber(queue: SubscriptionClient) -> None:
    made = [queue.create(f"http://{n}.example") for n in range(4)]
    won: list[str] = []

    def move(subscription: Subscription) -> None:
        try:
            if queue.replace(next_of(subscription, subscriber="http://wanted.example")):
                won.append(subscription.id)
        except Conflict:
            return

    def create() -> None:
        wanted = queue.new("http://wanted.example")
        if queue.put(wanted) == wanted:
            won.append(wanted.id)

    at_once(*(partial(move, subscription) for subscription in made), create)
    assert len(won) == 1
    assert [each.id for each in queue.listing() if each.subscriber == "http://wanted.example"] == won


# -- delete -----------------------------------------------------------------------------------------------------------


def test_a_deleted_subscription_is_gone_and_its_subscriber_can_be_used_again(queue: SubscriptionClient) -> None:
    first, other = queue.create("http://a.example"), queue.create("http://b.example")
    queue.delete(first)
    queue.delete(first)
    assert queue.get(first.id) is None
    assert queue.listing() == [other]
    later = queue.create("http://a.example")
    queue.delete(first)
    assert queue.listing() == by_id([later, other])


def test_a_delete_by_version_leaves_a_subscription_that_has_changed(queue: SubscriptionClient) -> None:
    first = queue.create("http://a.example")
    changes: list[dict[str, Any]] = [{"subscriber": "http://b.example"}, {"ttl": 9}, {"subscriber": "http://a.example"}]
    for change in changes:
        read = queue.get(first.id)
        assert read is not None
        changed = replace(read, version=read.version + 1, **change)
        assert queue.replace(changed)
        queue.delete_as_read(read)
        assert queue.get(first.id) == changed, "also if it is called as before again"
    queue.delete_as_read(changed)
    assert queue.get(first.id) is None
    queue.delete_as_read(changed)
    assert queue.create("http://a.example")


def test_delete_many_leaves_subscriptions_whose_subscriber_has_changed(queue: SubscriptionClient) -> None:
    """The caller decides by the subscriber alone: anything else may have changed since it has read them."""
    beside = queue.beside()
    same, changed, moved, expired, absent, other = (queue.create(f"http://c.example/{n}") for n in range(6))
    elsewhere = beside.create(same.subscriber)
    assert queue.replace(replace(changed, version=changed.version + 1, options={"a": 1}))
    assert queue.replace(replace(moved, version=moved.version + 1, subscriber="http://d.example/"))
    assert queue.replace(replace(expired, version=expired.version + 1, ttl=60, expires=queue.clock.now + 60))
    queue.clock.advance(60)
    queue.delete(absent)
    wanted = [same, changed, moved, expired, absent, elsewhere]
    gone = queue.store.subscriptions.delete_many(subscriptions=wanted)
    assert sorted(each.id for each in gone) == sorted(each.id for each in wanted if each is not moved)
    assert sorted(each.id for each in queue.listing()) == sorted([moved.id, other.id])
    assert beside.listing() == []
    assert queue.sweep() == []
    # Their subscribers are free, and once more is fine.
    assert queue.create(same.subscriber)
    assert len(queue.store.subscriptions.delete_many(subscriptions=wanted)) == len(gone)
    assert queue.store.subscriptions.delete_many(subscriptions=[]) == []


def test_concurrent_callers_can_delete_the_same_subscriptions(queue: SubscriptionClient) -> None:
    beside = queue.beside()
    made = [each.create(f"http://c.example/{n}") for n in range(20) for each in (queue, beside)]
    gone: list[int] = []

    def remove(subscriptions: list[Subscription]) -> None:
        gone.append(len(queue.store.subscriptions.delete_many(subscriptions=subscriptions)))

    at_once(*(partial(remove, made[::step]) for step in (1, -1, 1, -1)))
    assert gone == [len(made)] * 4
    assert queue.listing() == beside.listing() == []


def test_delete_all_deletes_live_and_expired_subscriptions_of_a_queue(queue: SubscriptionClient) -> None:
    made = [queue.create(f"http://{n}.example", ttl=60 if n % 2 else 600) for n in range(40)]
    queue.clock.advance(60)
    queue.delete_all()
    queue.delete_all()
    assert queue.listing() == []
    assert not {each.id for each in made} & {each.id for each in queue.sweep()}
    again = [queue.create(f"http://{n}.example") for n in range(40)]
    assert queue.listing() == by_id(again)


def test_delete_all_during_creations_leaves_whole_subscriptions(queue: SubscriptionClient) -> None:
    """Whatever is left is listed, and is what a creation of its subscriber gives."""

    def create_on(thread: int) -> None:
        for n in range(20):
            queue.put(queue.new(f"http://{n % 5}.{thread % 2}.example"))

    def delete_on() -> None:
        for _ in range(20):
            queue.delete_all()

    at_once(*(partial(create_on, thread) for thread in range(4)), delete_on)
    for each in queue.listing():
        assert queue.get(each.id) == each
        assert queue.put(queue.new(each.subscriber)) == each
    queue.delete_all()
    for n in range(5):
        queue.create(f"http://{n}.0.example")
    assert len(queue.listing()) == 5


# -- list -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 10, 50])
def test_following_the_marker_lists_each_subscription_once(queue: SubscriptionClient, size: int) -> None:
    made = by_id([queue.create(f"http://{n}.example", ttl=60 if n % 4 == 3 else 600) for n in range(23)])
    queue.clock.advance(60)
    live = [each for each in made if each.ttl == 600]
    seen: list[Subscription] = []
    while page := queue.listing(after=seen[-1].id if seen else "", limit=size):
        assert len(page) == min(size, len(live) - len(seen))
        seen += page
        queue.delete(page[-1])
    assert seen == live
    assert len(queue.listing()) == 18 - -(-18 // size)


def test_a_marker_need_not_be_the_id_of_a_subscription(queue: SubscriptionClient) -> None:
    made = by_id([queue.create(f"http://{n}.example") for n in range(3)])
    queue.delete(made[1])
    assert queue.listing(after=made[1].id) == made[2:]
    assert queue.listing(after="g") == []


def test_a_queue_can_have_many_subscriptions(queue: SubscriptionClient) -> None:
    made = by_id([queue.create(f"http://example.org/{n}", options={"n": n}) for n in range(600)])
    assert queue.listing() == made
    assert queue.listing(after=made[299].id, limit=100) == made[300:400]
    queue.delete_all()
    assert queue.listing() == []


# -- pauses ----------------------------------------------------------------------------------------------------------


def test_a_pause_is_taken_once(management: ManagementStore) -> None:
    key, now = secrets.token_hex(8), 1_000_000.125
    assert management.subscriptions.take_pauses(pauses={key: now + 60}, now=now) is None
    for later in (0.0, 1.0, 59.875):
        assert management.subscriptions.take_pauses(pauses={key: now + 600}, now=now + later) == now + 60
    assert management.subscriptions.take_pauses(pauses={key: now + 90}, now=now + 60) is None
    assert management.subscriptions.take_pauses(pauses={key: now + 600}, now=now + 61) == now + 90


def test_pauses_are_taken_together_or_not_at_all(management: ManagementStore) -> None:
    one, two, three = (secrets.token_hex(8) for _ in range(3))
    now = 1_000_000.0
    assert management.subscriptions.take_pauses(pauses={two: now + 60}, now=now) is None
    assert management.subscriptions.take_pauses(pauses={three: now + 80}, now=now) is None
    # The last of those in the way counts.
    assert (
        management.subscriptions.take_pauses(pauses={one: now + 500, two: now + 500, three: now + 500}, now=now + 1)
        == now + 80
    )
    assert management.subscriptions.take_pauses(pauses={one: now + 30}, now=now + 2) is None
    assert management.subscriptions.take_pauses(pauses={one: now + 500, two: now + 400}, now=now + 70) is None
    assert management.subscriptions.take_pauses(pauses={two: now + 500}, now=now + 70) == now + 400


def test_of_concurrent_callers_exactly_one_takes_a_pause(management: ManagementStore) -> None:
    shared, now = [secrets.token_hex(8) for _ in range(2)], 1_000_000.0
    taken: list[float | None] = []

    def take(number: int) -> None:
        keys = [secrets.token_hex(8), *(shared if number % 2 else reversed(shared))]
        taken.append(management.subscriptions.take_pauses(pauses=dict.fromkeys(keys, now + 60), now=now))

    at_once(*(partial(take, number) for number in range(8)))
    assert taken.count(None) == 1
    assert set(taken) == {None, now + 60}


def test_a_pause_can_be_taken_when_others_have_ended(management: ManagementStore) -> None:
    now = 1_000_000.0
    for number in range(5):
        key = secrets.token_hex(8)
        assert management.subscriptions.take_pauses(pauses={key: now + number}, now=now + number - 1) is None
        assert management.subscriptions.take_pauses(pauses={key: now + number + 9}, now=now + number) is None
