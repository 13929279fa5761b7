# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest

from zaqar.storage.mongodb import round_robin
from zaqar.storage.mongodb.round_robin import MOST_PAGES, Rotation


@dataclass
class Shelf:
    """What is due, by lane, and the pages that were read of it."""

    lanes: dict[str, list[str]]
    sizes: list[int] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    left_out: Callable[[], Collection[str]] = tuple

    def page(self, after: str, end: str | None, limit: int) -> list[tuple[str, str]]:
        left_out = self.left_out()
        lanes = sorted(lane for lane in self.lanes if lane > after and (end is None or lane <= end))
        lanes = [lane for lane in lanes if lane not in left_out]
        found = [(lane, key) for lane in lanes for key in self.lanes[lane]][:limit]
        self.sizes.append(len(found))
        return found

    def living(self, found: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        return [each for each in found if each[0] not in self.dropped]


def shelf_of(**counts: int) -> Shelf:
    return Shelf({lane: [f"{lane}{n}" for n in range(count)] for lane, count in counts.items()})


def test_one_of_each_lane_then_the_second() -> None:
    shelf = shelf_of(a=3, b=1, c=2)
    assert Rotation().choose(shelf.page, shelf.living, limit=20, most_of_one=20) == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert Rotation().choose(shelf.page, shelf.living, limit=4, most_of_one=20) == ["a0", "b0", "c0", "a1"]
    assert Rotation().choose(shelf.page, shelf.living, limit=20, most_of_one=2) == ["a0", "b0", "c0", "a1", "c1"]


def test_nothing_costs_one_page() -> None:
    shelf = shelf_of()
    rotation = Rotation()
    for _ in range(3):
        assert rotation.choose(shelf.page, shelf.living, limit=10, most_of_one=5) == []
    assert shelf.sizes == [0, 0, 0]


def test_a_lane_with_very_many_costs_one_page() -> None:
    shelf = shelf_of(a=1, b=100_000, c=1, d=2)
    chosen = Rotation().choose(shelf.page, shelf.living, limit=10, most_of_one=6)
    assert Counter(key[0] for key in chosen) == {"a": 1, "b": 6, "c": 1, "d": 2}
    assert shelf.sizes == [10, 3]


def test_a_lane_that_a_page_cuts_is_read_again() -> None:
    shelf = shelf_of(a=3, b=4)
    assert Rotation().choose(shelf.page, shelf.living, limit=5, most_of_one=4) == ["a0", "b0", "a1", "b1", "a2"]
    assert shelf.sizes == [5, 4]


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
@pytest.mark.parametrize("each", [1, 100])
def test_repeated_looks_come_to_all(limit: int, each: int) -> None:
    shelf = Shelf({f"{lane:03}": [f"{lane:03}.{n}" for n in range(each)] for lane in range(100)})
    rotation = Rotation()
    seen: Counter[str] = Counter()
    looks = 2 * -(-100 // min(limit, MOST_PAGES if each > 1 else limit))
    for _ in range(looks):
        chosen = rotation.choose(shelf.page, shelf.living, limit=limit, most_of_one=2)
        assert len(chosen) <= limit
        seen.update({key.partition(".")[0] for key in chosen})
    assert seen.keys() == shelf.lanes.keys()
    assert max(shelf.sizes) <= limit
    assert len(shelf.sizes) <= MOST_PAGES * looks


def test_it_goes_all_around() -> None:
    shelf = shelf_of(a=1, b=1, c=1)
    rotation = Rotation()
    assert rotation.choose(shelf.page, shelf.living, limit=2, most_of_one=1) == ["a0", "b0"]
    assert rotation.choose(shelf.page, shelf.living, limit=2, most_of_one=1) == ["c0", "a0"]
    del shelf.lanes["a"]
    assert rotation.choose(shelf.page, shelf.living, limit=3, most_of_one=1) == ["b0", "c0"]


# -- dropped lanes ----------------------------------------------------------------------------------------------------


def choose_all(shelf: Shelf, rotation: Rotation, *, limit: int) -> list[str]:
    return rotation.choose(shelf.page, shelf.living, limit=limit, most_of_one=limit)


@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize("each", [1, 9, 10, 2_000])
def test_dropped_lanes_are_passed_over_in_one_look(limit: int, each: int) -> None:
    """Wherever they are, and however many they have."""
    for dropped in ({"a", "b"}, {"c"}, {"a", "d"}, {"a", "b", "d", "e"}):
        shelf = shelf_of(**{lane: each if lane in dropped else 1 for lane in "abcde"})
        shelf.dropped = dropped
        rotation = Rotation()
        living = [f"{lane}0" for lane in "abcde" if lane not in dropped]
        seen: list[str] = []
        for _ in range(-(-len(living) // limit)):
            seen += choose_all(shelf, rotation, limit=limit)
        assert sorted(set(seen)) == living


def test_a_dropped_lane_with_very_many_costs_one_page_and_then_none() -> None:
    shelf = shelf_of(a=100_000, b=1)
    shelf.dropped = {"a"}
    rotation = Rotation()
    shelf.left_out = lambda: rotation.dropped
    for _ in range(5):
        assert choose_all(shelf, rotation, limit=10) == ["b0"]
    assert shelf.sizes == [10, 1, 1, 1, 1, 1]


def test_dropped_lanes_are_not_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = shelf_of(a=100, b=1)
    shelf.dropped = {"a"}
    rotation = Rotation()
    choose_all(shelf, rotation, limit=10)
    assert rotation.dropped == {"a"}
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert rotation.dropped == frozenset()


def test_very_many_dropped_lanes_are_passed_in_bounded_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"MOST_PASSES": 20, "PASS_SIZE": 10, "_REMEMBERED": 25}.items():
        monkeypatch.setattr(round_robin, name, size)
    shelf = Shelf({f"{lane:03}": ["x"] * 10 for lane in range(60)} | {"living": ["y"]})
    shelf.dropped = shelf.lanes.keys() - {"living"}
    rotation = Rotation()
    shelf.left_out = lambda: rotation.dropped
    looks = [choose_all(shelf, rotation, limit=10) for _ in range(4)]
    assert looks == [[], [], [], ["y"]]
    assert shelf.sizes.count(10) <= 20 * len(looks)
    assert len(rotation.dropped) == 25
