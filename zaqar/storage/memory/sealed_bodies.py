# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that finds sealed bodies and replaces them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from zaqar.model import DeliveryKey, is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, SealedBodyStore
from zaqar.storage.memory.data import MessageData


class MemorySealedBodies(SealedBodyStore):
    """The key of a body is (uid, sequence) for a message, the DeliveryKey for a delivery, (uid, first) for a post."""

    def __init__(self, data: MessageData) -> None:
        self._data = data

    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        """All in one page, whatever the limit."""
        with self._data.lock:
            found = [each for each in self._bodies() if is_sealed(each.body)]
            return [each for each in found if not (without and each.body.startswith(without))], None

    def _bodies(self) -> Iterator[SealedBody]:
        """Bodies that may be sealed; of a post the first one that is."""
        for uid, queue in self._data.queues.items():
            for sequence, stored in (queue.messages | queue.set_aside).items():
                yield SealedBody(MESSAGE, (uid, sequence), stored.message.body)
        for key, delivery in self._data.deliveries.items():
            yield SealedBody(DELIVERY, key, delivery.body)
        for post, waiting in self._data.outbox.items():
            sealed = [draft.body for draft in waiting.posted.drafts if is_sealed(draft.body)]
            yield from (SealedBody(POST, post, body) for body in sealed[:1])

    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        with self._data.lock:
            for (kind, key, old), new in replacements:
                if kind == MESSAGE:
                    replaced += self._replace_message(key, old, new)
                elif kind == DELIVERY:
                    replaced += self._replace_delivery(key, old, new)
        return replaced

    def _replace_message(self, key: tuple[str, int], old: bytes, new: bytes) -> bool:
        uid, sequence = key
        queue = self._data.queues.get(uid)
        stored = None if queue is None else queue.messages.get(sequence) or queue.set_aside.get(sequence)
        if stored is None or stored.message.body != old:
            return False
        stored.message = replace(stored.message, body=new)
        return True

    def _replace_delivery(self, key: DeliveryKey, old: bytes, new: bytes) -> bool:
        stored = self._data.deliveries.get(key)
        if stored is None or stored.body != old:
            return False
        self._data.deliveries[key] = replace(stored, body=new)
        return True
