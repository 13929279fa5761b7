# SPDX-License-Identifier: Apache-2.0
"""Dead letters on their way to another store, or to another slot of a Cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zaqar.model import Message, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME, DeadLetterStore, pack_dead_letter
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.message_records import dead_letters_of, record_of_dead_letter

_SET_ASIDE = load("dead_letters/set_aside", idempotent=True)
_RECEIVE = load("dead_letters/receive", idempotent=True)
_FORGET = load("dead_letters/forget", idempotent=True)


class RedisDeadLetters(DeadLetterStore):
    """The three steps of a hand-over. Each is one script, and each can be repeated."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        reply = self._core.run_fenced(_SET_ASIDE, queue, now, max_claim_count, limit)
        return list(dead_letters_of(queue.uid, reply, now))

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        self.append(queue=queue, messages=messages, now=now)

    def append(self, *, queue: Queue, messages: Sequence[Message], now: float) -> int:
        """Do what ``receive`` does, and return how many of the messages had not come before."""
        arguments: list[bytes | str | float] = [now + TOMBSTONE_LIFETIME]
        outbox_keys: tuple[bytes, ...] = ()
        if queue.notify:
            self._core.slots.record_outbox(queue.uid)
            outbox_keys = self._core.keys.posts_of(queue.uid)
        for letter in messages:
            if letter.origin is None:
                raise ValueError("a dead letter without an origin")
            arguments += (letter.origin.message_id, record_of_dead_letter(letter, letter.origin), letter.expires)
            arguments.append(pack_dead_letter(letter, now) if queue.notify else b"")
        return int(self._core.run_fenced(_RECEIVE, queue, now, *arguments, more_keys=outbox_keys))

    def forget(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        self._core.run_fenced(_FORGET, queue, now, *sequences)
