# SPDX-License-Identifier: Apache-2.0
"""Pages of the queues of a project, by name. ``Queues.list_page`` calls it.

Metadata may be large, so only names are read if they are enough. One request examines a bounded number of queues, even
if a filter keeps few of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar

from zaqar.model import Queue
from zaqar.schemas.queues import QueueFilter
from zaqar.storage.base import ManagementStore

T = TypeVar("T")

MOST_NAMES = 20_000
"""Queues of which one request with a filter reads the names at most."""

MOST_ROWS = 500
"""Queues of which one request with a filter reads the metadata at most: each may have 64 KB of metadata."""

WALK_SECONDS = 1.0
"""Time limit of one request with a filter: a regular expression may take a millisecond for each name."""

_TURN_SECONDS = 0.005
"""After this time the filter yields to other greenlets of a gevent worker, which would starve otherwise."""

_NAMES_AT_A_TIME = 1000
_ROWS_AT_A_TIME = 50


@dataclass(frozen=True, slots=True)
class QueuePage:
    """A page of a listing.

    ``queues`` are the queues with these ``names``; empty unless the caller asked for details. ``following`` is the name
    after which the next page begins, None for the last page. A page that is not the last may be short or empty if a
    filter kept few queues. ``count`` is the number of all matching queues, None if the caller did not ask for it or if
    there are too many to examine.
    """

    names: list[str]
    queues: list[Queue]
    following: str | None
    count: int | None


class _Walk(Generic[T]):
    """Yields the items of a listing that a filter keeps, in order, up to a number of items or a time limit."""

    def __init__(
        self,
        read: Callable[..., list[T]],
        *,
        name_of: Callable[[T], str],
        keeps: Callable[[T], bool],
        most: int,
        at_a_time: int,
    ) -> None:
        self._read = read
        self._name_of = name_of
        self._keeps = keeps
        self._most = most
        self._at_a_time = at_a_time
        self.is_complete = False
        """Whether the listing has no item after the examined ones."""
        self.after = ""
        """The name of the last examined item."""

    def keep(self, after: str) -> Iterator[T]:
        """Yield the kept items with a name after ``after``."""
        self.after = after
        looked_at = 0
        end = time.monotonic() + WALK_SECONDS
        turn = 0.0
        while looked_at < self._most:
            batch = self._read(after=self.after, limit=self._at_a_time)
            for item in batch:
                self.after = self._name_of(item)
                if self._keeps(item):
                    yield item
                now = time.monotonic()
                if now > end:
                    return
                if now > turn:
                    time.sleep(0)
                    turn = time.monotonic() + _TURN_SECONDS
            if len(batch) < self._at_a_time:
                self.is_complete = True
                return
            looked_at += len(batch)


class QueueListing:
    """Lists the queues, or topics, of one project."""

    def __init__(self, management: ManagementStore, project: str, kind: str) -> None:
        self._list_queues = partial(management.queue_records.list_after, project=project, kind=kind)
        self._list_names = partial(management.queue_records.list_names, project=project, kind=kind)
        self._count = partial(management.queue_records.count, project=project, kind=kind)
        self._get = partial(management.queue_records.get, project=project, kind=kind)

    def page(self, *, after: str, limit: int, with_count: bool, detailed: bool) -> QueuePage:
        """Return the first ``limit`` queues with a name after ``after``."""
        queues = self._list_queues(after=after, limit=limit) if detailed else []
        names = [queue.name for queue in queues] if detailed else self._list_names(after=after, limit=limit)
        return QueuePage(names, queues, names[-1] if names else None, self._count() if with_count else None)

    def filtered_page(
        self, keep: QueueFilter, *, after: str, limit: int, with_count: bool, detailed: bool
    ) -> QueuePage:
        """Return the first ``limit`` queues with a name after ``after`` that ``keep`` keeps.

        The page ends early after MOST_NAMES names, after the metadata of MOST_ROWS queues, or after WALK_SECONDS.
        """
        if keep.needs_metadata:
            walk_rows = partial(
                _Walk,
                self._list_queues,
                name_of=attrgetter("name"),
                keeps=keep.keeps,
                most=MOST_ROWS,
                at_a_time=_ROWS_AT_A_TIME,
            )
            queues, following, count = _select(walk_rows, attrgetter("name"), after, limit, with_count=with_count)
            return QueuePage([queue.name for queue in queues], queues if detailed else [], following, count)
        walk_names = partial(
            _Walk, self._list_names, name_of=str, keeps=keep.keeps_name, most=MOST_NAMES, at_a_time=_NAMES_AT_A_TIME
        )
        names, following, count = _select(walk_names, str, after, limit, with_count=with_count)
        if not detailed:
            return QueuePage(names, [], following, count)
        rows = [self._get(name=name) for name in names]
        # A queue that was deleted after its name was read is left out.
        queues = [row for row in rows if row is not None]
        return QueuePage([queue.name for queue in queues], queues, following, count)


def _select(
    walk: Callable[[], _Walk[T]], name_of: Callable[[T], str], after: str, limit: int, *, with_count: bool
) -> tuple[list[T], str | None, int | None]:
    """Return a page of kept items, the name after which the next page begins, and the number of all kept items.

    The number is None without ``with_count``, or if the walk stops before the end of the listing.
    """
    if with_count:
        whole = walk()
        page: list[T] = []
        count = 0
        for item in whole.keep(""):
            count += 1
            if len(page) < limit and name_of(item) > after:
                page.append(item)
        if whole.is_complete:
            return page, name_of(page[-1]) if page else None, count
    part = walk()
    page = list(islice(part.keep(after), limit))
    if part.is_complete:
        return page, name_of(page[-1]) if page else None, None
    return page, part.after, None
