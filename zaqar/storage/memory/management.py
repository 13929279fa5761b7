# SPDX-License-Identifier: Apache-2.0
"""The control plane in the memory of one process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from threading import RLock
from typing import Any, Self

from zaqar.model import Catalog, Queue
from zaqar.storage.base import ManagementStore


class MemoryManagementStore(ManagementStore):
    def __init__(self) -> None:
        self._lock = RLock()
        self._queues: dict[tuple[str, str, str], Queue] = {}
        self._catalog = Catalog()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls()

    def create_queue(self, *, queue: Queue) -> Queue:
        with self._lock:
            return _copy(self._queues.setdefault(_key(queue), _copy(queue)))

    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None:
        with self._lock:
            queue = self._queues.get((project, kind, name))
            return None if queue is None else _copy(queue)

    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        with self._lock:
            names = sorted(name for name in self._names(project, kind) if name > after)
            return [_copy(self._queues[project, kind, name]) for name in names[:limit]]

    def count_queues(self, *, project: str, kind: str) -> int:
        with self._lock:
            return len(self._names(project, kind))

    def replace_queue(self, *, queue: Queue) -> bool:
        with self._lock:
            old = self._queues.get(_key(queue))
            if old is None or (old.uid, old.generation) != (queue.uid, queue.generation - 1):
                return False
            self._queues[_key(queue)] = _copy(queue)
            return True

    def delete_queue(self, *, queue: Queue) -> None:
        with self._lock:
            old = self._queues.get(_key(queue))
            if old is not None and old.uid == queue.uid:
                del self._queues[_key(queue)]

    def pool_has_queues(self, *, pool: str) -> bool:
        with self._lock:
            return any(queue.pool == pool for queue in self._queues.values())

    def get_catalog(self) -> Catalog:
        with self._lock:
            return copy.deepcopy(self._catalog)

    def replace_catalog(self, *, catalog: Catalog) -> bool:
        with self._lock:
            if self._catalog.version != catalog.version - 1:
                return False
            self._catalog = copy.deepcopy(catalog)
            return True

    def ping(self) -> None:
        return

    def close(self) -> None:
        return

    def _names(self, project: str, kind: str) -> list[str]:
        return [key[2] for key in self._queues if key[:2] == (project, kind)]


def _key(queue: Queue) -> tuple[str, str, str]:
    return queue.project, queue.kind, queue.name


def _copy(queue: Queue) -> Queue:
    """A queue that shares no mutable metadata with the given one, as if it had been written and read back."""
    return replace(queue, metadata=copy.deepcopy(dict(queue.metadata)))
