# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest

from zaqar.storage.mongodb import round_robin
from zaqar.storage.mongodb.round_robin import MAX_PAGES, ReadPage, RoundRobin, WithoutDropped


@dataclass
class DueDocuments:
    """The ids of due documents by group, and the sizes of the pages that were read."""

    groups: dict[str, list[str]]
    sizes: list[int] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    left_out: Callable[[], Collection[str]] = tuple

    def read_page(self, after: str, end: str | None, limit: int) -> list[tuple[str, str]]:
        left_out = self.left_out()
        groups = sorted(group for group in self.groups if group > after and (end is None or group <= end))
        groups = [group for group in groups if group not in left_out]
        found = [(group, key) for group in groups for key in self.groups[group]][:limit]
        self.sizes.append(len(found))
        return found

    def without_dropped(self, found: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        return [each for each in found if each[0] not in self.dropped]

    @property
    def readers(self) -> tuple[ReadPage, WithoutDropped]:
        return self.read_page, self.without_dropped


def due_documents(**counts: int) -> DueDocuments:
    return DueDocuments({group: [f"{group}{n}" for n in range(count)] for group, count in counts.items()})


def test_one_of_each_group_comes_before_the_second_of_each() -> None:
    due = due_documents(a=3, b=1, c=2)
    assert RoundRobin().choose(*due.readers, limit=20, most_of_one=20) == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert RoundRobin().choose(*due.readers, limit=4, most_of_one=20) == ["a0", "b0", "c0", "a1"]
    assert RoundRobin().choose(*due.readers, limit=20, most_of_one=2) == ["a0", "b0", "c0", "a1", "c1"]


def test_nothing_costs_one_page() -> None:
    due = due_documents()
    turns = RoundRobin()
    for _ in range(3):
        assert turns.choose(*due.readers, limit=10, most_of_one=5) == []
    assert due.sizes == [0, 0, 0]


def test_a_group_with_very_many_costs_one_page() -> None:
    due = due_documents(a=1, b=100_000, c=1, d=2)
    chosen = RoundRobin().choose(*due.readers, limit=10, most_of_one=6)
    assert Counter(key[0] for key in chosen) == {"a": 1, "b": 6, "c": 1, "d": 2}
    assert due.sizes == [10, 3]


def test_a_group_that_a_page_cuts_is_read_again() -> None:
    due = due_documents(a=3, b=4)
    assert RoundRobin().choose(*due.readers, limit=5, most_of_one=4) == ["a0", "b0", "a1", "b1", "a2"]
    assert due.sizes == [5, 4]


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
@pytest.mark.parametrize("each", [1, 100])
def test_repeated_choices_come_to_all_groups(limit: int, each: int) -> None:
    due = DueDocuments({f"{group:03}": [f"{group:03}.{n}" for n in range(each)] for group in range(100)})
    turns = RoundRobin()
    seen: Counter[str] = Counter()
    looks = 2 * -(-100 // min(limit, MAX_PAGES if each > 1 else limit))
    for _ in range(looks):
        chosen = turns.choose(*due.readers, limit=limit, most_of_one=2)
        assert len(chosen) <= limit
        seen.update({key.partition(".")[0] for key in chosen})
    assert seen.keys() == due.groups.keys()
    assert max(due.sizes) <= limit
    assert len(due.sizes) <= MAX_PAGES * looks


def test_a_choice_goes_on_with_the_first_group_after_the_last() -> None:
    due = due_documents(a=1, b=1, c=1)
    turns = RoundRobin()
    assert turns.choose(*due.readers, limit=2, most_of_one=1) == ["a0", "b0"]
    assert turns.choose(*due.readers, limit=2, most_of_one=1) == ["c0", "a0"]
    del due.groups["a"]
    assert turns.choose(*due.readers, limit=3, most_of_one=1) == ["b0", "c0"]


# -- dropped groups ----------------------------------------------------------------------------------------------------


def choose_all(due: DueDocuments, turns: RoundRobin, *, limit: int) -> list[str]:
    return turns.choose(*due.readers, limit=limit, most_of_one=limit)


@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize("each", [1, 9, 10, 2_000])
def test_dropped_lanes_are_passed_over_in_one_look(limit: int, each: int) -> None:
    """Wherever they are, and however many they have."""
    for dropped in ({"a", "b"}, {"c"}, {"a", "d"}, {"a", "b", "d", "e"}):
        due = due_documents(**{group: each if group in dropped else 1 for group in "abcde"})
        due.dropped = dropped
        turns = RoundRobin()
        living = [f"{group}0" for group in "abcde" if group not in dropped]
        seen: list[str] = []
        for _ in range(-(-len(living) // limit)):
            seen += choose_all(due, turns, limit=limit)
        assert sorted(set(seen)) == living


def test_a_dropped_group_with_very_many_costs_one_page_and_then_none() -> None:
    due = due_documents(a=100_000, b=1)
    due.dropped = {"a"}
    turns = RoundRobin()
    due.left_out = lambda: turns.dropped
    for _ in range(5):
        assert choose_all(due, turns, limit=10) == ["b0"]
    assert due.sizes == [10, 1, 1, 1, 1, 1]


def test_dropped_lanes_are_not_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    due = due_documents(a=100, b=1)
    due.dropped = {"a"}
    turns = RoundRobin()
    choose_all(due, turns, limit=10)
    assert turns.dropped == {"a"}
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert turns.dropped == frozenset()


def test_very_many_dropped_lanes_are_passed_in_bounded_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"MAX_DROPPED_PAGES": 20, "DROPPED_PAGE_SIZE": 10, "_MAX_REMEMBERED": 25}.items():
        monkeypatch.setattr(round_robin, name, size)
    due = DueDocuments({f"{group:03}": ["x"] * 10 for group in range(60)} | {"living": ["y"]})
    due.dropped = due.groups.keys() - {"living"}
    turns = RoundRobin()
    due.left_out = lambda: turns.dropped
    looks = [choose_all(due, turns, limit=10) for _ in range(4)]
    assert looks == [[], [], [], ["y"]]
    assert due.sizes.count(10) <= 20 * len(looks)
    assert len(turns.dropped) == 25
