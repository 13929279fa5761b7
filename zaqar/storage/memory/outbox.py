# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps posts until their deliveries are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from zaqar.model import Delivery, Posted, PostPosition
from zaqar.storage.base import OutboxStore
from zaqar.storage.memory.data import MessageData, StoredPost, in_turns


class MemoryOutbox(OutboxStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def take(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        with self._data.lock:
            of_queue: dict[str, list[StoredPost]] = defaultdict(list)
            for stored in self._data.outbox.values():
                if stored.due <= now:
                    of_queue[stored.posted.queue_uid].append(stored)
            taken = list(islice(in_turns(of_queue.values()), limit))
            for stored in taken:
                stored.due = until
            return [stored.posted for stored in taken]

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        key = posted.queue_uid, posted.first
        with self._data.lock:
            stored = self._data.outbox.get(key)
            if stored is None or stored.posted.position != posted.position:
                return False
            for delivery in deliveries:
                if not self._data.is_dropped(delivery):
                    self._data.deliveries.setdefault(delivery.key, delivery)
            if position is None:
                del self._data.outbox[key]
            else:
                stored.posted = replace(posted, position=position)
                stored.due = until
            return True
