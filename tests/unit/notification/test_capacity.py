# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from zaqar.notification import capacity as capacities
from zaqar.notification.capacity import Capacity, Seat

SEAT = Seat("p", "host:80")


@pytest.fixture
def capacity() -> Capacity:
    made = Capacity(overall=20, per_project=8, per_target=4)
    made.note(SEAT.target, reached=True)
    return made


def sit(capacity: Capacity, seat: Seat, most: int = 100) -> int:
    """How many sit down."""
    return sum(capacity.sit_down(seat) for _ in range(most))


def test_a_target(capacity: Capacity) -> None:
    assert sit(capacity, SEAT) == 4
    capacity.stand_up(SEAT)
    assert sit(capacity, SEAT) == 1


def test_a_project(capacity: Capacity) -> None:
    seats = [Seat("p", f"{n}:80") for n in range(5)]
    for seat in seats:
        capacity.note(seat.target, reached=True)
    assert [sit(capacity, seat) for seat in seats] == [4, 4, 0, 0, 0]
    assert sit(capacity, Seat("other", "4:80")) == 4


def test_more_is_worth_while_when_half_is_free(capacity: Capacity) -> None:
    sit(capacity, SEAT)
    rooms = []
    for _ in range(4):
        rooms.append(capacity.has_room(SEAT))
        capacity.stand_up(SEAT)
    assert rooms == [False, False, True, True]
    assert capacity.most_of_one == 2


def test_a_target_that_does_not_answer(capacity: Capacity) -> None:
    capacity.note(SEAT.target, reached=False)
    assert sit(capacity, SEAT) == 1
    assert not capacity.has_room(SEAT)
    capacity.note(SEAT.target, reached=True)
    assert sit(capacity, SEAT) == 3


def test_a_stranger(capacity: Capacity) -> None:
    stranger = Seat("p", "new:80")
    assert sit(capacity, stranger) == 2
    capacity.note(stranger.target, reached=True)
    assert sit(capacity, stranger) == 2


def test_targets_are_forgotten(capacity: Capacity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "MOST_REMEMBERED", 3)
    for n in range(3):
        capacity.note(f"{n}:80", reached=False)
    assert sit(capacity, SEAT) == 2
    assert sit(capacity, Seat("q", "2:80")) == 1


def test_nothing_is_kept_of_who_has_nothing_under_way(capacity: Capacity) -> None:
    sit(capacity, SEAT)
    for _ in range(4):
        capacity.stand_up(SEAT)
    assert not capacity._projects
    assert not capacity._targets


def test_one_store_never_reserves_all(capacity: Capacity) -> None:
    shares = []
    while capacity.share:
        shares.append(capacity.share)
        capacity.take_in_hand(shares[-1])
    assert shares == [5, 5, 5, 5]
    capacity.let_go(3)
    assert capacity.share == 3


def test_the_least_bounds_there_are() -> None:
    capacity = Capacity(overall=1, per_project=1, per_target=1)
    assert (capacity.share, capacity.most_of_one) == (1, 1)
    assert capacity.has_room(SEAT)
    assert sit(capacity, SEAT) == 1
    assert not capacity.has_room(SEAT)
    capacity.stand_up(SEAT)
    assert capacity.has_room(SEAT)
