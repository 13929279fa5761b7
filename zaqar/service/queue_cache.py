# SPDX-License-Identifier: Apache-2.0
"""A cache of queues, so that an operation does not have to read the management store. ``Queues`` owns it.

A cached queue needs no expiry: every operation of a message store checks it against the fence of the queue, and raises
StaleQueue if it is out of date. :class:`zaqar.service.queues.Queues` then reads the row again.
"""

from __future__ import annotations

from typing import NamedTuple

from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.limits import Limits
from zaqar.model import Queue, QueueName, QueueRules
from zaqar.schemas.queues import rules_of
from zaqar.storage.pools import Placement, StoreRef

CACHE_BYTES = 64 * 1024 * 1024
"""Memory of the cache: about 50,000 queues without metadata.

The oldest entry is removed first. Metadata count with their size in memory, which may be ten times the size of their
JSON.
"""

_ENTRY_BYTES = 700
"""Memory of a cached queue and its rules, without the strings and the metadata."""


class ResolvedQueue(NamedTuple):
    """A queue with the rules that its metadata set and the store that holds its messages."""

    queue: Queue
    rules: QueueRules
    store_ref: StoreRef


class QueueCache(BoundedCache[QueueName, ResolvedQueue]):
    """A bounded cache of queues by name. ``get`` may return a stale queue."""

    # PERF: it inherits get() instead of calling it, because every request calls get().

    def __init__(self, placement: Placement, limits: Limits) -> None:
        super().__init__(CACHE_BYTES)
        self._placement = placement
        self._limits = limits

    def remember(self, queue_name: QueueName, row: Queue) -> ResolvedQueue:
        """Cache the queue of a row that was just read, and return it. It replaces the cached queue of the same name."""
        resolved = ResolvedQueue(row, rules_of(row.metadata, self._limits), self._placement.store_of(row))
        strings = (queue_name, row.uid, row.project, row.kind, row.name, row.pool, resolved.rules.dead_letter_queue)
        self.put(queue_name, resolved, _ENTRY_BYTES + size_of(strings) + size_of(row.metadata))
        return resolved

    def provisional(self, queue: Queue) -> ResolvedQueue:
        """Resolve a queue that has no row yet, with the rules of empty metadata. It is not cached."""
        return ResolvedQueue(queue, rules_of({}, self._limits), self._placement.provisional(queue.uid))
