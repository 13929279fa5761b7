# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zaqar.notification import capacity as capacities
from zaqar.notification.capacity import Capacity, Slot

SLOT = Slot("p", "host:80")


@pytest.fixture
def capacity() -> Capacity:
    made = Capacity(overall=20, per_project=8, per_target=4)
    made.note(SLOT, reached=True)
    return made


def acquire(capacity: Capacity, slot: Slot, most: int = 100) -> int:
    """Acquire up to ``most`` slots; return how many it got."""
    return sum(capacity.try_acquire(slot) for _ in range(most))


def test_attempts_to_one_target_are_limited(capacity: Capacity) -> None:
    assert acquire(capacity, SLOT) == 4
    capacity.release(SLOT)
    assert acquire(capacity, SLOT) == 1


def test_attempts_of_one_project_are_limited(capacity: Capacity) -> None:
    several = [Slot("p", f"{n}:80") for n in range(5)]
    for slot in several:
        capacity.note(slot, reached=True)
    assert [acquire(capacity, slot) for slot in several] == [4, 4, 0, 0, 0]
    assert acquire(capacity, Slot("other", "4:80")) == 4


def test_a_target_has_room_if_half_of_its_slots_are_free(capacity: Capacity) -> None:
    acquire(capacity, SLOT)
    rooms = []
    for _ in range(4):
        rooms.append(capacity.has_room(SLOT))
        capacity.release(SLOT)
    assert rooms == [False, False, True, True]
    assert capacity.most_of_one == 2


def test_a_target_that_does_not_answer(capacity: Capacity) -> None:
    capacity.note(SLOT, reached=False)
    assert acquire(capacity, SLOT) == 1
    assert not capacity.has_room(SLOT)
    capacity.note(SLOT, reached=True)
    assert acquire(capacity, SLOT) == 3


def test_an_unknown_target_gets_two_attempts_at_a_time(capacity: Capacity) -> None:
    unknown_target = Slot("p", "new:80")
    assert acquire(capacity, unknown_target) == 2
    capacity.note(unknown_target, reached=True)
    assert acquire(capacity, unknown_target) == 2


def test_targets_are_forgotten(capacity: Capacity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "MOST_REMEMBERED", 3)
    for n in range(3):
        capacity.note(Slot("p", f"{n}:80"), reached=False)
    assert acquire(capacity, SLOT) == 2
    assert acquire(capacity, Slot("q", "2:80")) == 1


def test_no_counts_are_kept_of_projects_and_targets_without_attempts(capacity: Capacity) -> None:
    acquire(capacity, SLOT)
    for _ in range(4):
        capacity.release(SLOT)
    assert not any(capacity._projects)
    assert not capacity._kinds
    assert not capacity._targets


def test_one_store_never_reserves_all(capacity: Capacity) -> None:
    shares = []
    while capacity.share:
        shares.append(capacity.share)
        capacity.reserve(shares[-1])
    assert shares == [5, 5, 5, 5]
    for _ in range(3):
        capacity.unreserve()
    assert capacity.share == 3


def test_limits_of_one() -> None:
    capacity = Capacity(overall=1, per_project=1, per_target=1)
    assert (capacity.share, capacity.most_of_one) == (1, 1)
    assert capacity.has_room(SLOT)
    assert acquire(capacity, SLOT) == 1
    assert not capacity.has_room(SLOT)
    capacity.release(SLOT)
    assert capacity.has_room(SLOT)


def test_while_other_stores_are_asked_half_of_the_free_room_is_left() -> None:
    """Stores that do not answer hold their reservations, and never all of them."""
    capacity = Capacity(overall=200, per_project=100, per_target=10)
    with ExitStack() as silent:
        shares = []
        for _ in range(9):
            shares.append(capacity.share)
            silent.enter_context(capacity.reserving(shares[-1]))
        assert shares == [50, 50, 50, 25, 12, 6, 3, 2, 1]
        assert capacity.share == 1
    assert (capacity.share, capacity.reserved) == (50, 0)


# -- shares of projects -----------------------------------------------------------------------------------------------

DEFAULTS = {"overall": 200, "per_project": 100, "per_target": 10}


def answering(capacity: Capacity, project: str, count: int) -> list[Slot]:
    """Slots of targets that have answered."""
    several = [Slot(project, f"{project}-good-{n}:443") for n in range(count)]
    for slot in several:
        capacity.note(slot, reached=True)
    return several


def silent(capacity: Capacity, project: str, count: int) -> list[Slot]:
    several = [Slot(project, f"{project}-silent-{n}:443") for n in range(count)]
    for slot in several:
        capacity.note(slot, reached=False)
    return several


def unknown(capacity: Capacity, project: str, count: int) -> list[Slot]:
    return [Slot(project, f"{project}-new-{n}:443") for n in range(count)]


MAKERS = {"answering": answering, "silent": silent, "unknown": unknown}


def fill(capacity: Capacity, kind: str, projects: int, targets: int) -> list[int]:
    """Projects in turns, each with that many targets, take all they get: how many each has under way."""
    several = [MAKERS[kind](capacity, f"greedy-{n}", targets) for n in range(projects)]
    got = [0] * projects
    for _ in range(DEFAULTS["per_target"]):
        for target in range(targets):
            for n in range(projects):
                got[n] += capacity.try_acquire(several[n][target])
    return got


@pytest.mark.parametrize(
    ("kind", "projects", "targets", "each"),
    [
        # Targets that answer may have all slots; the share of each project shrinks with the number of projects.
        ("answering", 1, 100, (100, 100)),
        ("answering", 3, 100, (50, 50)),
        ("answering", 10, 100, (18, 19)),
        ("answering", 1000, 3, (0, 1)),
        # Unknown targets half of all, silent ones a quarter.
        ("unknown", 1, 100, (51, 51)),
        ("unknown", 3, 100, (17, 17)),
        ("unknown", 1000, 3, (0, 1)),
        ("silent", 1, 100, (26, 26)),
        ("silent", 3, 100, (8, 9)),
        ("silent", 1000, 3, (0, 1)),
    ],
)
def test_slots_of_projects_whose_targets_hang(kind: str, projects: int, targets: int, each: tuple[int, int]) -> None:
    capacity = Capacity(**DEFAULTS)
    got = fill(capacity, kind, projects, targets)
    assert (min(got), max(got)) == each
    assert sum(got) <= {"answering": 200, "unknown": 100, "silent": 50}[kind]


@pytest.mark.parametrize("kind", ["unknown", "silent"])
@pytest.mark.parametrize("projects", [1, 3, 30, 1000])
def test_slots_that_are_left_for_other_projects(kind: str, projects: int) -> None:
    """Targets that answer always find room; new ones do among projects whose targets are known not to answer."""
    capacity = Capacity(**DEFAULTS)
    fill(capacity, kind, projects, 100 if projects < 1000 else 3)
    good = answering(capacity, "other", 10)
    assert sum(acquire(capacity, slot) for slot in good) >= 50
    newcomer = unknown(capacity, "newcomer", 1)[0]
    expected = kind == "silent" or projects <= 30
    assert capacity.has_room(newcomer) == capacity.try_acquire(newcomer) == expected


def test_a_project_whose_new_targets_all_hang_gets_fewer_slots() -> None:
    """Its next ones count as silent, until one of them answers."""
    capacity = Capacity(**DEFAULTS)
    for round_ in range(3):
        for n in range(1000):
            slot = Slot(f"greedy-{n}", f"{n}-{round_}:443")
            if capacity.try_acquire(slot):
                capacity.release(slot)
            capacity.note(slot, reached=False)
    got = fill(capacity, "unknown", 1000, 3)
    assert sum(got) == 50
    newcomer = unknown(capacity, "newcomer", 1)[0]
    assert acquire(capacity, newcomer) == 1
    waiting = f"greedy-{got.index(0)}"
    assert not capacity.try_acquire(Slot(waiting, "another:443"))
    capacity.note(Slot(waiting, "answers:443"), reached=True)
    assert capacity.try_acquire(Slot(waiting, "another:443"))


@pytest.mark.parametrize("per_project", [1, 20, 150, 200, 500])
def test_a_project_without_others_can_use_all_slots_of_a_project(per_project: int) -> None:
    """An operator with one tenant may set it as high as the number of all slots."""
    capacity = Capacity(overall=200, per_project=per_project, per_target=10)
    assert sum(acquire(capacity, slot) for slot in answering(capacity, "p", 60)) == min(per_project, 200)


class Slots(RuleBasedStateMachine):
    """Projects begin, end and learn as they like, on bounds of any size."""

    @initialize(
        overall=st.integers(1, 60), per_project=st.integers(1, 60), per_target=st.integers(1, 6), many=st.booleans()
    )
    def begin(self, overall: int, per_project: int, per_target: int, many: bool) -> None:
        self.overall, self.per_project = overall, per_project
        self.capacity = Capacity(overall=overall, per_project=per_project, per_target=per_target)
        self.projects = 100 if many else 4
        self.held: dict[Slot, list[int]] = {}
        """The kinds of the attempts that are under way, in the order in which they began."""

    def under_way(self, kind: int, project: str | None = None) -> int:
        return sum(
            each >= kind for slot, kinds in self.held.items() if project in (None, slot.project) for each in kinds
        )

    @rule(project=st.integers(0, 99), host=st.integers(0, 9), times=st.integers(1, 60))
    def try_acquire(self, project: int, host: int, times: int) -> None:
        slot = Slot(f"p{project % self.projects}", f"{project % self.projects}-{host}")
        for _ in range(times):
            kind = self.capacity._kind_of(slot)
            has_room = self.capacity.has_room(slot)
            free = [
                slots - self.under_way(each)
                for each, slots in enumerate((self.overall, max(1, self.overall // 2), max(1, self.overall // 4)))
            ]
            own = [self.under_way(each, slot.project) for each in range(3)]
            acquired = self.capacity.try_acquire(slot)
            if has_room:
                assert acquired, "if has_room is true, the next attempt may begin"
            if own[0] == 0 and min(free[: kind + 1]) > 0:
                assert acquired, "a project without attempts gets a free slot"
            if not acquired:
                return
            self.held.setdefault(slot, []).append(kind)
            for each in range(1, kind + 1):
                slots = max(1, self.overall // (2 * each))
                assert own[each] == 0 or (own[each] < 2 * free[each] and free[each] > (slots - 1) // 2)
            assert own[0] == 0 or own[0] * max(0, self.overall - self.per_project) < free[0] * self.per_project

    @rule(pick=st.integers(0, 1000))
    def release(self, pick: int) -> None:
        if self.held:
            slot = sorted(self.held)[pick % len(self.held)]
            self.capacity.release(slot)
            self.held[slot].pop()
            if not self.held[slot]:
                del self.held[slot]

    @rule(project=st.integers(0, 99), host=st.integers(0, 9), reached=st.booleans())
    def note(self, project: int, host: int, reached: bool) -> None:
        self.capacity.note(Slot(f"p{project % self.projects}", f"{project % self.projects}-{host}"), reached=reached)

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "capacity"):
            return
        slots = (self.overall, max(1, self.overall // 2), max(1, self.overall // 4))
        for kind, most in enumerate(slots):
            assert self.under_way(kind) == self.capacity._under_way[kind] <= most
        # However many targets do not answer, half is left for targets that do.
        assert self.overall - self.under_way(1) >= self.overall - max(1, self.overall // 2)
        for project in {slot.project for slot in self.held}:
            assert self.under_way(0, project) <= self.per_project


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
