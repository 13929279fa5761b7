# SPDX-License-Identifier: Apache-2.0
"""Deliveries: every arrow of their states, leases that only their owner can end, and a turn for each subscription."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.clock import START, TICK
from tests.conformance.outbox import KEPT, LEASE, Lane, Outbox, new_subscription_id, numbers
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
def lane(outbox: Outbox) -> Lane:
    return Lane(outbox)


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_a_delivery_comes_back_as_it_was_put(outbox: Outbox, lane: Lane, fields: dict[str, Any]) -> None:
    written = replace(lane.new(7), **fields)
    outbox.put(written)
    assert lane.get(written.number) == written
    assert lane.listing() == [written]
    assert lane.counts() == (int(written.state == WAITING), int(written.state == DEAD))
    outbox.clock.advance(1000)
    if written.state == WAITING:
        assert outbox.take("you") == [replace(written, owner="you", due=outbox.now + LEASE)]


def test_what_is_not_there(outbox: Outbox, lane: Lane) -> None:
    assert lane.get(1) is None
    assert lane.listing() == []
    assert lane.counts() == (0, 0)
    assert (lane.resend(1), lane.resend_dead()) == (0, 0)
    outbox.settle_as(DONE, [lane.new(1)])
    outbox.extend([lane.new(1)], outbox.now + 60)
    assert lane.listing() == []
    assert outbox.take() == []


@pytest.mark.parametrize("state", [WAITING, DONE, DEAD, "leased"])
def test_one_that_is_put_takes_the_place_of_the_one_before(outbox: Outbox, lane: Lane, state: str) -> None:
    before = lane.new(0, kind=SUBSCRIPTION_CONFIRMATION, tries=2, attempts=ATTEMPTS)
    outbox.put(before)
    if state != WAITING:
        taken = outbox.take("me")
        if state != "leased":
            outbox.settle_as(state, taken)
    outbox.clock.advance(1)
    after = lane.new(0, kind=UNSUBSCRIBE_CONFIRMATION, body=b'"after"')
    outbox.put(after)
    assert lane.listing() == [after]
    assert lane.counts() == (1, 0)
    outbox.discard([before])  # what its owner says of the one before
    outbox.clock.advance(KEPT)
    while outbox.store.sweep(now=outbox.now, limit=1000):
        pass
    assert outbox.take("you") == [replace(after, owner="you", due=outbox.now + LEASE)]
    assert outbox.take("me") == []


def test_subscriptions_are_apart(outbox: Outbox, lane: Lane) -> None:
    """Also those of two queues that have one id, which no service makes."""
    lanes = [lane, lane.beside(), Lane(outbox, subscription_id=lane.subscription_id)]
    for each in lanes:
        outbox.put(replace(each.new(1), state=DEAD, keep_until=outbox.now + 60), each.new(2))
    assert lane.resend_dead() == 1
    outbox.put(replace(lane.new(2), body=b"changed", due=outbox.now + 60))
    assert lane.counts() == (2, 0)
    for each in lanes[1:]:
        assert each.counts() == (1, 1)
        assert numbers(each.listing()) == [2, 1]
        assert each.get(2) == each.new(2)
    assert sorted(each.key for each in outbox.take_all()) == sorted([lane.key(1), *(e.key(2) for e in lanes[1:])])


# -- take -------------------------------------------------------------------------------------------------------------


def test_due_is_exact(outbox: Outbox, lane: Lane) -> None:
    outbox.put(lane.new(1, due=outbox.now + 30), lane.new(2, due=outbox.now + 30.125))
    for step, expected in ((30 - TICK, []), (TICK, [1]), (0.125, [2])):
        outbox.clock.advance(step)
        assert numbers(outbox.take()) == expected


def test_what_is_taken_is_leased(outbox: Outbox, lane: Lane) -> None:
    (before,) = lane.fill(1, attempts=ATTEMPTS, tries=3)
    (taken,) = outbox.take("me", until=outbox.now + 10)
    assert taken == replace(before, owner="me", due=outbox.now + 10)
    assert lane.get(1) == taken
    assert lane.listing(WAITING) == [taken]
    assert lane.counts() == (1, 0)


def test_a_lease_is_for_one_until_it_is_over(outbox: Outbox, lane: Lane) -> None:
    lane.fill(2)
    assert numbers(outbox.take("me")) == [1, 2]
    outbox.clock.advance(LEASE - TICK)
    assert outbox.take("you") == outbox.take("me") == []
    outbox.clock.advance(TICK)
    assert numbers(outbox.take("you")) == [1, 2]
    assert outbox.take("me") == []
    outbox.clock.advance(LEASE)
    assert numbers(outbox.take("me")) == [1, 2]


def test_the_longest_due_goes_first(outbox: Outbox, lane: Lane) -> None:
    made = [lane.new(n, due=outbox.now - 50 + due) for n, due in enumerate(Random(4).sample(range(50), 40), 1)]
    outbox.put(*made)
    expected = numbers(sorted(made, key=lambda each: each.due))
    assert [number for _ in range(8) for number in numbers(outbox.take(limit=5))] == expected
    outbox.retry_at(outbox.now + 20, [each for each in lane.listing() if each.number == expected[0]])
    outbox.clock.advance(20)
    assert numbers(outbox.take())[-1] == expected[0]


def test_no_more_than_the_limit_and_the_most_of_one(outbox: Outbox, lane: Lane) -> None:
    lanes = [lane, lane.beside(), lane.beside(), Lane(outbox)]
    for each in lanes:
        each.fill(20)
    for limit, most in ((3, 10), (1, 1), (10, 3), (12, 2)):
        taken = outbox.take(limit=limit, most_of_one=most)
        assert len(taken) == min(limit, most * 4)
        for each in lanes:
            assert len([one for one in taken if one.subscription_id == each.subscription_id]) <= most
    rest = outbox.take_all(most_of_one=3)
    for each in lanes:
        mine = numbers(one for one in rest if one.subscription_id == each.subscription_id)
        assert mine == sorted(mine)
        assert mine[-1] == 20
    assert len(rest) == 80 - 3 - 1 - 10 - 8


def test_none_of_those_it_goes_without(outbox: Outbox, lane: Lane) -> None:
    lanes = [lane, lane.beside(), Lane(outbox)]
    for each in lanes:
        each.fill(30)
    others = [new_subscription_id() for _ in range(300)]
    taken = outbox.take_all(without=[lane.subscription_id, lanes[2].subscription_id, *others])
    assert {each.subscription_id for each in taken} == {lanes[1].subscription_id}
    assert len(taken) == 30
    assert outbox.take(without=[each.subscription_id for each in lanes]) == []
    assert len(outbox.take_all()) == 60


def test_one_that_has_very_many_leaves_a_turn_to_the_others(outbox: Outbox, lane: Lane) -> None:
    lane.fill(800, created=START - 3600)
    others = [Lane(outbox) for _ in range(3)]
    outbox.clock.advance(5)
    for other in others:
        other.fill(2)
    taken = outbox.take(limit=10, most_of_one=5)
    assert {each.subscription_id for each in others} <= {each.subscription_id for each in taken}


def test_a_turn_for_each_where_they_are_more_than_one_take(outbox: Outbox) -> None:
    """Some have much that is long due, others a little of late, and what is taken is settled: all get theirs."""
    busy = [Lane(outbox) for _ in range(4)]
    for lane in busy:
        lane.fill(100)
    outbox.clock.advance(5)
    late = [Lane(outbox) for _ in range(8)]
    for lane in late:
        lane.fill(1)
    seen: set[str] = set()
    for _ in range(50):
        taken = outbox.take(limit=4, most_of_one=2)
        seen.update(each.subscription_id for each in taken)
        outbox.discard(taken)
    assert seen == {lane.subscription_id for lane in (*busy, *late)}


def test_a_turn_for_each_where_nothing_is_settled(outbox: Outbox) -> None:
    lanes = [Lane(outbox) for _ in range(30)]
    for lane in lanes:
        lane.fill(2)
    taken = outbox.take_all(limit=7, most_of_one=1)
    assert sorted(each.key for each in taken) == sorted(lane.key(n) for lane in lanes for n in (1, 2))


# -- extend -----------------------------------------------------------------------------------------------------------


def test_leases_are_extended(outbox: Outbox, lane: Lane) -> None:
    lane.fill(3)
    taken = outbox.take("me")
    outbox.clock.advance(2)
    outbox.extend([*taken[:2], lane.new(9)], outbox.now + LEASE)
    assert lane.get(1) == replace(taken[0], due=outbox.now + LEASE)
    outbox.clock.advance(LEASE - 2)
    assert numbers(outbox.take("you")) == [3]
    outbox.clock.advance(2 - TICK)
    assert outbox.take("you") == []
    outbox.clock.advance(TICK)
    assert numbers(outbox.take("you")) == [1, 2]


def test_only_the_owner_extends(outbox: Outbox, lane: Lane) -> None:
    lane.fill(4)
    mine, lost, retried, _ = outbox.take("me")
    outbox.extend([mine], outbox.now + 60)
    outbox.retry_at(outbox.now + LEASE, [retried])
    outbox.clock.advance(LEASE)
    taken = outbox.take("you")
    assert sorted(numbers(taken)) == [2, 3, 4]
    before = lane.listing()
    outbox.extend([mine, lost, retried], outbox.now + 600, owner="nobody")
    outbox.extend([lost, retried], outbox.now + 600, owner="me")
    assert lane.listing() == before


def test_what_was_settled_is_not_extended(outbox: Outbox, lane: Lane) -> None:
    lane.fill(3)
    taken = outbox.take("me")
    outbox.retry_at(outbox.now + 30, taken[:1])
    outbox.settle_as(DEAD, taken[1:2])
    outbox.discard(taken[2:])
    before = lane.listing()
    outbox.extend(taken, outbox.now + 600)
    assert lane.listing() == before
    outbox.clock.advance(30)
    assert numbers(outbox.take()) == [1]


# -- settle -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DONE, DEAD])
def test_settled_for_good_and_kept(outbox: Outbox, lane: Lane, state: str) -> None:
    lane.fill(2)
    first, _ = outbox.take("me")
    settled = replace(
        first, state=state, due=outbox.now, tries=4, attempts=ATTEMPTS, keep_until=outbox.now + 60, owner="me"
    )
    outbox.settle(settled)
    assert lane.get(1) == replace(settled, owner=None)
    assert lane.counts() == (1, int(state == DEAD))
    outbox.clock.advance(59)
    assert numbers(outbox.take("you")) == [2]
    assert lane.listing(state) == [replace(settled, owner=None)]


def test_settled_to_be_tried_again(outbox: Outbox, lane: Lane) -> None:
    (before,) = lane.fill(1)
    for tries in range(1, 4):
        (taken,) = outbox.take("me")
        assert (taken.tries, taken.attempts) == (tries - 1, ATTEMPTS[: tries - 1])
        again = replace(taken, due=outbox.now + 10, tries=tries, attempts=ATTEMPTS[:tries])
        outbox.settle(again)
        assert lane.get(1) == replace(again, owner=None)
        outbox.clock.advance(10 - TICK)
        assert outbox.take("me") == []
        outbox.clock.advance(TICK)
    assert before.key == lane.key(1)
    assert lane.counts() == (1, 0)


def test_a_lease_is_handed_back(outbox: Outbox, lane: Lane) -> None:
    lane.fill(2)
    outbox.settle(*(replace(each, due=outbox.now) for each in outbox.take("me")))
    assert numbers(outbox.take("you")) == [1, 2]


@pytest.mark.parametrize("state", [DONE, DEAD])
@pytest.mark.parametrize("keep", [None, -1.0, 0.0])
def test_what_is_not_kept_is_removed(outbox: Outbox, lane: Lane, state: str, keep: float | None) -> None:
    lane.fill(2)
    first, second = outbox.take("me")
    outbox.settle(replace(first, state=state, keep_until=None if keep is None else outbox.now + keep))
    assert lane.get(1) is None
    assert lane.listing() == [second]
    assert lane.counts() == (1, 0)
    assert (lane.resend(1), lane.resend_dead()) == (0, 0)


def test_a_late_owner_is_not_listened_to(outbox: Outbox, lane: Lane) -> None:
    lane.fill(4)
    late = outbox.take("late")
    outbox.clock.advance(LEASE)
    taken = outbox.take("me")
    outbox.settle_as(DONE, taken[:1])
    outbox.retry_at(outbox.now + 60, taken[1:2])
    outbox.discard(taken[2:3])
    before = lane.listing()
    for settle in (outbox.discard, partial(outbox.settle_as, DEAD), partial(outbox.retry_at, outbox.now)):
        settle(late, owner="late")
        settle(late, owner="nobody")
        settle(taken[:3], owner="me")  # it has settled those before
        assert lane.listing() == before
    assert lane.counts() == (2, 0)
    outbox.settle_as(DEAD, taken[3:])
    assert lane.counts() == (1, 1)
    lane.resend(1)
    outbox.discard(taken[:1])
    assert lane.counts() == (2, 1)


def test_many_are_settled_in_one_call(outbox: Outbox, lane: Lane) -> None:
    lanes = [lane, lane.beside(), Lane(outbox)]
    for each in lanes:
        each.fill(100)
    taken = outbox.take_all("me")
    states = {each.key: (DONE, DEAD, WAITING)[each.number % 3] for each in taken}
    outbox.settle(*(replace(e, state=states[e.key], due=outbox.now + 60, keep_until=outbox.now + KEPT) for e in taken))
    for each in lanes:
        assert each.counts() == (33, 34)
        assert {one.key: one.state for one in each.listing()} == {
            each.key(n): states[each.key(n)] for n in range(1, 101)
        }
