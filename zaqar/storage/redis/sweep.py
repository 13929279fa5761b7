# SPDX-License-Identifier: Apache-2.0
"""The sweep, which removes dead records, and the volume of all queues. No client waits for either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from zaqar.errors import StoreUnavailable
from zaqar.model import Stats
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.keys import KEPT, OUTBOX_SLOTS, SLOTS_IN_USE

QUEUES_AT_ONCE = 1000
"""Maximum number of queues that one script counts."""

_QUEUES_PER_PAGE = 50

_LOOK_FOR_LOST_SLOTS_SECONDS = 30.0
"""By the caller's clock. A look asks about each slot of a Cluster, which is too much for each batch of a sweep."""

_PROMOTE = load("sweep/promote", idempotent=True, durable=False)
_SWEEP_QUEUE = load("sweep/sweep_queue", idempotent=True, durable=False)
_SWEEP_DELIVERIES = load("sweep/sweep_deliveries", idempotent=True, durable=False)
_VOLUME = load("sweep/volume", idempotent=True, durable=False)


class RedisSweep:
    """Walks over the queues of the server, or of each slot of a Cluster that has some."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core
        self._looked_for_lost_slots = float("-inf")

    def volume(self, now: float) -> Stats:
        """Free and claimed messages of all queues, for ``MessageStore.volume``."""
        free = claimed = 0
        slots = self._core.slots.recorded(SLOTS_IN_USE)
        counting = [(b"ZCARD", self._core.keys.registry(slot)[0]) for slot in slots]
        for slot, size in zip(slots, self._core.client.command_in_each_slot(slots, counting), strict=True):
            if not size:
                continue
            queues, _ = self._core.keys.registry(slot)
            after: bytes | None = b""
            while after is not None:
                arguments = (now, after, QUEUES_AT_ONCE)
                following, more_free, more_claimed, *due = self._core.client.run(_VOLUME, (queues,), arguments, slot)
                for uid in due:
                    self._core.run_unfenced(_PROMOTE, uid.decode(), now)
                if due:
                    # The reply has not counted these queues. Nothing of theirs is due at ``now`` any more, so read the
                    # page again; a queue that is dropped meanwhile is not in it, so this ends.
                    continue
                free += more_free
                claimed += more_claimed
                after = following
        return Stats(free, claimed)

    def sweep(self, now: float, limit: int) -> int:
        """Remove about ``limit`` dead records and return how many, for ``MessageStore.sweep``.

        A crash at any point loses nothing: each script removes a bounded batch and leaves the queue on its list, unless
        the queue has nothing more to remove. Several sweeps at once share the work, and each record is removed once.
        """

        def sweep_queue(uid: str, most: int) -> int:
            return int(self._core.run_unfenced(_SWEEP_QUEUE, uid, now, most))

        def sweep_deliveries(uid: str, most: int) -> int:
            return int(self._core.run_on_outbox(_SWEEP_DELIVERIES, uid, now, most, DROPPED_LIFETIME))

        if abs(now - self._looked_for_lost_slots) >= _LOOK_FOR_LOST_SLOTS_SECONDS:
            self._looked_for_lost_slots = now
            # If a slot is not served, the sweep goes on: it may have nothing to do there.
            with suppress(StoreUnavailable):
                self._core.slots.record_lost()
        agendas = {slot: self._core.keys.registry(slot)[1] for slot in self._core.slots.recorded(SLOTS_IN_USE)}
        removed = self._sweep_lists(agendas, sweep_queue, now, limit)
        kept = {slot: self._core.keys.outbox(slot)[KEPT] for slot in self._core.slots.recorded(OUTBOX_SLOTS)}
        # Deliveries have a share of their own. Otherwise they would wait for ever if messages expire all the time.
        return removed + self._sweep_lists(kept, sweep_deliveries, now, max(limit - removed, -(-limit // 2)))

    def _sweep_lists(self, lists: Mapping[int, bytes], sweep: Callable[[str, int], int], now: float, limit: int) -> int:
        """Sweep the queues of these lists, by slot, that have something due at ``now``.

        Each call of ``sweep`` removes something, or moves the queue to a later time in its list. So this ends.
        """
        removed = 0
        pages = [(b"ZRANGEBYSCORE", key, b"-inf", now, b"LIMIT", 0, _QUEUES_PER_PAGE) for key in lists.values()]
        slots = list(lists)
        found = self._core.client.command_in_each_slot(slots, pages)
        for slot, page, uids in zip(slots, pages, found, strict=True):
            while uids:
                for uid in uids:
                    removed += sweep(uid.decode(), limit - removed)
                    if removed >= limit:
                        return removed
                uids = self._core.client.command(*page, slot=slot)
        return removed
