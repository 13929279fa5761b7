# SPDX-License-Identifier: Apache-2.0
"""A turn for each queue or subscription that has something due, however much the others have.

An index has what is due by lane. It is read in pages, each of which begins behind the lanes of the one before: so a
lane with very many costs one page, like any other. The next look begins where this one ended, and goes all around.
Lanes that were dropped and not swept yet are passed over, and those with many are left out of the next pages.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import TypeAlias

MOST_PAGES = 8
"""Pages that one look reads at most."""

MOST_PASSES = 200
PASS_SIZE = 1000
"""Pages with nothing but dropped lanes that one look reads beside those, and how much such a page may have."""

_REMEMBERED = 1000
_REMEMBERED_SECONDS = 60.0
"""Dropped lanes with many that are left out of the pages, and for how long: by then a sweep has come to them."""

Page: TypeAlias = Callable[[str, str | None, int], Sequence[tuple[str, str]]]
"""Given a lane, a last lane or None, and a limit: (lane, key) of what is due behind the one up to the other, in order
of the lanes, and in the order of its own within a lane."""

Found: TypeAlias = Sequence[tuple[str, str]]
Living: TypeAlias = Callable[[Found], Found]
"""What of a page is of lanes that were not dropped."""


class Rotation:
    """Where the next look begins. Shared by threads, which may begin at the same place."""

    def __init__(self) -> None:
        self._after = ""
        self._dropped: frozenset[str] = frozenset()
        self._dropped_since = 0.0

    @property
    def dropped(self) -> frozenset[str]:
        """Dropped lanes that a page need not have."""
        if self._dropped and time.monotonic() > self._dropped_since + _REMEMBERED_SECONDS:
            self._dropped = frozenset()
        return self._dropped

    def choose(self, page: Page, living: Living, *, limit: int, most_of_one: int) -> list[str]:
        """Keys of what is due: at most ``limit``, one of each lane, then the second of each, and so on."""
        lanes, end, is_all = self._look(page, living, limit, most_of_one)
        names = list(lanes)
        if len(names) >= limit and not (is_all and len(names) == limit):
            end = names[limit - 1]
        self._after = end
        turns = chain.from_iterable(zip_longest(*(keys[:most_of_one] for keys in lanes.values())))
        return list(islice((key for key in turns if key is not None), limit))

    def _look(
        self, page: Page, living: Living, limit: int, most_of_one: int
    ) -> tuple[Mapping[str, list[str]], str, bool]:
        """The first of each lane, lane by lane, the lane behind which to go on, and whether these are all lanes."""
        lanes: dict[str, list[str]] = {}
        start = after = self._after
        end: str | None = None
        size, pages, passes = limit, 0, 0
        while pages < MOST_PAGES and passes < MOST_PASSES:
            found = page(after, end, size)
            is_full = len(found) == size
            kept = living(found)
            if found and not kept:
                passes += 1
            else:
                pages += 1
            # The rest of a dropped lane need not be read, so that the page ends with a whole lane.
            ends_dropped = is_full and (not kept or kept[-1] != found[-1])
            lanes.update(_by_lane(kept, whole=not is_full or ends_dropped, most_of_one=most_of_one))
            if is_full:
                after = found[-1][0] if ends_dropped else list(lanes)[-1]
                if len(lanes) >= limit:
                    return lanes, after, False
                if len(kept) < len(found):
                    self._remember({lane for lane, _ in found} - {lane for lane, _ in kept})
                    size = max(size, PASS_SIZE)
            elif end is None and start:
                after, end = "", start
            else:
                return lanes, "", True
        return lanes, after, False

    def _remember(self, dropped: set[str]) -> None:
        if not self._dropped:
            self._dropped_since = time.monotonic()
        if len(self._dropped) < _REMEMBERED:
            self._dropped |= dropped


def _by_lane(found: Found, *, whole: bool, most_of_one: int) -> dict[str, list[str]]:
    lanes: dict[str, list[str]] = defaultdict(list)
    for lane, key in found:
        lanes[lane].append(key)
    if not whole and len(lanes) > 1 and len(lanes[lane]) < most_of_one:
        del lanes[lane]  # the next page has more of it
    return lanes
