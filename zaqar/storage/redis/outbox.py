# SPDX-License-Identifier: Apache-2.0
"""What notifiers look for: posts whose deliveries are to be made, and deliveries that are due.

Which queues have some is kept beside them, for the server or for each slot of a Cluster: by when, and of those that
have due deliveries at hand in turns. So an idle look costs little, and neither a queue nor a subscription that always
has some holds up another: whichever was served goes behind those that wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import chain, zip_longest
from typing import Any

from zaqar.model import Delivery, Posted
from zaqar.storage.base import unpack_posted
from zaqar.storage.redis.claims import ClaimStore
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.delivery_records import deliveries_of, position_of
from zaqar.storage.redis.keys import OUTBOX_SLOTS, slot_of
from zaqar.storage.redis.scripts import Script, load
from zaqar.storage.redis.wire import Word

# A lease that is lost with a server means that somebody else sends as well, so none waits for replicas.
_TAKE_POSTED = load("take_posted", writes=False)
_TAKE = load("take_deliveries", writes=False)

_QUEUES_AT_ONCE = 500
"""Queues that one take looks at; the next one begins with others."""

_Place = tuple[int, int]
"""A list of queues: the slot, and which of its lists."""


class OutboxStore(ClaimStore):
    """The part of the message store that finds work for notifiers."""

    def __init__(self, server: Redis) -> None:
        super().__init__(server)
        self._last_post: _Place = (-1, 0)
        self._last_delivery: _Place = (-1, 0)
        """Where this process found something last. Nothing but the order in which it looks depends on them."""

    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        taken: list[Posted] = []
        found = self._queues_with((0,), now, min(limit, _QUEUES_AT_ONCE), self._last_post)
        while found and len(taken) < limit:
            share = max(1, (limit - len(taken)) // len(found))
            more = []
            for place, uid in found:
                size = min(share, limit - len(taken))
                if size <= 0:
                    break
                reply = self._run(_TAKE_POSTED, uid, now, until, size)
                rows = iter(reply)
                taken += (
                    unpack_posted(post, queue_uid=uid, first=int(first), position=position_of(at))
                    for first, post, at in zip(rows, rows, rows, strict=True)
                )
                self._last_post = place
                if len(reply) == 3 * size:
                    more.append((place, uid))
            found = more
        return taken

    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        taken: list[Delivery] = []
        seen: set[str] = set()
        size = min(limit, _QUEUES_AT_ONCE)
        while True:
            found = self._queues_with((1, 2), now, size, self._last_delivery)
            unseen = [each for each in found if each[1] not in seen]
            for place, uid in unseen:
                left = limit - len(taken)
                reply = self._run(_TAKE, uid, now, owner, until, left, min(most_of_one, left), *without)
                taken += deliveries_of(uid, reply)
                seen.add(uid)
                self._last_delivery = place
                if len(taken) >= limit or len(seen) >= _QUEUES_AT_ONCE:
                    return taken
            if not unseen or len(found) < size:
                return taken

    def _queues_with(self, lists: Sequence[int], now: float, size: int, last: _Place) -> list[tuple[_Place, str]]:
        """The first queues of these lists of each slot, in turns, beginning behind the list that was looked at last."""
        places = [(slot, which) for slot in sorted(self._slots(OUTBOX_SLOTS)) for which in lists]
        start = bisect_right(places, last)
        places = places[start:] + places[:start]
        pages = [_page(self._keys.outbox(slot)[which], which, now, size) for slot, which in places]
        replies = self._redis.in_each([slot for slot, _ in places], pages)
        rows = ([(place, uid.decode()) for uid in reply] for place, reply in zip(places, replies, strict=True))
        return [each for each in chain.from_iterable(zip_longest(*rows)) if each is not None]

    def _run(self, script: Script, uid: str, *words: Word) -> Any:
        slot = slot_of(uid.encode()) if self._redis.is_cluster else 0
        return self._redis.run(script, self._keys.outbox_of(uid), words, slot)


def _page(key: bytes, which: int, now: float, size: int) -> tuple[Word, ...]:
    """The beginning of a list: of those by time what is due, of that by turns all."""
    if which == 2:
        return (b"ZRANGE", key, 0, size - 1)
    return (b"ZRANGEBYSCORE", key, b"-inf", now, b"LIMIT", 0, size)
