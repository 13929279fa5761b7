# SPDX-License-Identifier: Apache-2.0
"""A fair choice of what is due: one of each group, then the second of each, and so on.

A group is a subscription for ``deliveries``, and a queue for ``outbox``. An index has the due documents by group. It is
read in pages, and each page begins after the groups of the page before. So a group with very many costs one page, like
any other. The next choice begins where this one ended, and starts again at the first group after the last one.

Groups that were dropped and not swept yet are passed over. If such a group has many documents, the next pages leave it
out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import TypeAlias

from zaqar.storage.mongodb.client.connection import Document

MAX_PAGES = 8
"""Pages that one choice reads at most, besides those with dropped groups only."""

MAX_DROPPED_PAGES = 200
"""Pages with dropped groups only that one choice reads at most."""
DROPPED_PAGE_SIZE = 1000
"""Documents of a page after one that had a dropped group."""

_MAX_REMEMBERED = 1000
_REMEMBERED_SECONDS = 60.0
"""Dropped groups with many documents that pages leave out, and for how long. By then a sweep has come to them."""

Found: TypeAlias = Sequence[tuple[str, str]]
"""Pairs of group and id of a document."""

ReadPage: TypeAlias = Callable[[str, str | None, int], Found]
"""Reads due documents of the groups after one, up to another or all (None), at most a number of them.

They are in the order of the groups, and within a group the longest due first.
"""

WithoutDropped: TypeAlias = Callable[[Found], Found]
"""Filters out the documents of dropped groups."""


class RoundRobin:
    """Where the next choice begins. Threads share it, and may begin at the same place."""

    def __init__(self) -> None:
        self._after = ""
        self._dropped: frozenset[str] = frozenset()
        self._dropped_since = 0.0

    @property
    def dropped(self) -> frozenset[str]:
        """Dropped groups that a page need not have."""
        if self._dropped and time.monotonic() > self._dropped_since + _REMEMBERED_SECONDS:
            self._dropped = frozenset()
        return self._dropped

    def between(self, after: str, end: str | None, without: Collection[str] = ()) -> Document:
        """The condition on the group for a page: see ReadPage. Neither ``without`` nor known dropped groups match."""
        left_out = [*without, *self.dropped]
        condition: Document = {"$gt": after}
        if end is not None:
            condition["$lte"] = end
        if left_out:
            condition["$nin"] = left_out
        return condition

    def choose(
        self, read_page: ReadPage, without_dropped: WithoutDropped, *, limit: int, most_of_one: int
    ) -> list[str]:
        """Ids of due documents: at most ``limit``, and at most ``most_of_one`` of a group."""
        groups, end, is_all = self._read(read_page, without_dropped, limit, most_of_one)
        names = list(groups)
        if len(names) >= limit and not (is_all and len(names) == limit):
            end = names[limit - 1]
        self._after = end
        rounds = chain.from_iterable(zip_longest(*(ids[:most_of_one] for ids in groups.values())))
        return list(islice((id_ for id_ in rounds if id_ is not None), limit))

    def _read(
        self, read_page: ReadPage, without_dropped: WithoutDropped, limit: int, most_of_one: int
    ) -> tuple[Mapping[str, list[str]], str, bool]:
        """The first ids of each group, the group after which to go on, and whether these are all groups."""
        groups: dict[str, list[str]] = {}
        start = after = self._after
        end: str | None = None
        size, pages, dropped_pages = limit, 0, 0
        while pages < MAX_PAGES and dropped_pages < MAX_DROPPED_PAGES:
            found = read_page(after, end, size)
            is_full = len(found) == size
            kept = without_dropped(found)
            if found and not kept:
                dropped_pages += 1
            else:
                pages += 1
            # If a dropped group is the last one, its rest need not be read: the page ends with a whole group.
            ends_dropped = is_full and (not kept or kept[-1] != found[-1])
            groups.update(_by_group(kept, is_whole=not is_full or ends_dropped, most_of_one=most_of_one))
            if is_full:
                after = found[-1][0] if ends_dropped else list(groups)[-1]
                if len(groups) >= limit:
                    return groups, after, False
                if len(kept) < len(found):
                    self._remember({group for group, _ in found} - {group for group, _ in kept})
                    size = max(size, DROPPED_PAGE_SIZE)
            elif end is None and start:
                # After the last group, go on with the first one, up to where this choice began.
                after, end = "", start
            else:
                return groups, "", True
        return groups, after, False

    def _remember(self, dropped: set[str]) -> None:
        if not self._dropped:
            self._dropped_since = time.monotonic()
        if len(self._dropped) < _MAX_REMEMBERED:
            self._dropped |= dropped


def _by_group(found: Found, *, is_whole: bool, most_of_one: int) -> dict[str, list[str]]:
    """The ids by group, without a last group that the page may have cut: the next page has all of it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for group, id_ in found:
        groups[group].append(id_)
    if not is_whole and len(groups) > 1 and len(groups[group]) < most_of_one:
        del groups[group]
    return groups
