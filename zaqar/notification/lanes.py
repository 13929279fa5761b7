# SPDX-License-Identifier: Apache-2.0
"""What is known, in this process, of the deliveries that wait in a store: by subscription, a lane each."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from zaqar.notification.capacity import Capacity, Seat

MOST_CHECKED = 500
"""Lanes of which it is looked at a time whether there is room again; of more, these in turns."""

FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 4.0
"""How long a lane is left alone whose deliveries have to wait for earlier ones: first, doubled each time, and at most.
"""

MOST_REMEMBERED = 10_000
"""Lanes of which it is remembered where they lead."""


class Lanes:
    """A lane is behind where deliveries of it are, or may be, due in the store; full where there is no room for them.

    What this does not know of, another process put there; the look once a second finds it.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._behind: set[str] = set()
        self._noted: set[str] = set()
        """Those that were noted as behind since the last look at the store began."""
        self._full: dict[str, Seat] = {}
        self._seats: OrderedDict[str, Seat] = OrderedDict()
        self._pauses: dict[str, tuple[float, float]] = {}
        """By lane: when its pause ends, in the time of the event loop, and how long it is."""

    def remember(self, lane: str, seat: Seat) -> None:
        """What the deliveries of a lane take room of, so that the next ones need not be looked up to know."""
        self._seats[lane] = seat
        self._seats.move_to_end(lane)
        if len(self._seats) > MOST_REMEMBERED:
            self._seats.popitem(last=False)

    def seat_of(self, lane: str) -> Seat | None:
        """As it was the last time; None where nothing is known."""
        return self._seats.get(lane)

    def begin_look(self) -> None:
        """Deliveries are about to be taken from the store."""
        self._noted.clear()

    def note_behind(self, lanes: Iterable[str]) -> None:
        for lane in lanes:
            self._behind.add(lane)
            self._noted.add(lane)

    def note_full(self, lane: str, seat: Seat) -> None:
        """Not to be taken from until there is room again; ``seat`` is what it waits for."""
        self._full[lane] = seat
        self.note_behind([lane])

    def note_empty(self, without: set[str]) -> None:
        """The store had nothing that is due, but for these lanes, which were left out.

        Of lanes that were noted since that look began nothing is known: it may have been too early for them.
        """
        self._behind &= without | self._noted

    def is_behind(self, lane: str) -> bool:
        return lane in self._behind

    @property
    def any_behind(self) -> bool:
        return bool(self._behind)

    def full(self, most: int = MOST_CHECKED) -> set[str]:
        """Those for which there is no room at this moment, as far as ``most`` of them are looked at."""
        for lane in list(islice(self._full, most)):
            seat = self._full.pop(lane)
            if not self._capacity.has_room(seat):
                # Back in at the end, so that the others are looked at next time.
                self._full[lane] = seat
        if not self._pauses:
            return set(self._full)
        now = _time()
        return set(self._full).union(lane for lane, (until, _) in self._pauses.items() if now < until)

    def room(self, most: int) -> int | None:
        """How many deliveries of the lanes that are behind may begin, ``most`` at most; None if that is unknown."""
        projects = set()
        for lane in self._behind:
            if lane not in self._full:
                seat = self._seats.get(lane)
                if seat is None:
                    return None
                projects.add(seat.project)
        return sum(self._capacity.room_of(project, most) for project in projects) if projects else None

    def pause(self, lane: str) -> float | None:
        """Have the lane left alone for a while, and say for how long; None if it is being left alone already."""
        now = _time()
        until, seconds = self._pauses.get(lane, (now, 0.0))
        if now < until:
            return None
        seconds = min(max(FIRST_PAUSE_SECONDS, 2 * seconds), MOST_PAUSE_SECONDS)
        self._pauses[lane] = now + seconds, seconds
        return seconds

    def resume(self, lane: str) -> None:
        """The lane goes on: its next pause is a first one again."""
        self._pauses.pop(lane, None)

    def check_all(self) -> None:
        """Look at all of them."""
        self.full(len(self._full))
        if not self._pauses:
            return
        over = _time() - MOST_PAUSE_SECONDS
        self._pauses = {lane: pause for lane, pause in self._pauses.items() if pause[0] > over}

    def worth_taking(self) -> bool:
        """Whether there is a lane that is behind and for which there is room."""
        return bool(self._behind) and bool(self._behind - self.full())


def _time() -> float:
    return asyncio.get_running_loop().time()
