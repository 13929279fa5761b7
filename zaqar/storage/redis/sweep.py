# SPDX-License-Identifier: Apache-2.0
"""What nobody waits for: removing what is dead, and the sums over all queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from zaqar.errors import StoreUnavailable
from zaqar.model import Queue, Stats
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.deliveries import LoggedStore
from zaqar.storage.redis.keys import OUTBOX_SLOTS, SLOTS_IN_USE
from zaqar.storage.redis.scripts import load

QUEUES_AT_ONCE = 1000
"""Queues that one script counts at most."""

_SWEPT_AT_ONCE = 50

_LOOK_FOR_LOST_SLOTS_EVERY = 30.0
"""Seconds of the caller's clock. A look asks about each slot of a Cluster, too much for each batch of a sweep."""

_SETTLE = load("settle", again=True, writes=False)
_SWEEP = load("sweep", again=True, writes=False)
_SWEEP_DELIVERIES = load("sweep_deliveries", again=True, writes=False)
_VOLUME = load("volume", again=True, writes=False)


class SweepStore(LoggedStore):
    """The part of the message store that is about the store as a whole."""

    def __init__(self, server: Redis) -> None:
        super().__init__(server)
        self._looked_for_lost_slots = float("-inf")

    def volume(self, *, now: float) -> Stats:
        free = claimed = 0
        slots = self._slots(SLOTS_IN_USE)
        sizes = self._redis.in_each(slots, [(b"ZCARD", self._keys.registry(slot)[0]) for slot in slots])
        for slot, size in zip(slots, sizes, strict=True):
            if not size:
                continue
            queues, _ = self._keys.registry(slot)
            after: bytes | None = b""
            while after is not None:
                following, more_free, more_claimed, *due = self._redis.run(
                    _VOLUME, (queues,), (now, after, QUEUES_AT_ONCE), slot
                )
                for uid in due:
                    self._ask(_SETTLE, _any_queue(uid), now)
                if due:
                    continue  # count these queues again, now that nothing of theirs is due
                free += more_free
                claimed += more_claimed
                after = following
        return Stats(free, claimed)

    def sweep(self, *, now: float, limit: int) -> int:
        def sweep_queue(uid: bytes, most: int) -> int:
            more_keys = self._keys.dropped_of(uid.decode())
            return int(self._ask(_SWEEP, _any_queue(uid), now, most, more_keys=more_keys))

        def sweep_deliveries(uid: bytes, most: int) -> int:
            return int(self._run(_SWEEP_DELIVERIES, uid.decode(), now, most, DROPPED_LIFETIME))

        if abs(now - self._looked_for_lost_slots) >= _LOOK_FOR_LOST_SLOTS_EVERY:
            self._looked_for_lost_slots = now
            with suppress(StoreUnavailable):  # a slot that nobody serves; the sweep goes on if it has nothing there
                self._note_lost_slots()
        agendas = {slot: self._keys.registry(slot)[1] for slot in self._slots(SLOTS_IN_USE)}
        removed = self._sweep_each(agendas, sweep_queue, now, limit)
        kept = {slot: self._keys.outbox(slot)[3] for slot in self._slots(OUTBOX_SLOTS)}
        # Deliveries have a share, so that they do not wait for ever behind messages of which more expire all the time.
        return removed + self._sweep_each(kept, sweep_deliveries, now, max(limit - removed, -(-limit // 2)))

    def _sweep_each(
        self, agendas: Mapping[int, bytes], sweep: Callable[[bytes, int], int], now: float, limit: int
    ) -> int:
        """Sweep the queues that the agendas name, by slot, as long as they do: each time it gets on."""
        removed = 0
        pages = [(b"ZRANGEBYSCORE", key, b"-inf", now, b"LIMIT", 0, _SWEPT_AT_ONCE) for key in agendas.values()]
        slots = list(agendas)
        for slot, page, found in zip(slots, pages, self._redis.in_each(slots, pages), strict=True):
            uids = found
            while uids:
                for uid in uids:
                    removed += sweep(uid, limit - removed)
                    if removed >= limit:
                        return removed
                uids = self._redis.command(*page, slot=slot)
        return removed


def _any_queue(uid: bytes) -> Queue:
    """For scripts that do not heed the generation."""
    return Queue(uid.decode(), "", "")
