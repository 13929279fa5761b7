# SPDX-License-Identifier: Apache-2.0
"""Which queues have posts or due deliveries, in turns. ``RedisOutbox`` and ``RedisDeliveries`` have a rotation each.

The scripts keep lists of these queues, one set of lists for the server or for each slot of a Cluster: queues by the
time when something is due, and queues that have due deliveries now by turn. So an idle look costs little, and a queue
that always has work does not hold up another: a queue that was served goes behind those that wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain, zip_longest

from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.keys import OUTBOX_SLOTS, TURNS

QUEUES_AT_ONCE = 500
"""Number of queues that one take looks at; the next take begins with others."""

Place = tuple[int, int]
"""A list of queues: the slot, and the index of the list among ``QueueKeys.outbox``."""


class QueueRotation:
    """A walk over some of the lists of all slots, which goes on behind the list that was served last."""

    def __init__(self, core: RedisCore, lists: Sequence[int]) -> None:
        self._core = core
        self._lists = lists
        self.last: Place = (-1, 0)
        """The list in which this process found work last. Only the order of the next look depends on it, so several
        threads may set it."""

    def queues(self, now: float, size: int) -> list[tuple[Place, str]]:
        """The first ``size`` uids of each list that have work at ``now``: one of each list, then the second, ..."""
        places = [(slot, index) for slot in sorted(self._core.slots.recorded(OUTBOX_SLOTS)) for index in self._lists]
        start = bisect_right(places, self.last)
        places = places[start:] + places[:start]
        pages = [_page(self._core.keys.outbox(slot)[index], index, now, size) for slot, index in places]
        replies = self._core.client.command_in_each_slot([slot for slot, _ in places], pages)
        rows = ([(place, uid.decode()) for uid in reply] for place, reply in zip(places, replies, strict=True))
        return [each for each in chain.from_iterable(zip_longest(*rows)) if each is not None]


def _page(key: bytes, index: int, now: float, size: int) -> tuple[Argument, ...]:
    """Read the beginning of a list: what is due, if the list is by time; anything, if it is by turns."""
    if index == TURNS:
        return (b"ZRANGE", key, 0, size - 1)
    return (b"ZRANGEBYSCORE", key, b"-inf", now, b"LIMIT", 0, size)
