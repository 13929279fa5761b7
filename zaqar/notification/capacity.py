# SPDX-License-Identifier: Apache-2.0
"""How many deliveries a notifier may send at a time, and which subscriptions have due deliveries.

``Capacity`` counts for the whole process. All pumps share it, and it wakes them when room comes back. Each pump has a
``SubscriptionBacklog`` of its own. Neither does any I/O, and neither leaves the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

MOST_REMEMBERED = 10_000
"""Number of targets and of projects of which the last answer is remembered, and of subscriptions whose slot is.

Of more, the least recently tried are forgotten and count as unknown again.
"""

MOST_CHECKED = 500
"""Number of saturated subscriptions that one take checks for room. If there are more, takes check them in turns."""

FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 4.0
"""Pause of a subscription whose deliveries have to wait for earlier ones: at first, doubled each time, and at most."""

_MOST_TO_AN_UNKNOWN_TARGET = 2
"""Attempts at a time to a target of which nothing is known: many hosts that hang must not fill all slots at once."""

_ANSWERING, _UNKNOWN, _SILENT = range(3)
"""Kinds of attempts: to a target that answered the last time; to a target of which nothing is known; and to a target
that did not answer, or of which nothing is known while the last unknown target of the same project did not answer.
"""


class Slot(NamedTuple):
    """What one attempt occupies: a project and a target. ``target`` is a host and port, for example."""

    project: str
    target: str


@dataclass(frozen=True, slots=True)
class _Share:
    """How many slots the attempts of one kind may have, together with all kinds that are worse.

    ``slots`` is the number for all projects. A project may have ``weight`` / ``against`` times as many attempts under
    way as there are free slots, and always one if a slot is free. So if few projects are active each gets many slots,
    and if many are active each gets few. The last ``kept`` slots go only to projects that have no attempt under way.
    """

    slots: int
    weight: int
    against: int
    kept: int = 0

    def allows(self, more: int, *, own: int, all_: int) -> bool:
        """Whether the last of ``more`` attempts may begin, for a project that has ``own`` of ``all_`` under way."""
        own, free = own + more - 1, self.slots - all_ - (more - 1)
        return free > 0 and (own == 0 or (free > self.kept and own * self.against < free * self.weight))


def _share_of_the_unproven(slots: int) -> _Share:
    """Nearly half is kept, so that many projects are tried at a time: any new project may be one that answers."""
    return _Share(slots, weight=2, against=1, kept=(slots - 1) // 2)


class Capacity:
    """Two counts: reservations, one for each delivery on lease, and slots, one for each attempt that may be under way.

    A reservation lasts from the take of a delivery until its outcome is stored, and bounds how many attempts are
    repeated after a kill. A slot bounds how many attempts one project or one target has under way. A target that did
    not answer in time gets one attempt at a time until it answers, so it holds one slot only.

    Half of the slots are for targets that have answered. Of the other half, half is for targets of which nothing is
    known and whose project has not just tried another unknown target in vain. So targets that answer find room however
    many projects have however many targets that hang, and new targets do as soon as the others have been tried once.
    Within each part ``_Share`` keeps one project from taking slots that others need. One project can have at most
    ``per_project`` slots, if no other project has anything under way.
    """

    def __init__(self, *, overall: int, per_project: int, per_target: int) -> None:
        self._overall = overall
        self._per_project = per_project
        self._per_target = per_target
        self._reserved = 0
        self._reserving = 0
        """Number of stores that are being asked for deliveries."""
        self._shares = (
            _Share(overall, per_project, max(0, overall - per_project)),
            _share_of_the_unproven(max(1, overall // 2)),
            _share_of_the_unproven(max(1, overall // 4)),
        )
        # By kind: attempts of this kind or of a worse one that are under way, in all and by project.
        self._under_way = [0] * len(self._shares)
        self._projects: tuple[Counter[str], ...] = tuple(Counter() for _ in self._shares)
        self._targets: Counter[str] = Counter()
        self._kinds: dict[Slot, list[int]] = {}
        """The kinds of the attempts under way, as they were when each began. Answers change the kind of later ones."""
        self._answers: OrderedDict[str, bool] = OrderedDict()
        self._last_unknown: OrderedDict[str, bool] = OrderedDict()
        """By project: whether the last target answered that was unknown or had not answered before."""
        self._on_room: list[Callable[[], None]] = []

    # -- reservations ------------------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        """Reservations of deliveries on lease, and of stores that are being asked for some."""
        return self._reserved

    @property
    def slots(self) -> int:
        """How many attempts may be under way at a time."""
        return self._overall

    @property
    def under_way(self) -> int:
        """How many attempts are under way."""
        return self._under_way[0]

    @property
    def share(self) -> int:
        """Number of further reservations that one store may make now: the free ones, but at most a quarter of all.

        A store that does not answer holds its reservations, so it must not get all of them. While other stores are
        being asked, half of the free reservations are left.
        """
        free = self._overall - self._reserved
        return max(0, min(free, max(1, self._overall // 4), max(1, free // 2) if self._reserving else free))

    @property
    def most_of_one(self) -> int:
        """How many deliveries of one subscription to take at a time: as many as ``has_room`` promises."""
        return max(1, self._per_target // 2)

    def reserve(self, count: int) -> None:
        self._reserved += count

    def unreserve(self) -> None:
        """End one reservation, and tell all pumps that there is room. Release the slot first if there is one."""
        self._reserved -= 1
        for wake in self._on_room:
            wake()

    @contextmanager
    def reserving(self, limit: int) -> Iterator[None]:
        """Hold ``limit`` reservations while a store is asked for so many deliveries. Afterwards call ``reserve``."""
        self._reserved += limit
        self._reserving += 1
        try:
            yield
        finally:
            self._reserved -= limit
            self._reserving -= 1

    def on_room(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever a reservation ends, so that a pump can take deliveries again."""
        self._on_room.append(wake)

    def off_room(self, wake: Callable[[], None]) -> None:
        """Undo ``on_room``."""
        self._on_room.remove(wake)

    # -- slots -------------------------------------------------------------------------------------------------------

    def try_acquire(self, slot: Slot) -> bool:
        """Begin an attempt. False if the project or the target has as many under way as it may have."""
        if not self._may_begin(slot, 1) or self._targets[slot.target] >= self._limit(slot.target):
            return False
        kind = self._kind_of(slot)
        self._kinds.setdefault(slot, []).append(kind)
        self._targets[slot.target] += 1
        for each in range(kind + 1):
            self._under_way[each] += 1
            self._projects[each][slot.project] += 1
        return True

    def release(self, slot: Slot) -> None:
        """End an attempt for which ``try_acquire`` was true."""
        # Attempts to one target are alike, so any of their kinds may be the one that ends.
        kinds = self._kinds[slot]
        kind = kinds.pop()
        if not kinds:
            del self._kinds[slot]
        _decrease(self._targets, slot.target)
        for each in range(kind + 1):
            self._under_way[each] -= 1
            _decrease(self._projects[each], slot.project)

    def has_room(self, slot: Slot) -> bool:
        """Whether to take more deliveries for this slot: at least half of the slots of the target are free."""
        limit = self._limit(slot.target)
        return limit - self._targets[slot.target] >= max(1, limit // 2) and self._may_begin(slot, self.most_of_one)

    def room_of(self, project: str, most: int) -> int:
        """How many more attempts of the project may begin to targets that have answered; at most ``most``."""
        own, all_ = self._projects[_ANSWERING][project], self._under_way[_ANSWERING]
        most = min(most, self._per_project - own)
        share = self._shares[_ANSWERING]
        # PERF: a number that is allowed makes all smaller ones allowed, so a binary search finds the greatest.
        least = 0
        while least < most:
            middle = (least + most + 1) // 2
            if share.allows(middle, own=own, all_=all_):
                least = middle
            else:
                most = middle - 1
        return least

    def note(self, slot: Slot, *, reached: bool) -> None:
        """Remember whether the target answered the last attempt."""
        if not self._answers.get(slot.target):
            _remember(self._last_unknown, slot.project, reached)
        _remember(self._answers, slot.target, reached)

    def _may_begin(self, slot: Slot, more: int) -> bool:
        """Whether the project may begin ``more`` attempts, or one if it has none. The target's limit is not checked."""
        for kind in range(self._kind_of(slot) + 1):
            own = self._projects[kind][slot.project]
            if not self._shares[kind].allows(more if own else 1, own=own, all_=self._under_way[kind]):
                return False
        own = self._projects[_ANSWERING][slot.project]
        return own + (more if own else 1) <= self._per_project

    def _kind_of(self, slot: Slot) -> int:
        reached = self._answers.get(slot.target)
        if reached:
            return _ANSWERING
        return _UNKNOWN if reached is None and self._last_unknown.get(slot.project, True) else _SILENT

    def _limit(self, target: str) -> int:
        reached = self._answers.get(target)
        if reached is None:
            return min(_MOST_TO_AN_UNKNOWN_TARGET, self._per_target)
        return self._per_target if reached else 1


def _remember(answers: OrderedDict[str, bool], key: str, reached: bool) -> None:
    answers[key] = reached
    answers.move_to_end(key)
    if len(answers) > MOST_REMEMBERED:
        answers.popitem(last=False)


def _decrease(counts: Counter[str], key: str) -> None:
    # Names of projects and hosts come and go, so a key with a count of zero is removed.
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1


class SubscriptionBacklog:
    """Which subscriptions may have due deliveries in one store, and which are saturated, by subscription id.

    A subscription is saturated if there was no room for its deliveries. Takes leave it out until there is room again,
    so that its deliveries are not leased only to be handed back. A subscription is paused if its next delivery has to
    wait for earlier ones; takes leave it out for some seconds.

    The backlog has only what this process knows. Deliveries that another process stored are missing; the pump finds
    them when it looks for all work once a second.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._due: set[str] = set()
        self._noted: set[str] = set()
        """Subscriptions that were noted as having due deliveries since the last take began."""
        self._saturated: dict[str, Slot] = {}
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._pauses: dict[str, tuple[float, float]] = {}
        """When the pause ends, in the event loop's time, and how long it is."""

    def remember(self, subscription_id: str, slot: Slot) -> None:
        """Remember the slot of the subscription's deliveries, so that the next take need not find it again."""
        self._slots[subscription_id] = slot
        self._slots.move_to_end(subscription_id)
        if len(self._slots) > MOST_REMEMBERED:
            self._slots.popitem(last=False)

    def slot_of(self, subscription_id: str) -> Slot | None:
        """The slot that was used the last time, which may have changed; None if it is not known."""
        return self._slots.get(subscription_id)

    # -- due deliveries ----------------------------------------------------------------------------------------------

    def begin_take(self) -> None:
        """Begin a take: from now on, note which subscriptions get due deliveries. See ``note_none_due``."""
        self._noted.clear()

    def note_due(self, subscription_ids: Iterable[str]) -> None:
        """Note subscriptions that have, or may have, due deliveries in the store."""
        for subscription_id in subscription_ids:
            self._due.add(subscription_id)
            self._noted.add(subscription_id)

    def note_saturated(self, subscription_id: str, slot: Slot) -> None:
        """Leave the subscription out of takes until ``slot`` has room again."""
        self._saturated[subscription_id] = slot
        self.note_due([subscription_id])

    def note_none_due(self, without: set[str]) -> None:
        """A take found nothing. The subscriptions in ``without`` were left out of it.

        A subscription that was noted since the take began stays: the store may have been read before its delivery
        was written.
        """
        self._due &= without | self._noted

    def has_due(self, subscription_id: str) -> bool:
        return subscription_id in self._due

    @property
    def any_due(self) -> bool:
        return bool(self._due)

    # -- which to leave out ------------------------------------------------------------------------------------------

    def saturated(self, most: int = MOST_CHECKED) -> set[str]:
        """The subscriptions to leave out of the next take: those without room, and those that are paused.

        At most ``most`` are checked for room in one call.
        """
        for subscription_id in list(islice(self._saturated, most)):
            slot = self._saturated.pop(subscription_id)
            if not self._capacity.has_room(slot):
                # Insert it at the end, so that the next call checks others.
                self._saturated[subscription_id] = slot
        if not self._pauses:
            return set(self._saturated)
        now = _time()
        return set(self._saturated).union(each for each, (until, _) in self._pauses.items() if now < until)

    def check_all(self) -> None:
        """Check all saturated subscriptions for room, and forget old pauses. The pump does so once a second."""
        self.saturated(len(self._saturated))
        if not self._pauses:
            return
        over = _time() - MOST_PAUSE_SECONDS
        self._pauses = {each: pause for each, pause in self._pauses.items() if pause[0] > over}

    def worth_taking(self) -> bool:
        """Whether a subscription has due deliveries and room."""
        return bool(self._due) and bool(self._due - self.saturated())

    def room(self, most: int) -> int | None:
        """How many due deliveries may begin, at most ``most``; None if the slot of a subscription is not known."""
        projects = set()
        for subscription_id in self._due:
            if subscription_id not in self._saturated:
                slot = self._slots.get(subscription_id)
                if slot is None:
                    return None
                projects.add(slot.project)
        return sum(self._capacity.room_of(project, most) for project in projects) if projects else None

    # -- pauses ------------------------------------------------------------------------------------------------------

    def pause(self, subscription_id: str) -> float | None:
        """Leave the subscription out of takes for some seconds; return how many, or None if it is paused already."""
        now = _time()
        until, seconds = self._pauses.get(subscription_id, (now, 0.0))
        if now < until:
            return None
        seconds = min(max(FIRST_PAUSE_SECONDS, 2 * seconds), MOST_PAUSE_SECONDS)
        self._pauses[subscription_id] = now + seconds, seconds
        return seconds

    def resume(self, subscription_id: str) -> None:
        """End the pause. The next one has the first length again."""
        self._pauses.pop(subscription_id, None)


def _time() -> float:
    return asyncio.get_running_loop().time()
