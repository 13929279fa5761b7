# SPDX-License-Identifier: Apache-2.0
"""How many deliveries are taken at a time, so that few are handed back at once."""

from __future__ import annotations

import asyncio

import pytest

from zaqar.notification.capacity import Capacity, Seat
from zaqar.notification.lanes import Lanes


@pytest.mark.parametrize("others", [0, 30, 90])
@pytest.mark.parametrize("own", [0, 1, 40, 99])
def test_the_room_of_a_project_is_how_many_more_may_begin(own: int, others: int) -> None:
    capacity = Capacity(overall=200, per_project=100, per_target=10)
    targets = [f"t{number}" for number in range(250)]
    for target in targets:
        capacity.note(Seat("p", target), reached=True)
    began = sum(capacity.sit_down(Seat("p", target)) for target in targets[:own])
    for number in range(others):
        capacity.note(Seat(f"o{number}", "o"), reached=True)
        capacity.sit_down(Seat(f"o{number}", f"o{number}"))
    room = capacity.room_of("p", 500)
    assert room <= 100 - began
    assert capacity.room_of("p", 3) == min(3, room)
    more = sum(capacity.sit_down(Seat("p", target)) for target in targets[own:])
    assert more == room
    assert capacity.room_of("p", 500) == 0


def test_the_room_of_lanes_is_that_of_their_projects_if_all_are_known() -> None:
    async def run() -> list[int | None]:
        capacity = Capacity(overall=10, per_project=4, per_target=2)
        lanes = Lanes(capacity)
        found = [lanes.room(50)]
        for lane, project in (("a", "p"), ("b", "p"), ("c", "q")):
            capacity.note(Seat(project, lane), reached=True)
            lanes.remember(lane, Seat(project, lane))
            lanes.note_behind([lane])
        found.append(lanes.room(50))
        # What is full waits for room by itself.
        lanes.note_full("c", Seat("q", "c"))
        found.append(lanes.room(50))
        lanes.note_behind(["unknown"])
        return [*found, lanes.room(50)]

    assert asyncio.run(run()) == [None, 8, 4, None]
