# SPDX-License-Identifier: Apache-2.0
"""The fence of each queue, what concerns all its messages, and how far queues are that clients wait for.

To ask for the position of a queue leaves a note at its fence that a client waits, for WAITED_SECONDS. While the note
holds, scripts that make messages available publish the uid of the queue. Without it they publish nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zaqar.errors import QueueDropped
from zaqar.model import Queue, QueuePosition, QueueUsage, Stats
from zaqar.storage.base import TOMBSTONE_LIFETIME, QueueStore
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import DROPPED, RedisCore
from zaqar.storage.redis.message_records import messages_of

_OPEN = load("queues/open", idempotent=True)
_DROP = load("queues/drop", idempotent=True)
_PURGE = load("queues/purge", idempotent=True)
_USAGE = load("queues/usage", idempotent=True, durable=False)
_STATS = load("queues/stats", idempotent=True, durable=False)
# A note that is lost in a fail-over is written again within seconds, so it does not wait for replicas.
_POSITION = load("queues/position", idempotent=True, durable=False)

WAITED_SECONDS = 5.0
"""How long a queue counts as waited for after a process asked for its position."""

_RENEWED_BELOW_SECONDS = 3.0
"""A note that holds for longer is left as it is, because each note is a write to the append-only file."""


class RedisQueues(QueueStore):
    """Fences, statistics, usage and positions."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core

    def open(self, *, queue: Queue, now: float) -> int:
        self._core.slots.record_queue(queue.uid)
        generation = self._core.run_fenced(_OPEN, queue, now)
        if generation == DROPPED:
            raise QueueDropped(queue.uid)
        return int(generation)

    def drop(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        self._core.slots.record_queue(queue.uid)  # the tombstone is a record that a sweep has to find
        end = now + remember if remember > 0 else ""
        self._core.run_fenced(_DROP, queue, now, end, more_keys=self._core.keys.dropped_of(queue.uid))

    def purge(self, *, queue: Queue, now: float) -> None:
        self._core.run_fenced(_PURGE, queue, now)

    def stats(self, *, queue: Queue, now: float) -> Stats:
        free, claimed, *rows = self._core.run_fenced(_STATS, queue, now)
        return Stats(free, claimed, *messages_of(queue.uid, rows, now, start=0))

    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        """Count messages of the queue and the bytes of their bodies, for ``QueueStore.usage``.

        Each script counts a bounded number of them. A message that is claimed or released between two scripts may
        count twice or not at all.
        """
        messages = count_bytes = 0
        position: list[Any] = [1, 0]
        while position and messages < most:
            counted, size, *position = self._core.run_unfenced(_USAGE, queue.uid, now, *position, most - messages)
            messages += counted
            count_bytes += size
        return QueueUsage(messages, count_bytes)

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        runs: list[tuple[int, tuple[Argument, ...]]] = []
        for uid in uids:
            keys = self._core.keys.of(uid)
            arguments = (b"", now, now + WAITED_SECONDS, now + _RENEWED_BELOW_SECONDS)
            runs.append((self._core.slot_of(uid), (len(keys), *keys, *arguments)))
        found = {}
        for uid, reply in zip(uids, self._core.client.run_in_each_slot(_POSITION, runs), strict=True):
            if reply is not None:
                last, is_free, next_due = reply
                found[uid] = QueuePosition(int(last), bool(is_free), None if next_due is None else float(next_due))
        return found
