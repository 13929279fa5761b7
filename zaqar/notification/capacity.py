# SPDX-License-Identifier: Apache-2.0
"""How much may be sent at a time: in all, for one project, and to one target."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

MOST_REMEMBERED = 10_000
"""Targets and projects whose standing is remembered; of more, those that were tried longest ago are strangers again."""

_FOR_A_STRANGER = 2
"""Attempts at a time to a target of which nothing is known: many hosts that hang must not fill the whole at once."""

_PROVEN, _STRANGER, _SILENT = range(3)
"""Kinds of attempts: to a target that answered the last time; to one of which nothing is known; and to one that did
not answer, or of which nothing is known while the last such one of the same project did not answer.
"""


class Seat(NamedTuple):
    """What an attempt takes room of: one attempt of a project to a target."""

    project: str
    target: str


@dataclass(frozen=True, slots=True)
class _Share:
    """What a kind of attempts, with all those that are worse, may take of the slots.

    There are ``slots`` for all projects. A project may have ``weight`` / ``against`` times as many under way as are
    free of them, or one in any case while one is free. So with few projects each gets many, with many each gets few,
    and the last slots are only for those who have little under way; the last ``kept`` ones for those who have nothing.
    """

    slots: int
    weight: int
    against: int
    kept: int = 0

    def allows(self, more: int, *, own: int, all_: int) -> bool:
        """Whether the last one of ``more`` may begin, of a project with ``own`` under way, of ``all_``."""
        own, free = own + more - 1, self.slots - all_ - (more - 1)
        return free > 0 and (own == 0 or (free > self.kept and own * self.against < free * self.weight))


def _share_of_the_unproven(slots: int) -> _Share:
    """Nearly half is kept, so that many projects are tried at a time: each that is new may be one that answers."""
    return _Share(slots, weight=2, against=1, kept=(slots - 1) // 2)


class Capacity:
    """Counts what is under way; a slot is held from the taking of a delivery until its outcome is stored.

    A target that did not answer in time gets one attempt at a time until it does, so that it holds one slot only.

    Half of the slots are for targets that have answered. Of the other half, half is for targets of which nothing is
    known and whose project has not just brought another one that did not answer. So however many projects have however
    many targets that hang, those that answer find room, and new ones do as soon as the others have been tried once.
    Inside of each part the rule of ``_Share`` keeps one project from what others need. The largest share that a project
    can have of all slots is ``per_project``, when no other one has anything under way.
    """

    def __init__(self, *, overall: int, per_project: int, per_target: int) -> None:
        self._overall = overall
        self._per_project = per_project
        self._per_target = per_target
        self._in_hand = 0
        self._asking = 0
        self._shares = (
            _Share(overall, per_project, max(0, overall - per_project)),
            _share_of_the_unproven(max(1, overall // 2)),
            _share_of_the_unproven(max(1, overall // 4)),
        )
        # By kind: how many of it or worse are under way, in all and by project.
        self._under_way = [0] * len(self._shares)
        self._projects: tuple[Counter[str], ...] = tuple(Counter() for _ in self._shares)
        self._targets: Counter[str] = Counter()
        self._kinds: dict[Seat, list[int]] = {}
        """Of each attempt that is under way, as it was when that began."""
        self._answers: OrderedDict[str, bool] = OrderedDict()
        self._last_strangers: OrderedDict[str, bool] = OrderedDict()
        """By project: whether the last target of which nothing was known, or that had not answered, answered."""

    @property
    def in_hand(self) -> int:
        """Slots that are taken or reserved."""
        return self._in_hand

    @property
    def share(self) -> int:
        """How many more deliveries one store may have taken in hand now: what is free, but a quarter of all at most.

        A store that does not answer holds up what was reserved for it, and must not hold up all: while others are being
        asked, half of what is free is left.
        """
        free = self._overall - self._in_hand
        return max(0, min(free, max(1, self._overall // 4), max(1, free // 2) if self._asking else free))

    @property
    def most_of_one(self) -> int:
        """How many deliveries of one subscription to take at a time: as many as ``has_room`` promises."""
        return max(1, self._per_target // 2)

    def take_in_hand(self, count: int) -> None:
        self._in_hand += count

    def let_go(self, count: int = 1) -> None:
        self._in_hand -= count

    @contextmanager
    def asking(self, limit: int) -> Iterator[None]:
        """Reserve that many slots while a store is asked for deliveries; what it gives is then taken in hand."""
        self._in_hand += limit
        self._asking += 1
        try:
            yield
        finally:
            self._in_hand -= limit
            self._asking -= 1

    def sit_down(self, seat: Seat) -> bool:
        """Begin an attempt, or say that the project or the target has as many as it may."""
        if not self._may_begin(seat, 1) or self._targets[seat.target] >= self._limit(seat.target):
            return False
        kind = self._kind_of(seat)
        self._kinds.setdefault(seat, []).append(kind)
        self._targets[seat.target] += 1
        for each in range(kind + 1):
            self._under_way[each] += 1
            self._projects[each][seat.project] += 1
        return True

    def stand_up(self, seat: Seat) -> None:
        kinds = self._kinds[seat]
        kind = kinds.pop()
        if not kinds:
            del self._kinds[seat]
        _decrease(self._targets, seat.target)
        for each in range(kind + 1):
            self._under_way[each] -= 1
            _decrease(self._projects[each], seat.project)

    def has_room(self, seat: Seat) -> bool:
        """Whether it is worth while to take more: half of what may be sent at a time is free."""
        limit = self._limit(seat.target)
        return limit - self._targets[seat.target] >= max(1, limit // 2) and self._may_begin(seat, self.most_of_one)

    def room_of(self, project: str, most: int) -> int:
        """How many more attempts of the project may begin, to targets that have answered; no more than ``most``."""
        own, all_ = self._projects[_PROVEN][project], self._under_way[_PROVEN]
        most = min(most, self._per_project - own)
        share = self._shares[_PROVEN]
        # PERF: fewer are always allowed as well, so the greatest number is found by halving.
        least = 0
        while least < most:
            middle = (least + most + 1) // 2
            if share.allows(middle, own=own, all_=all_):
                least = middle
            else:
                most = middle - 1
        return least

    def note(self, seat: Seat, *, reached: bool) -> None:
        """Whether the last attempt was answered."""
        if not self._answers.get(seat.target):
            _remember(self._last_strangers, seat.project, reached)
        _remember(self._answers, seat.target, reached)

    def _may_begin(self, seat: Seat, more: int) -> bool:
        """Whether the project may have that many more, or one where it has none; its target is not asked for."""
        for kind in range(self._kind_of(seat) + 1):
            own = self._projects[kind][seat.project]
            if not self._shares[kind].allows(more if own else 1, own=own, all_=self._under_way[kind]):
                return False
        own = self._projects[_PROVEN][seat.project]
        return own + (more if own else 1) <= self._per_project

    def _kind_of(self, seat: Seat) -> int:
        reached = self._answers.get(seat.target)
        if reached:
            return _PROVEN
        return _STRANGER if reached is None and self._last_strangers.get(seat.project, True) else _SILENT

    def _limit(self, target: str) -> int:
        reached = self._answers.get(target)
        if reached is None:
            return min(_FOR_A_STRANGER, self._per_target)
        return self._per_target if reached else 1


def _remember(answers: OrderedDict[str, bool], key: str, reached: bool) -> None:
    answers[key] = reached
    answers.move_to_end(key)
    if len(answers) > MOST_REMEMBERED:
        answers.popitem(last=False)


def _decrease(counts: Counter[str], key: str) -> None:
    # Names of projects and hosts come and go; those without attempts are not kept.
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1
