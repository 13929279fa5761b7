# SPDX-License-Identifier: Apache-2.0
"""Part ``deliveries``: their states, leases that only the owner can end, and fair turns of subscriptions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.clock import START, TICK
from tests.conformance.notifier_client import (
    KEPT,
    LEASE,
    NotifierClient,
    SubscriptionBacklog,
    new_subscription_id,
    numbers,
)
from zaqar.model import (
    DEAD,
    DONE,
    SUBSCRIPTION_CONFIRMATION,
    UNSUBSCRIBE_CONFIRMATION,
    WAITING,
    Attempt,
)

ATTEMPTS = (
    Attempt(START - 8.5, 500, 0.25, "Internal \u0000 \u2028 \u20ac \U0001f600 '\"\\ $set {} %s\r\n"),
    Attempt(START - 4.0, None, 10.0, "nobody answered in time"),
    Attempt(START, 599, 0.0, ""),
)
FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "delayed": {"due": START + 900.125},
    "leased": {"owner": "h\u00f6st/1.2:3", "due": START + LEASE},
    "to be tried again": {"tries": 3, "attempts": ATTEMPTS, "due": START + 30},
    "done": {"state": DONE, "tries": 1, "attempts": ATTEMPTS[2:], "keep_until": START + 259_200.5},
    "dead": {"state": DEAD, "tries": 13, "attempts": ATTEMPTS * 5, "keep_until": START + 1},
    "confirmation": {"kind": SUBSCRIPTION_CONFIRMATION, "number": 0, "body": b"", "client_id": ""},
    "unsubscribed": {"kind": UNSUBSCRIBE_CONFIRMATION, "number": 0, "body": b"{}"},
    "last number": {"number": 2**44 - 1},
    "odd": {"body": b'"\xc3\xa9\\u0000\xf0\x9f\x98\x80"', "client_id": "cli\u00e9nt \u2028", "ttl": 2**31},
    "large": {"body": b'"' + b"x" * 262_142 + b'"'},
}


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier)


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_a_delivery_comes_back_as_it_was_put(
    notifier: NotifierClient, backlog: SubscriptionBacklog, fields: dict[str, Any]
) -> None:
    written = replace(backlog.new(7), **fields)
    notifier.put(written)
    assert backlog.get(written.number) == written
    assert backlog.listing() == [written]
    assert backlog.counts() == (int(written.state == WAITING), int(written.state == DEAD))
    notifier.clock.advance(1000)
    if written.state == WAITING:
        assert notifier.take("you") == [replace(written, owner="you", due=notifier.now + LEASE)]


def test_calls_about_an_absent_delivery_change_nothing(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    assert backlog.get(1) is None
    assert backlog.listing() == []
    assert backlog.counts() == (0, 0)
    assert (backlog.resend(1), backlog.resend_dead()) == (0, 0)
    notifier.settle_as(DONE, [backlog.new(1)])
    notifier.extend([backlog.new(1)], notifier.now + 60)
    assert backlog.listing() == []
    assert notifier.take() == []


@pytest.mark.parametrize("state", [WAITING, DONE, DEAD, "leased"])
def test_put_replaces_a_delivery_with_the_same_key(
    notifier: NotifierClient, backlog: SubscriptionBacklog, state: str
) -> None:
    before = backlog.new(0, kind=SUBSCRIPTION_CONFIRMATION, tries=2, attempts=ATTEMPTS)
    notifier.put(before)
    if state != WAITING:
        taken = notifier.take("me")
        if state != "leased":
            notifier.settle_as(state, taken)
    notifier.clock.advance(1)
    after = backlog.new(0, kind=UNSUBSCRIBE_CONFIRMATION, body=b'"after"')
    notifier.put(after)
    assert backlog.listing() == [after]
    assert backlog.counts() == (1, 0)
    notifier.discard([before])  # what its owner says of the one before
    notifier.clock.advance(KEPT)
    while notifier.store.sweep(now=notifier.now, limit=1000).removed:
        pass
    assert notifier.take("you") == [replace(after, owner="you", due=notifier.now + LEASE)]
    assert notifier.take("me") == []


def test_subscriptions_do_not_share_deliveries(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    """Also those of two queues that have one id, which no service makes."""
    backlogs = [backlog, backlog.beside(), SubscriptionBacklog(notifier, subscription_id=backlog.subscription_id)]
    for each in backlogs:
        notifier.put(replace(each.new(1), state=DEAD, keep_until=notifier.now + 60), each.new(2))
    assert backlog.resend_dead() == 1
    notifier.put(replace(backlog.new(2), body=b"changed", due=notifier.now + 60))
    assert backlog.counts() == (2, 0)
    for each in backlogs[1:]:
        assert each.counts() == (1, 1)
        assert numbers(each.listing()) == [2, 1]
        assert each.get(2) == each.new(2)
    assert sorted(each.key for each in notifier.take_all()) == sorted(
        [backlog.key(1), *(e.key(2) for e in backlogs[1:])]
    )


# -- take -------------------------------------------------------------------------------------------------------------


def test_a_delivery_is_taken_exactly_from_its_due_time_on(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    notifier.put(backlog.new(1, due=notifier.now + 30), backlog.new(2, due=notifier.now + 30.125))
    for step, expected in ((30 - TICK, []), (TICK, [1]), (0.125, [2])):
        notifier.clock.advance(step)
        assert numbers(notifier.take()) == expected


def test_a_take_leases_deliveries(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    (before,) = backlog.fill(1, attempts=ATTEMPTS, tries=3)
    (taken,) = notifier.take("me", until=notifier.now + 10)
    assert taken == replace(before, owner="me", due=notifier.now + 10)
    assert backlog.get(1) == taken
    assert backlog.listing(WAITING) == [taken]
    assert backlog.counts() == (1, 0)


def test_nobody_else_takes_a_delivery_until_the_lease_ends(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    backlog.fill(2)
    assert numbers(notifier.take("me")) == [1, 2]
    notifier.clock.advance(LEASE - TICK)
    assert notifier.take("you") == notifier.take("me") == []
    notifier.clock.advance(TICK)
    assert numbers(notifier.take("you")) == [1, 2]
    assert notifier.take("me") == []
    notifier.clock.advance(LEASE)
    assert numbers(notifier.take("me")) == [1, 2]


def test_the_longest_due_delivery_of_a_subscription_is_taken_first(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    made = [backlog.new(n, due=notifier.now - 50 + due) for n, due in enumerate(Random(4).sample(range(50), 40), 1)]
    notifier.put(*made)
    expected = numbers(sorted(made, key=lambda each: each.due))
    assert [number for _ in range(8) for number in numbers(notifier.take(limit=5))] == expected
    notifier.retry_at(notifier.now + 20, [each for each in backlog.listing() if each.number == expected[0]])
    notifier.clock.advance(20)
    assert numbers(notifier.take())[-1] == expected[0]


def test_a_take_respects_limit_and_most_of_one(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlogs = [backlog, backlog.beside(), backlog.beside(), SubscriptionBacklog(notifier)]
    for each in backlogs:
        each.fill(20)
    for limit, most in ((3, 10), (1, 1), (10, 3), (12, 2)):
        taken = notifier.take(limit=limit, most_of_one=most)
        assert len(taken) == min(limit, most * 4)
        for each in backlogs:
            assert len([one for one in taken if one.subscription_id == each.subscription_id]) <= most
    rest = notifier.take_all(most_of_one=3)
    for each in backlogs:
        mine = numbers(one for one in rest if one.subscription_id == each.subscription_id)
        assert mine == sorted(mine)
        assert mine[-1] == 20
    assert len(rest) == 80 - 3 - 1 - 10 - 8


def test_a_take_returns_nothing_of_subscriptions_in_without(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    backlogs = [backlog, backlog.beside(), SubscriptionBacklog(notifier)]
    for each in backlogs:
        each.fill(30)
    others = [new_subscription_id() for _ in range(300)]
    taken = notifier.take_all(without=[backlog.subscription_id, backlogs[2].subscription_id, *others])
    assert {each.subscription_id for each in taken} == {backlogs[1].subscription_id}
    assert len(taken) == 30
    assert notifier.take(without=[each.subscription_id for each in backlogs]) == []
    assert len(notifier.take_all()) == 60


def test_a_subscription_with_very_many_deliveries_does_not_starve_others(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    backlog.fill(800, created=START - 3600)
    others = [SubscriptionBacklog(notifier) for _ in range(3)]
    notifier.clock.advance(5)
    for other in others:
        other.fill(2)
    taken = notifier.take(limit=10, most_of_one=5)
    assert {each.subscription_id for each in others} <= {each.subscription_id for each in taken}


def test_each_of_more_subscriptions_than_a_take_returns_gets_its_turn(notifier: NotifierClient) -> None:
    """Some have much that is long due, others a little of late, and what is taken is settled: all get theirs."""
    busy = [SubscriptionBacklog(notifier) for _ in range(4)]
    for backlog in busy:
        backlog.fill(100)
    notifier.clock.advance(5)
    late = [SubscriptionBacklog(notifier) for _ in range(8)]
    for backlog in late:
        backlog.fill(1)
    seen: set[str] = set()
    for _ in range(50):
        taken = notifier.take(limit=4, most_of_one=2)
        seen.update(each.subscription_id for each in taken)
        notifier.discard(taken)
    assert seen == {backlog.subscription_id for backlog in (*busy, *late)}


def test_each_subscription_gets_its_turn_if_nothing_is_settled(notifier: NotifierClient) -> None:
    backlogs = [SubscriptionBacklog(notifier) for _ in range(30)]
    for backlog in backlogs:
        backlog.fill(2)
    taken = notifier.take_all(limit=7, most_of_one=1)
    assert sorted(each.key for each in taken) == sorted(backlog.key(n) for backlog in backlogs for n in (1, 2))


# -- extend -----------------------------------------------------------------------------------------------------------


def test_leases_are_extended(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlog.fill(3)
    taken = notifier.take("me")
    notifier.clock.advance(2)
    notifier.extend([*taken[:2], backlog.new(9)], notifier.now + LEASE)
    assert backlog.get(1) == replace(taken[0], due=notifier.now + LEASE)
    notifier.clock.advance(LEASE - 2)
    assert numbers(notifier.take("you")) == [3]
    notifier.clock.advance(2 - TICK)
    assert notifier.take("you") == []
    notifier.clock.advance(TICK)
    assert numbers(notifier.take("you")) == [1, 2]


def test_only_the_owner_extends(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlog.fill(4)
    mine, lost, retried, _ = notifier.take("me")
    notifier.extend([mine], notifier.now + 60)
    notifier.retry_at(notifier.now + LEASE, [retried])
    notifier.clock.advance(LEASE)
    taken = notifier.take("you")
    assert sorted(numbers(taken)) == [2, 3, 4]
    before = backlog.listing()
    notifier.extend([mine, lost, retried], notifier.now + 600, owner="nobody")
    notifier.extend([lost, retried], notifier.now + 600, owner="me")
    assert backlog.listing() == before


def test_the_lease_of_a_settled_delivery_is_not_extended(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    backlog.fill(3)
    taken = notifier.take("me")
    notifier.retry_at(notifier.now + 30, taken[:1])
    notifier.settle_as(DEAD, taken[1:2])
    notifier.discard(taken[2:])
    before = backlog.listing()
    notifier.extend(taken, notifier.now + 600)
    assert backlog.listing() == before
    notifier.clock.advance(30)
    assert numbers(notifier.take()) == [1]


# -- settle -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DONE, DEAD])
def test_a_delivery_that_is_settled_for_good_is_kept(
    notifier: NotifierClient, backlog: SubscriptionBacklog, state: str
) -> None:
    backlog.fill(2)
    first, _ = notifier.take("me")
    settled = replace(
        first, state=state, due=notifier.now, tries=4, attempts=ATTEMPTS, keep_until=notifier.now + 60, owner="me"
    )
    notifier.settle(settled)
    assert backlog.get(1) == replace(settled, owner=None)
    assert backlog.counts() == (1, int(state == DEAD))
    notifier.clock.advance(59)
    assert numbers(notifier.take("you")) == [2]
    assert backlog.listing(state) == [replace(settled, owner=None)]


def test_a_delivery_that_is_settled_for_a_retry_is_due_again(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    (before,) = backlog.fill(1)
    for tries in range(1, 4):
        (taken,) = notifier.take("me")
        assert (taken.tries, taken.attempts) == (tries - 1, ATTEMPTS[: tries - 1])
        again = replace(taken, due=notifier.now + 10, tries=tries, attempts=ATTEMPTS[:tries])
        notifier.settle(again)
        assert backlog.get(1) == replace(again, owner=None)
        notifier.clock.advance(10 - TICK)
        assert notifier.take("me") == []
        notifier.clock.advance(TICK)
    assert before.key == backlog.key(1)
    assert backlog.counts() == (1, 0)


def test_a_lease_is_handed_back(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlog.fill(2)
    notifier.settle(*(replace(each, due=notifier.now) for each in notifier.take("me")))
    assert numbers(notifier.take("you")) == [1, 2]


@pytest.mark.parametrize("state", [DONE, DEAD])
@pytest.mark.parametrize("keep", [None, -1.0, 0.0])
def test_a_settled_delivery_without_keep_until_is_removed(
    notifier: NotifierClient, backlog: SubscriptionBacklog, state: str, keep: float | None
) -> None:
    backlog.fill(2)
    first, second = notifier.take("me")
    notifier.settle(replace(first, state=state, keep_until=None if keep is None else notifier.now + keep))
    assert backlog.get(1) is None
    assert backlog.listing() == [second]
    assert backlog.counts() == (1, 0)
    assert (backlog.resend(1), backlog.resend_dead()) == (0, 0)


def test_a_settle_by_a_late_owner_changes_nothing(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlog.fill(4)
    late = notifier.take("late")
    notifier.clock.advance(LEASE)
    taken = notifier.take("me")
    notifier.settle_as(DONE, taken[:1])
    notifier.retry_at(notifier.now + 60, taken[1:2])
    notifier.discard(taken[2:3])
    before = backlog.listing()
    for settle in (notifier.discard, partial(notifier.settle_as, DEAD), partial(notifier.retry_at, notifier.now)):
        settle(late, owner="late")
        settle(late, owner="nobody")
        settle(taken[:3], owner="me")  # it has settled those before
        assert backlog.listing() == before
    assert backlog.counts() == (2, 0)
    notifier.settle_as(DEAD, taken[3:])
    assert backlog.counts() == (1, 1)
    backlog.resend(1)
    notifier.discard(taken[:1])
    assert backlog.counts() == (2, 1)


def test_many_deliveries_are_settled_in_one_call(notifier: NotifierClient, backlog: SubscriptionBacklog) -> None:
    backlogs = [backlog, backlog.beside(), SubscriptionBacklog(notifier)]
    for each in backlogs:
        each.fill(100)
    taken = notifier.take_all("me")
    states = {each.key: (DONE, DEAD, WAITING)[each.number % 3] for each in taken}
    notifier.settle(
        *(replace(e, state=states[e.key], due=notifier.now + 60, keep_until=notifier.now + KEPT) for e in taken)
    )
    for each in backlogs:
        assert each.counts() == (33, 34)
        assert {one.key: one.state for one in each.listing()} == {
            each.key(n): states[each.key(n)] for n in range(1, 101)
        }
