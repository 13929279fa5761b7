# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that hands dead letters over to another message store, or receives them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice

from zaqar.model import Message, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME, DeadLetterStore
from zaqar.storage.memory.data import MessageData

BATCH = 500
"""Maximum number of messages that are set aside at a time."""


class MemoryDeadLetters(DeadLetterStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            _, exhausted = stored.first_free(limit, now, max_claim_count)
            for message in exhausted[: max(0, BATCH - len(stored.set_aside))]:
                moved = stored.messages.pop(message.sequence)
                moved.message = message
                stored.set_aside[message.sequence] = moved
            return [each.message for each in islice(stored.set_aside.values(), BATCH)]

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            for letter in messages:
                if letter.origin is None:
                    raise ValueError("a dead letter without an origin")
                if letter.origin.message_id not in stored.received:
                    self._data.append_dead_letter(queue, replace(letter, claim_id=None, claim_count=0), now)
                    stored.received[letter.origin.message_id] = now + TOMBSTONE_LIFETIME

    def forget(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            for sequence in sequences:
                stored.set_aside.pop(sequence, None)
