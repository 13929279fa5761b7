# SPDX-License-Identifier: Apache-2.0
"""How much may be sent at a time: in all, for one project, and to one target."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

MOST_REMEMBERED = 10_000
"""Targets whose standing is remembered; of more, those that were tried longest ago are strangers again."""

_FOR_A_STRANGER = 2
"""Attempts at a time to a target of which nothing is known: many hosts that hang must not fill the whole at once."""


class Seat(NamedTuple):
    """What an attempt takes room of: one attempt of a project to a target."""

    project: str
    target: str


class Capacity:
    """Counts what is under way; a slot is held from the taking of a delivery until its outcome is stored.

    A target that did not answer in time gets one attempt at a time until it does, so that it holds one slot only.
    """

    def __init__(self, *, overall: int, per_project: int, per_target: int) -> None:
        self._overall = overall
        self._per_project = per_project
        self._per_target = per_target
        self._in_hand = 0
        self._projects: Counter[str] = Counter()
        self._targets: Counter[str] = Counter()
        self._answers: OrderedDict[str, bool] = OrderedDict()

    @property
    def in_hand(self) -> int:
        """Slots that are taken or reserved."""
        return self._in_hand

    @property
    def share(self) -> int:
        """How many more deliveries one store may have taken in hand now: what is free, but a quarter of all at most.

        A store that does not answer holds up what was reserved for it, and must not hold up all.
        """
        return max(0, min(self._overall - self._in_hand, max(1, self._overall // 4)))

    @property
    def most_of_one(self) -> int:
        """How many deliveries of one subscription to take at a time: as many as ``has_room`` promises."""
        return max(1, self._per_target // 2)

    def take_in_hand(self, count: int) -> None:
        self._in_hand += count

    def let_go(self, count: int = 1) -> None:
        self._in_hand -= count

    def sit_down(self, seat: Seat) -> bool:
        """Begin an attempt, or say that the project or the target has as many as it may."""
        if self._projects[seat.project] >= self._per_project or self._targets[seat.target] >= self._limit(seat.target):
            return False
        self._projects[seat.project] += 1
        self._targets[seat.target] += 1
        return True

    def stand_up(self, seat: Seat) -> None:
        _decrease(self._projects, seat.project)
        _decrease(self._targets, seat.target)

    def has_room(self, seat: Seat) -> bool:
        """Whether it is worth while to take more: half of what may be sent at a time is free."""
        limit = self._limit(seat.target)
        return (
            limit - self._targets[seat.target] >= max(1, limit // 2)
            and self._per_project - self._projects[seat.project] >= self.most_of_one
        )

    def note(self, target: str, *, reached: bool) -> None:
        """Whether the last attempt was answered."""
        self._answers[target] = reached
        self._answers.move_to_end(target)
        if len(self._answers) > MOST_REMEMBERED:
            self._answers.popitem(last=False)

    def _limit(self, target: str) -> int:
        reached = self._answers.get(target)
        if reached is None:
            return min(_FOR_A_STRANGER, self._per_target)
        return self._per_target if reached else 1


def _decrease(counts: Counter[str], key: str) -> None:
    # Names of projects and hosts come and go; those without attempts are not kept.
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1
