# SPDX-License-Identifier: Apache-2.0
"""The fence of each queue, and how operations are asked for.

Each operation is one script. Redis runs one at a time and to its end, so whatever a script reads is in force until it
answers, and nobody sees half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from zaqar.errors import QueueDropped, StaleQueue
from zaqar.model import Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.base.uncut import UncutMessageStore
from zaqar.storage.redis import durability
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.keys import OUTBOX_SLOTS, SLOTS, SLOTS_IN_USE, QueueKeys, slot_of
from zaqar.storage.redis.scripts import Script, load
from zaqar.storage.redis.wire import Word

STALE, AGAIN, STALE_GRAVE, DROPPED, OVER, HELD, ABSENT, WORN_OUT, IS_SEALED = range(-1, -10, -1)
"""What scripts answer instead of a result, see ``scripts/keys.lua``."""

_OPEN = load("open", again=True)
_DROP = load("drop", again=True)
_PURGE = load("purge", again=True)
_NOTE_SLOTS = load("add_members", again=True)

_SLOTS_AT_ONCE = 1000


class FenceStore(UncutMessageStore):
    """The part of the message store that the other parts stand on."""

    def __init__(self, server: Redis) -> None:
        self._redis = server
        self._keys = QueueKeys(cluster=server.is_cluster)
        self._noted: set[tuple[bytes, int]] = set()
        """In a Cluster: the slots that this process has noted, and where."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        server = Redis.from_settings(settings)
        durability.look_at_start(server)
        return cls(server)

    def open_queue(self, *, queue: Queue, now: float) -> int:
        self._note_slot(queue)
        generation = self._ask(_OPEN, queue, now)
        if generation == DROPPED:
            raise QueueDropped(queue.uid)
        return int(generation)

    def drop_queue(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        self._note_slot(queue)
        end = now + remember if remember > 0 else ""
        self._ask(_DROP, queue, now, end, more_keys=self._keys.dropped_of(queue.uid))

    def purge(self, *, queue: Queue, now: float) -> None:
        self._ask(_PURGE, queue, now)

    def durability(self) -> Mapping[str, str]:
        return durability.report(self._redis)

    def ping(self) -> None:
        self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, script: Script, queue: Queue, now: float, *words: Word, more_keys: tuple[bytes, ...] = ()) -> Any:
        """Run the script of an operation until it is through; StaleQueue where the fence is another."""
        keys = self._keys.of(queue.uid)
        if more_keys:
            keys += more_keys
        slot = slot_of(queue.uid.encode()) if self._redis.is_cluster else 0
        arguments = (queue.generation, now, *words)
        while True:
            reply = self._redis.run(script, keys, arguments, slot)
            # More was due than one script brings to its place; this batch is done, so the next one is asked for.
            if reply == AGAIN:
                continue
            if reply == STALE:
                raise StaleQueue(queue.uid)
            return reply

    def _note_slot(self, queue: Queue) -> None:
        """Before a slot has its first queue, so that sweeps find it."""
        self._note(SLOTS_IN_USE, queue.uid)

    def _note_outbox_slot(self, uid: str) -> None:
        """Before a slot has its first post to notify, or delivery, so that notifiers and sweeps find it."""
        self._note(OUTBOX_SLOTS, uid)

    def _note(self, slots: bytes, uid: str) -> None:
        if self._redis.is_cluster and (slots, slot := slot_of(uid.encode())) not in self._noted:
            self._redis.run(_NOTE_SLOTS, (slots,), (slot,), slot_of(slots))
            self._noted.add((slots, slot))  # only now: a slot that counts as noted and is not hides its queues for good

    def _note_lost_slots(self) -> None:
        """Note the slots of a Cluster that hold something and are not noted.

        The set of slots lies on one master and the queues on others, so a fail-over may lose a slot that was noted and
        none of its queues. The processes that noted the slot do not note it again.
        """
        if not self._redis.is_cluster:
            return
        for slots, keys_of in ((SLOTS_IN_USE, self._keys.registry), (OUTBOX_SLOTS, self._keys.outbox)):
            unnoted = sorted(set(range(SLOTS)).difference(self._slots(slots)))
            found = self._redis.in_each(unnoted, [(b"EXISTS", *keys_of(slot)) for slot in unnoted])
            lost = [slot for slot, count in zip(unnoted, found, strict=True) if count]
            for start in range(0, len(lost), _SLOTS_AT_ONCE):
                self._redis.run(_NOTE_SLOTS, (slots,), lost[start : start + _SLOTS_AT_ONCE], slot_of(slots))

    def _slots(self, slots: bytes) -> list[int]:
        """Those noted there; on one server the only one there is."""
        if not self._redis.is_cluster:
            return [0]
        return [int(slot) for slot in self._redis.command(b"SMEMBERS", slots, slot=slot_of(slots))]
