# SPDX-License-Identifier: Apache-2.0
"""The sweep, which removes dead records, and the volume of all queues. No client waits for either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from zaqar.errors import StoreUnavailable
from zaqar.model import Swept, Volume
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.keys import DUE, KEPT, OUTBOX_SLOTS, SLOTS_IN_USE, TURNS

QUEUES_AT_ONCE = 250
"""Maximum number of queues that one script counts."""

_QUEUES_PER_PAGE = 50

_LOOK_FOR_LOST_SLOTS_SECONDS = 30.0
"""By the caller's clock. A look asks about each slot of a Cluster, which is too much for each batch of a sweep."""

_PROMOTE = load("sweep/promote", idempotent=True, durable=False)
_SWEEP_QUEUE = load("sweep/sweep_queue", idempotent=True, durable=False)
_SWEEP_DELIVERIES = load("sweep/sweep_deliveries", idempotent=True, durable=False)
_COUNT_MESSAGES = load("sweep/count_messages", idempotent=True, durable=False)
_COUNT_DELIVERIES = load("sweep/count_deliveries", idempotent=True, durable=False)


class RedisSweep:
    """Walks over the queues of the server, or of each slot of a Cluster that has some."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core
        self._looked_for_lost_slots = float("-inf")

    def volume(self, now: float) -> Volume:
        """Count what the store holds, for ``MessageStore.volume``: by the sizes of the indexes of each queue.

        What is due by now is promoted before, so messages are counted exactly. ``oldest`` and ``oldest_waiting`` belong
        to the first message and the first waiting delivery of a queue: the lowest number, not the earliest time. A dead
        letter that keeps the time of its post may be older than the letters before it, and the clocks of two processes
        may differ. Deliveries of a deleted subscription count until a sweep has removed them. Queues and deliveries are
        read a page after the other, so the numbers of two queues are not of the same moment.
        """
        free, claimed, delayed, oldest = self._count_messages(now)
        waiting, dead, oldest_waiting = self._count_deliveries()
        return Volume(free, claimed, delayed, oldest, waiting, dead, oldest_waiting)

    def _count_messages(self, now: float) -> tuple[int, int, int, float | None]:
        free = claimed = delayed = 0
        created: list[float] = []
        slots = self._core.slots.recorded(SLOTS_IN_USE)
        counting = [(b"ZCARD", self._core.keys.registry(slot)[0]) for slot in slots]
        for slot, size in zip(slots, self._core.client.command_in_each_slot(slots, counting), strict=True):
            if not size:
                continue
            queues, _ = self._core.keys.registry(slot)
            after: bytes | None = b""
            while after is not None:
                arguments = (now, after, QUEUES_AT_ONCE)
                following, *counts, oldest, due = self._core.client.run(_COUNT_MESSAGES, (queues,), arguments, slot)
                for uid in due:
                    self._core.run_unfenced(_PROMOTE, uid.decode(), now)
                if due:
                    # The reply has not counted these queues. Nothing of theirs is due at ``now`` any more, so read the
                    # page again; a queue that is dropped meanwhile is not in it, so this ends.
                    continue
                free += counts[0]
                claimed += counts[1]
                delayed += counts[2]
                if oldest is not None:
                    created.append(float(oldest))
                after = following
        return free, claimed, delayed, min(created, default=None)

    def _count_deliveries(self) -> tuple[int, int, float | None]:
        waiting = dead = 0
        created: list[float] = []
        places = [
            (slot, self._core.keys.outbox(slot)[index])
            for slot in self._core.slots.recorded(OUTBOX_SLOTS)
            for index in (DUE, TURNS, KEPT)
        ]
        slots = [slot for slot, _ in places]
        sizes = self._core.client.command_in_each_slot(slots, [(b"ZCARD", key) for _, key in places])
        queues: dict[int, set[bytes]] = {}
        for (slot, key), size in zip(places, sizes, strict=True):
            if size:
                queues.setdefault(slot, set()).update(self._members(slot, key))
        for slot, found in queues.items():
            uids = list(found)
            after = b""
            while uids:
                keys, arguments = (self._core.keys.outbox(slot)[KEPT],), (after, *uids[:QUEUES_AT_ONCE])
                reply = self._core.client.run(_COUNT_DELIVERIES, keys, arguments, slot)
                done, after, more_waiting, more_dead, oldest = reply
                waiting += more_waiting
                dead += more_dead
                if oldest is not None:
                    created.append(float(oldest))
                uids = uids[done:]
        return waiting, dead, min(created, default=None)

    def _members(self, slot: int, key: bytes) -> Iterator[bytes]:
        """The members of a sorted set, some of them twice."""
        cursor = b"0"
        while True:
            cursor, rows = self._core.client.command(b"ZSCAN", key, cursor, b"COUNT", QUEUES_AT_ONCE, slot=slot)
            yield from rows[::2]
            if cursor == b"0":
                return

    def sweep(self, now: float, limit: int) -> Swept:
        """Remove about ``limit`` dead records and return how many, for ``MessageStore.sweep``.

        ``expired`` has every expired message once, also one that a post or a reader removed before. So it may be more
        than ``removed``. It has no message of a queue that was deleted before its next sweep.

        A crash at any point loses nothing: each script removes a bounded batch and leaves the queue on its list, unless
        the queue has nothing more to remove. Several sweeps at once share the work, and each record is removed once.
        """

        def sweep_queue(uid: str, most: int) -> Swept:
            return Swept(*self._core.run_unfenced(_SWEEP_QUEUE, uid, now, most))

        def sweep_deliveries(uid: str, most: int) -> Swept:
            return Swept(self._core.run_on_outbox(_SWEEP_DELIVERIES, uid, now, most, DROPPED_LIFETIME))

        if abs(now - self._looked_for_lost_slots) >= _LOOK_FOR_LOST_SLOTS_SECONDS:
            self._looked_for_lost_slots = now
            # If a slot is not served, the sweep goes on: it may have nothing to do there.
            with suppress(StoreUnavailable):
                self._core.slots.record_lost()
        agendas = {slot: self._core.keys.registry(slot)[1] for slot in self._core.slots.recorded(SLOTS_IN_USE)}
        messages = self._sweep_lists(agendas, sweep_queue, now, limit)
        kept = {slot: self._core.keys.outbox(slot)[KEPT] for slot in self._core.slots.recorded(OUTBOX_SLOTS)}
        # Deliveries have a share of their own. Otherwise they would wait for ever if messages expire all the time.
        share = max(limit - messages.removed, -(-limit // 2))
        deliveries = self._sweep_lists(kept, sweep_deliveries, now, share)
        return Swept(messages.removed + deliveries.removed, messages.expired)

    def _sweep_lists(
        self, lists: Mapping[int, bytes], sweep: Callable[[str, int], Swept], now: float, limit: int
    ) -> Swept:
        """Sweep the queues of these lists, by slot, that have something due at ``now``.

        Each call of ``sweep`` removes something, or moves the queue to a later time in its list. So this ends.
        """
        removed = expired = 0
        pages = [(b"ZRANGEBYSCORE", key, b"-inf", now, b"LIMIT", 0, _QUEUES_PER_PAGE) for key in lists.values()]
        slots = list(lists)
        found = self._core.client.command_in_each_slot(slots, pages)
        for slot, page, uids in zip(slots, pages, found, strict=True):
            while uids:
                for uid in uids:
                    swept = sweep(uid.decode(), limit - removed)
                    removed += swept.removed
                    expired += swept.expired
                    if removed >= limit:
                        return Swept(removed, expired)
                uids = self._core.client.command(*page, slot=slot)
        return Swept(removed, expired)
