# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps queues as a whole: fences, purge, statistics and positions."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from zaqar.errors import QueueDropped
from zaqar.model import Queue, QueuePosition, QueueUsage, Stats
from zaqar.storage.base import TOMBSTONE_LIFETIME, QueueStore
from zaqar.storage.memory.data import MessageData, StoredQueue


class MemoryQueues(QueueStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def open(self, *, queue: Queue, now: float) -> int:
        with self._data.lock:
            if self._data.tombstones.get(queue.uid, now) > now:
                raise QueueDropped(queue.uid)
            self._data.tombstones.pop(queue.uid, None)
            stored = self._data.queues.setdefault(queue.uid, StoredQueue(queue.uid, queue.generation))
            stored.generation = max(stored.generation, queue.generation)
            return stored.generation

    def drop(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        with self._data.lock:
            self._data.queues.pop(queue.uid, None)
            if remember > 0:
                until = max(now + remember, self._data.tombstones.get(queue.uid, now))
                self._data.tombstones[queue.uid] = until
                for post in [key for key in self._data.outbox if key[0] == queue.uid]:
                    del self._data.outbox[post]
                for delivery in [key for key in self._data.deliveries if key.queue_uid == queue.uid]:
                    del self._data.deliveries[delivery]

    def purge(self, *, queue: Queue, now: float) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            stored.messages.clear()
            stored.claims.clear()
            stored.set_aside.clear()

    def stats(self, *, queue: Queue, now: float) -> Stats:
        with self._data.lock:
            messages = list(self._data.check_fence(queue).read_all(now))
            if not messages:
                return Stats()
            claimed = sum(message.claim_id is not None for message in messages)
            return Stats(len(messages) - claimed, claimed, messages[0], messages[-1])

    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        with self._data.lock:
            stored = self._data.queues.get(queue.uid)
            found = () if stored is None else islice(stored.read_all(now, delayed=True), most)
            sizes = [len(message.body) for message in found]
            return QueueUsage(len(sizes), sum(sizes))

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        with self._data.lock:
            found = (self._data.queues[uid] for uid in uids if uid in self._data.queues)
            return {stored.uid: _position(stored, now) for stored in found}


def _position(stored: StoredQueue, now: float) -> QueuePosition:
    dues = []
    for message in stored.read_all(now, delayed=True):
        if message.due is not None:
            dues.append(message.due)
        elif message.claim_id is not None:
            dues.append(stored.claims[message.claim_id].expires)
    return QueuePosition(stored.last, next(stored.free(now), None) is not None, min(dues, default=None))
