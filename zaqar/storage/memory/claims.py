# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that leases messages to claims.

A message keeps the id of its claim when the claim is over. ``StoredQueue.read`` compares that id with the live claims,
so the end of a claim changes no message.
"""

from __future__ import annotations

import math
from dataclasses import replace

from zaqar.errors import NotFound
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Origin, Queue
from zaqar.storage.base import ClaimStore
from zaqar.storage.memory.data import MessageData, StoredQueue


class MemoryClaims(ClaimStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            moved = 0
            max_claim_count = math.inf if dead_letters is None else dead_letters.max_claim_count
            free, exhausted = stored.first_free(limit, now, max_claim_count)
            if dead_letters is not None and dead_letters.queue is not None and exhausted:
                # The fence of the second queue is checked before anything changes: StaleQueue leaves no trace.
                self._data.check_fence(dead_letters.queue)
                for message in exhausted:
                    del stored.messages[message.sequence]
                    letter = _dead_letter(message, queue.name, dead_letters.ttl, now)
                    self._data.append_dead_letter(dead_letters.queue, letter, now)
                moved = len(exhausted)
            if free:
                stored.claims[claim.id] = claim
            leased = [_lease(stored, replace(each, claim_count=each.claim_count + 1), claim) for each in free]
            return ClaimResult(leased, moved)

    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            return _live(stored, claim_id, now), _held(stored, claim_id, now)

    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            old = _live(stored, claim_id, now)
            held = _held(stored, claim_id, now)
            claim = Claim(claim_id, old.ttl if ttl is None else ttl, old.grace if grace is None else grace, started=now)
            stored.claims[claim_id] = claim
            for message in held:
                _lease(stored, message, claim)

    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        with self._data.lock:
            self._data.check_fence(queue).claims.pop(claim_id, None)


def _live(stored: StoredQueue, claim_id: str, now: float) -> Claim:
    claim = stored.live_claim(claim_id, now)
    if claim is None:
        raise NotFound("There is no such claim.")
    return claim


def _held(stored: StoredQueue, claim_id: str, now: float) -> list[Message]:
    return [message for message in stored.read_all(now) if message.claim_id == claim_id]


def _lease(stored: StoredQueue, message: Message, claim: Claim) -> Message:
    """Store the message under the claim, and let it live at least until the end of the claim plus its grace."""
    leased = replace(message, claim_id=claim.id, expires=max(message.expires, claim.expires + claim.grace))
    stored.messages[message.sequence].message = leased
    return leased


def _dead_letter(message: Message, queue_name: str, ttl: int | None, now: float) -> Message:
    """The exhausted message as it goes to the dead letter queue. With a ``ttl`` its life begins anew."""
    letter = replace(message, claim_count=0, origin=Origin(queue_name, message.id, message.claim_count))
    return letter if ttl is None else replace(letter, created=now, expires=now + ttl)
