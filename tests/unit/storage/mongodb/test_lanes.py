# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from zaqar.storage.mongodb.lanes import MOST_PAGES, Rotation


@dataclass
class Shelf:
    """What is due, by lane, and the pages that were read of it."""

    lanes: dict[str, list[str]]
    sizes: list[int] = field(default_factory=list)

    def page(self, after: str, end: str | None, limit: int) -> list[tuple[str, str]]:
        lanes = sorted(lane for lane in self.lanes if lane > after and (end is None or lane <= end))
        found = [(lane, key) for lane in lanes for key in self.lanes[lane]][:limit]
        self.sizes.append(len(found))
        return found


def shelf_of(**counts: int) -> Shelf:
    return Shelf({lane: [f"{lane}{n}" for n in range(count)] for lane, count in counts.items()})


def test_one_of_each_lane_then_the_second() -> None:
    shelf = shelf_of(a=3, b=1, c=2)
    assert Rotation().choose(shelf.page, limit=20, most_of_one=20) == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert Rotation().choose(shelf.page, limit=4, most_of_one=20) == ["a0", "b0", "c0", "a1"]
    assert Rotation().choose(shelf.page, limit=20, most_of_one=2) == ["a0", "b0", "c0", "a1", "c1"]


def test_nothing_costs_one_page() -> None:
    shelf = shelf_of()
    rotation = Rotation()
    for _ in range(3):
        assert rotation.choose(shelf.page, limit=10, most_of_one=5) == []
    assert shelf.sizes == [0, 0, 0]


def test_a_lane_with_very_many_costs_one_page() -> None:
    shelf = shelf_of(a=1, b=100_000, c=1, d=2)
    chosen = Rotation().choose(shelf.page, limit=10, most_of_one=6)
    assert Counter(key[0] for key in chosen) == {"a": 1, "b": 6, "c": 1, "d": 2}
    assert shelf.sizes == [10, 3]


def test_a_lane_that_a_page_cuts_is_read_again() -> None:
    shelf = shelf_of(a=3, b=4)
    assert Rotation().choose(shelf.page, limit=5, most_of_one=4) == ["a0", "b0", "a1", "b1", "a2"]
    assert shelf.sizes == [5, 4]


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
@pytest.mark.parametrize("each", [1, 100])
def test_repeated_looks_come_to_all(limit: int, each: int) -> None:
    shelf = Shelf({f"{lane:03}": [f"{lane:03}.{n}" for n in range(each)] for lane in range(100)})
    rotation = Rotation()
    seen: Counter[str] = Counter()
    looks = 2 * -(-100 // min(limit, MOST_PAGES if each > 1 else limit))
    for _ in range(looks):
        chosen = rotation.choose(shelf.page, limit=limit, most_of_one=2)
        assert len(chosen) <= limit
        seen.update({key.partition(".")[0] for key in chosen})
    assert seen.keys() == shelf.lanes.keys()
    assert max(shelf.sizes) <= limit
    assert len(shelf.sizes) <= MOST_PAGES * looks


def test_it_goes_all_around() -> None:
    shelf = shelf_of(a=1, b=1, c=1)
    rotation = Rotation()
    assert rotation.choose(shelf.page, limit=2, most_of_one=1) == ["a0", "b0"]
    assert rotation.choose(shelf.page, limit=2, most_of_one=1) == ["c0", "a0"]
    del shelf.lanes["a"]
    assert rotation.choose(shelf.page, limit=3, most_of_one=1) == ["b0", "c0"]
