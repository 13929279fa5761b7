# SPDX-License-Identifier: Apache-2.0
"""Dead letters on their way to another store, or to another slot of a Cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from zaqar.model import DeadLetters, Message, Origin, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME, pack_letter
from zaqar.storage.redis.fences import FenceStore
from zaqar.storage.redis.records import record_of_letter, set_aside_of
from zaqar.storage.redis.scripts import load

_SET_ASIDE = load("set_aside", again=True)
_RECEIVE = load("receive", again=True)
_FORGET = load("forget", again=True)


class AsideStore(FenceStore):
    """The part of the message store that is about dead letters that no single script can move."""

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        reply = self._ask(_SET_ASIDE, queue, now, max_claim_count, limit)
        return list(set_aside_of(queue.uid, reply, now))

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        words: list[bytes | str | float] = [now + TOMBSTONE_LIFETIME]
        noted: tuple[bytes, ...] = ()
        if queue.notify:
            self._note_outbox_slot(queue.uid)
            noted = self._keys.noted_of(queue.uid)
        for letter in messages:
            if letter.origin is None:
                raise ValueError("a dead letter without an origin")
            words += (letter.origin.message_id, record_of_letter(letter, letter.origin), letter.expires)
            words.append(pack_letter(letter, now) if queue.notify else b"")
        self._ask(_RECEIVE, queue, now, *words, more_keys=noted)

    def forget_set_aside(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        self._ask(_FORGET, queue, now, *sequences)

    def _carry(self, queue: Queue, grave: Queue, limit: int, now: float, rules: DeadLetters) -> None:
        """Move what a claim would find worn out, step by step; whoever finds it half done goes on from there."""
        self.receive(queue=grave, messages=(), now=now)  # that queue has to be as it should before anything is changed
        while letters := self.set_aside(queue=queue, max_claim_count=rules.max_claim_count, limit=limit, now=now):
            addressed = []
            for letter in letters:
                named = replace(letter, origin=Origin(queue.name, letter.id, letter.claim_count))
                if rules.ttl is not None:
                    named = replace(named, created=now, expires=now + rules.ttl)
                addressed.append(named)
            self.receive(queue=grave, messages=addressed, now=now)
            self.forget_set_aside(queue=queue, sequences=[letter.sequence for letter in letters], now=now)
