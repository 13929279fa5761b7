# SPDX-License-Identifier: Apache-2.0
"""A turn for each queue or subscription that has something due, however much the others have.

An index has what is due by lane. It is read in pages, each of which begins behind the lanes of the one before: so a
lane with very many costs one page, like any other. The next look begins where this one ended, and goes all around.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import TypeAlias

MOST_PAGES = 8
"""Pages that one look reads at most."""

Page: TypeAlias = Callable[[str, str | None, int], Sequence[tuple[str, str]]]
"""Given a lane, a last lane or None, and a limit: (lane, key) of what is due behind the one up to the other, in order
of the lanes, and in the order of its own within a lane."""


class Rotation:
    """Where the next look begins. Shared by threads, which may begin at the same place."""

    def __init__(self) -> None:
        self._after = ""

    def choose(self, page: Page, *, limit: int, most_of_one: int) -> list[str]:
        """Keys of what is due: at most ``limit``, one of each lane, then the second of each, and so on."""
        lanes, is_all = self._look(page, limit, most_of_one)
        names = list(lanes)
        self._after = "" if is_all and len(names) <= limit else names[min(limit, len(names)) - 1]
        turns = chain.from_iterable(zip_longest(*(keys[:most_of_one] for keys in lanes.values())))
        return list(islice((key for key in turns if key is not None), limit))

    def _look(self, page: Page, limit: int, most_of_one: int) -> tuple[Mapping[str, list[str]], bool]:
        """The first of each lane, lane by lane, and whether these are all lanes that have some."""
        lanes: dict[str, list[str]] = {}
        start = after = self._after
        end: str | None = None
        for _ in range(MOST_PAGES):
            found = page(after, end, limit)
            is_full = len(found) == limit
            lanes.update(_by_lane(found, whole=not is_full, most_of_one=most_of_one))
            if is_full:
                after = list(lanes)[-1]
                if len(lanes) >= limit:
                    return lanes, False
            elif end is None and start:
                after, end = "", start
            else:
                return lanes, True
        return lanes, False


def _by_lane(found: Sequence[tuple[str, str]], *, whole: bool, most_of_one: int) -> dict[str, list[str]]:
    lanes: dict[str, list[str]] = defaultdict(list)
    for lane, key in found:
        lanes[lane].append(key)
    if not whole and len(lanes) > 1 and len(lanes[lane]) < most_of_one:
        del lanes[lane]  # the next page has more of it
    return lanes
