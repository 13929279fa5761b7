# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest

from zaqar.notification.capacity import Capacity, Slot, SubscriptionBacklog

SLOT = Slot("p", "host:80")


@pytest.fixture
def capacity() -> Capacity:
    return Capacity(overall=20, per_project=8, per_target=2)


def test_a_take_is_worthwhile_while_a_subscription_has_due_deliveries(capacity: Capacity) -> None:
    backlog = SubscriptionBacklog(capacity)
    assert not backlog.worth_taking()
    backlog.note_due(["a"])
    assert backlog.worth_taking()
    assert backlog.has_due("a")
    assert not backlog.has_due("b")
    backlog.begin_take()
    backlog.note_none_due(set())
    assert not backlog.any_due


def test_a_subscription_that_is_noted_during_a_take_stays_due_after_it(capacity: Capacity) -> None:
    """The store may have been read before its delivery was written."""
    backlog = SubscriptionBacklog(capacity)
    backlog.note_due(["a"])
    backlog.begin_take()
    backlog.note_due(["b"])
    backlog.note_none_due(set())
    assert not backlog.has_due("a")
    assert backlog.has_due("b")
    backlog.begin_take()
    backlog.note_none_due(set())
    assert not backlog.any_due


def test_a_saturated_subscription_is_left_out_until_there_is_room(capacity: Capacity) -> None:
    backlog = SubscriptionBacklog(capacity)
    for _ in range(2):
        assert capacity.try_acquire(SLOT)
    backlog.note_saturated("a", SLOT)
    assert backlog.saturated() == {"a"}
    assert not backlog.worth_taking()
    # It was left out, so nothing is known of it.
    backlog.begin_take()
    backlog.note_none_due({"a"})
    assert backlog.any_due
    backlog.note_due(["b"])
    assert backlog.worth_taking()
    backlog.begin_take()
    backlog.note_none_due({"a"})
    assert not backlog.worth_taking()
    capacity.release(SLOT)
    assert backlog.saturated() == set()
    assert backlog.worth_taking()


def test_many_saturated_subscriptions_are_checked_in_turns() -> None:
    """A look costs the same however many there are; once a second all are looked at."""
    capacity = Capacity(overall=200, per_project=100, per_target=1)
    backlog = SubscriptionBacklog(capacity)
    slots = {f"lane-{n}": Slot(f"p{n}", f"host-{n}:80") for n in range(9)}
    for lane, slot in slots.items():
        assert capacity.try_acquire(slot)
        backlog.note_saturated(lane, slot)
    assert backlog.saturated(4) == set(slots)
    for slot in slots.values():
        capacity.release(slot)
    assert [len(backlog.saturated(4)) for _ in range(3)] == [5, 1, 0]
    for lane, slot in slots.items():
        assert capacity.try_acquire(slot)
        backlog.note_saturated(lane, slot)
        capacity.release(slot)
    backlog.check_all()
    assert backlog.saturated(0) == set()


# -- how many deliveries are taken at a time, so that few are handed back at once


@pytest.mark.parametrize("others", [0, 30, 90])
@pytest.mark.parametrize("own", [0, 1, 40, 99])
def test_the_room_of_a_project_is_how_many_more_may_begin(own: int, others: int) -> None:
    capacity = Capacity(overall=200, per_project=100, per_target=10)
    targets = [f"t{number}" for number in range(250)]
    for target in targets:
        capacity.note(Slot("p", target), reached=True)
    began = sum(capacity.try_acquire(Slot("p", target)) for target in targets[:own])
    for number in range(others):
        capacity.note(Slot(f"o{number}", "o"), reached=True)
        capacity.try_acquire(Slot(f"o{number}", f"o{number}"))
    room = capacity.room_of("p", 500)
    assert room <= 100 - began
    assert capacity.room_of("p", 3) == min(3, room)
    more = sum(capacity.try_acquire(Slot("p", target)) for target in targets[own:])
    assert more == room
    assert capacity.room_of("p", 500) == 0


def test_the_room_of_subscriptions_is_that_of_their_projects_if_all_slots_are_known() -> None:
    async def run() -> list[int | None]:
        capacity = Capacity(overall=10, per_project=4, per_target=2)
        backlog = SubscriptionBacklog(capacity)
        found = [backlog.room(50)]
        for lane, project in (("a", "p"), ("b", "p"), ("c", "q")):
            capacity.note(Slot(project, lane), reached=True)
            backlog.remember(lane, Slot(project, lane))
            backlog.note_due([lane])
        found.append(backlog.room(50))
        # A saturated subscription does not count.
        backlog.note_saturated("c", Slot("q", "c"))
        found.append(backlog.room(50))
        backlog.note_due(["unknown"])
        return [*found, backlog.room(50)]

    assert asyncio.run(run()) == [None, 8, 4, None]
