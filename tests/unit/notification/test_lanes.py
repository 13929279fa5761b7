# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from zaqar.notification.capacity import Capacity, Seat
from zaqar.notification.lanes import Lanes

SEAT = Seat("p", "host:80")


@pytest.fixture
def capacity() -> Capacity:
    return Capacity(overall=20, per_project=8, per_target=2)


def test_worth_taking(capacity: Capacity) -> None:
    lanes = Lanes(capacity)
    assert not lanes.worth_taking()
    lanes.note_behind(["a"])
    assert lanes.worth_taking()
    assert lanes.is_behind("a")
    assert not lanes.is_behind("b")
    lanes.begin_look()
    lanes.note_empty(set())
    assert not lanes.any_behind


def test_a_lane_that_is_noted_during_a_look_is_not_found_empty_by_it(capacity: Capacity) -> None:
    """The look may have been a moment too early for it."""
    lanes = Lanes(capacity)
    lanes.note_behind(["a"])
    lanes.begin_look()
    lanes.note_behind(["b"])
    lanes.note_empty(set())
    assert not lanes.is_behind("a")
    assert lanes.is_behind("b")
    lanes.begin_look()
    lanes.note_empty(set())
    assert not lanes.any_behind


def test_a_lane_without_room_waits_for_it(capacity: Capacity) -> None:
    lanes = Lanes(capacity)
    for _ in range(2):
        assert capacity.sit_down(SEAT)
    lanes.note_full("a", SEAT)
    assert lanes.full() == {"a"}
    assert not lanes.worth_taking()
    # It was left out, so nothing is known of it.
    lanes.begin_look()
    lanes.note_empty({"a"})
    assert lanes.any_behind
    lanes.note_behind(["b"])
    assert lanes.worth_taking()
    lanes.begin_look()
    lanes.note_empty({"a"})
    assert not lanes.worth_taking()
    capacity.stand_up(SEAT)
    assert lanes.full() == set()
    assert lanes.worth_taking()


def test_many_lanes_without_room_are_looked_at_in_turns() -> None:
    """A look costs the same however many there are; once a second all are looked at."""
    capacity = Capacity(overall=200, per_project=100, per_target=1)
    lanes = Lanes(capacity)
    seats = {f"lane-{n}": Seat(f"p{n}", f"host-{n}:80") for n in range(9)}
    for lane, seat in seats.items():
        assert capacity.sit_down(seat)
        lanes.note_full(lane, seat)
    assert lanes.full(4) == set(seats)
    for seat in seats.values():
        capacity.stand_up(seat)
    assert [len(lanes.full(4)) for _ in range(3)] == [5, 1, 0]
    for lane, seat in seats.items():
        assert capacity.sit_down(seat)
        lanes.note_full(lane, seat)
        capacity.stand_up(seat)
    lanes.check_all()
    assert lanes.full(0) == set()
