# SPDX-License-Identifier: Apache-2.0
"""Taking a limited number of rows from many backlogs, as many from each. Outbox and deliveries are taken this way.

A backlog is the posts of one queue, or the deliveries of one subscription, that wait. A take begins after the backlog
at which the last take ended. So its cost does not depend on the size of one backlog, and none waits for ever behind
another one.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from zaqar.storage.sqlalchemy.client.database import Database

T = TypeVar("T")

_BEFORE_ALL: Final = ""
_AFTER_ALL: Final = "\U0010ffff"
"""Every uid of a queue and every id of a subscription is between these two."""


class Round:
    """Going round the backlogs of one kind."""

    def __init__(self, database: Database, statement: str) -> None:
        """``statement`` finds the keys of backlogs after ``:after``, up to ``:last``, in their order."""
        self._database = database
        self._statement = statement
        # Keys are random, so several processes begin at different places.
        self._after = secrets.token_hex(4)

    def next_backlogs(self, page: Mapping[str, Any]) -> list[str]:
        """The next ``page["limit"]`` backlogs with something due, each once. Threads may go round together."""
        after, limit = self._after, page["limit"]
        with self._database.read() as connection:
            found = connection.execute(self._statement, {**page, "after": after, "last": _AFTER_ALL}).fetchall()
            if len(found) < limit:
                rest = {**page, "after": _BEFORE_ALL, "last": after, "limit": limit - len(found)}
                found += connection.execute(self._statement, rest).fetchall()
        backlogs = [key for (key,) in found]
        if backlogs:
            # After the last one if there may be more. If these were all, after the first one, so that another one is
            # first next time.
            self._after = backlogs[-1] if len(backlogs) >= limit else backlogs[0]
        return backlogs


def take_fair_shares(
    backlogs: Sequence[str],
    limit: int,
    most_of_one: int,
    take: Callable[[Sequence[str], int], list[T]],
    *,
    backlog_of: Callable[[T], str],
) -> list[T]:
    """Take up to ``limit`` rows: the same number of each backlog, and more of larger ones if others have less.

    ``take(backlogs, each)`` takes up to ``each`` rows of each of these backlogs. One that gives less has no more.
    """
    taken: list[T] = []
    left = dict.fromkeys(backlogs, most_of_one)
    while left and len(taken) < limit:
        room = limit - len(taken)
        some = list(left)[:room]
        each = min(room // len(some), *(left[backlog] for backlog in some))
        found = take(some, each)
        got = Counter(map(backlog_of, found))
        for backlog in some:
            left[backlog] -= each
            if got[backlog] < each or not left[backlog]:
                del left[backlog]
        taken += found
    return taken
