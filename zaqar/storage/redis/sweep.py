# SPDX-License-Identifier: Apache-2.0
"""What nobody waits for: removing what is dead, and the sums over all queues."""

from __future__ import annotations

from zaqar.model import Queue, Stats
from zaqar.storage.redis.claims import ClaimStore
from zaqar.storage.redis.keys import SLOTS_IN_USE, slot_of
from zaqar.storage.redis.scripts import load

QUEUES_AT_ONCE = 1000
"""Queues that one script counts at most."""

_SWEPT_AT_ONCE = 50

_SETTLE = load("settle", again=True, writes=False)
_SWEEP = load("sweep", again=True, writes=False)
_VOLUME = load("volume", again=True, writes=False)


class SweepStore(ClaimStore):
    """The part of the message store that is about the store as a whole."""

    def volume(self, *, now: float) -> Stats:
        free = claimed = 0
        slots = self._slots_in_use()
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
        removed = 0
        slots = self._slots_in_use()
        pages = [
            (b"ZRANGEBYSCORE", self._keys.registry(slot)[1], b"-inf", now, b"LIMIT", 0, _SWEPT_AT_ONCE)
            for slot in slots
        ]
        for slot, page, found in zip(slots, pages, self._redis.in_each(slots, pages), strict=True):
            uids = found
            while uids:
                for uid in uids:
                    removed += int(self._ask(_SWEEP, _any_queue(uid), now, limit - removed))
                    if removed >= limit:
                        return removed
                uids = self._redis.command(*page, slot=slot)
        return removed

    def _slots_in_use(self) -> list[int]:
        if not self._redis.is_cluster:
            return [0]
        return [int(slot) for slot in self._redis.command(b"SMEMBERS", SLOTS_IN_USE, slot=slot_of(SLOTS_IN_USE))]


def _any_queue(uid: bytes) -> Queue:
    """For scripts that do not heed the generation."""
    return Queue(uid.decode(), "", "")
