# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps the records of queues.

The store keeps copies and returns copies, because the metadata of a queue are mutable.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from threading import Lock

from zaqar.model import Queue, QueueName
from zaqar.storage.base import QueueRecordStore


class MemoryQueueRecords(QueueRecordStore):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._records: dict[tuple[str, str, str], Queue] = {}
        """By project, kind and name."""

    def create(self, *, queue: Queue) -> Queue:
        with self._lock:
            return _copy(self._records.setdefault(_key(queue), _copy(queue)))

    def get(self, *, project: str, kind: str, name: str) -> Queue | None:
        with self._lock:
            queue = self._records.get((project, kind, name))
            return None if queue is None else _copy(queue)

    def find(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        with self._lock:
            return {queue_name: _copy(self._records[queue_name]) for queue_name in names if queue_name in self._records}

    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        with self._lock:
            names = self._names_after(project, kind, after)[:limit]
            return [_copy(self._records[project, kind, name]) for name in names]

    def list_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        with self._lock:
            return self._names_after(project, kind, after)[:limit]

    def count(self, *, project: str, kind: str, most: int | None = None) -> int:
        with self._lock:
            return len(self._names_after(project, kind, "")[:most])

    def replace(self, *, queue: Queue, replaces: int | None = None) -> bool:
        generation = queue.generation - 1 if replaces is None else replaces
        with self._lock:
            old = self._records.get(_key(queue))
            if old is None or (old.uid, old.generation) != (queue.uid, generation):
                return False
            self._records[_key(queue)] = _copy(queue)
            return True

    def delete(self, *, queue: Queue) -> None:
        with self._lock:
            old = self._records.get(_key(queue))
            if old is not None and old.uid == queue.uid:
                del self._records[_key(queue)]

    def any_on_pool(self, *, pool: str) -> bool:
        with self._lock:
            return any(queue.pool == pool for queue in self._records.values())

    def _names_after(self, project: str, kind: str, after: str) -> list[str]:
        return sorted(key[2] for key in self._records if key[:2] == (project, kind) and key[2] > after)


def _key(queue: Queue) -> tuple[str, str, str]:
    return queue.project, queue.kind, queue.name


def _copy(queue: Queue) -> Queue:
    """The queue with a copy of its metadata, as if it had been written and read back."""
    return replace(queue, metadata=deepcopy(dict(queue.metadata)))
