# SPDX-License-Identifier: Apache-2.0
"""Claims on Redis.

The stored state of a message names its claim and the end of the claim. So when a claim is over, its messages are free
for every reader, even before a script has promoted them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Origin, Queue
from zaqar.storage.base import ClaimStore
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import HAS_EXHAUSTED, MORE_IS_DUE, NO_CLAIM, STALE_DEAD_LETTER_QUEUE, RedisCore
from zaqar.storage.redis.dead_letters import RedisDeadLetters
from zaqar.storage.redis.message_records import claim_of, messages_of, pack_claim

_CLAIM = load("claims/claim")
_GET = load("claims/get", idempotent=True, durable=False)
_RENEW = load("claims/renew", idempotent=True)
_RELEASE = load("claims/release", idempotent=True)


class RedisClaims(ClaimStore):
    """Leases of messages. ``dead_letters`` moves exhausted messages that no single script can move."""

    def __init__(self, core: RedisCore, dead_letters: RedisDeadLetters) -> None:
        self._core = core
        self._dead_letters = dead_letters

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        ends = claim.expires
        arguments: tuple[Argument, ...] = (limit, claim.id, ends, ends + claim.grace, pack_claim(claim))
        moved = 0
        if dead_letters is None:
            reply = self._core.run_fenced(_CLAIM, queue, now, *arguments)
        else:
            reply, moved = self._claim_unexhausted(queue, arguments, limit, now, dead_letters)
        return ClaimResult(list(messages_of(queue.uid, reply, now)), moved)

    def _claim_unexhausted(
        self, queue: Queue, arguments: tuple[Argument, ...], limit: int, now: float, rules: DeadLetters
    ) -> tuple[Any, int]:
        """Claim, and move the exhausted messages that the claim meets to the dead letter queue.

        Returns the reply of the script that leased the messages, and how many were moved by all scripts.
        """
        target = rules.queue
        arguments += (rules.max_claim_count,)
        if target is None:
            return self._core.run_fenced(_CLAIM, queue, now, *arguments), 0
        is_cluster = self._core.client.is_cluster
        if target.uid != queue.uid and (is_cluster or target.notify):
            # Two queues of a Cluster lie in two slots, which no script reaches together. And a message that subscribers
            # are notified of needs a post, which only ``receive`` makes. So the script only tells that there are some.
            destination: tuple[Argument, ...] = (b"tell",)
            more_keys: tuple[bytes, ...] = ()
        else:
            # The claim script moves them itself, in the same atomic step.
            destination = (target.generation, queue.name, b"" if rules.ttl is None else now + rules.ttl)
            more_keys = () if is_cluster else self._core.keys.of(target.uid)
        moved = 0
        while True:
            reply = self._core.run_fenced(_CLAIM, queue, now, *arguments, *destination, more_keys=more_keys)
            if reply == HAS_EXHAUSTED:
                # Nothing was claimed. Move them and claim again. Others may exhaust messages meanwhile, but only with a
                # claim that takes and then loses them, so this ends.
                moved += self._move_exhausted(queue, target, limit, now, rules)
            elif reply == STALE_DEAD_LETTER_QUEUE:
                # The script has changed nothing. The caller resolves the dead letter queue again.
                raise StaleQueue(target.uid)
            elif reply[0] == MORE_IS_DUE:
                # The script has moved as many messages as one script may, and leased none. It removed them from the
                # queue, so this ends.
                moved += reply[1]
            else:
                return reply, moved + reply[0]

    def _move_exhausted(self, queue: Queue, target: Queue, limit: int, now: float, rules: DeadLetters) -> int:
        """Move the exhausted messages that a claim would meet, in three steps that can each be repeated.

        A message is at each moment in the queue, set aside beside it, in the dead letter queue, or both set aside and
        in the dead letter queue. A crash leaves it there, and the claim of another process finishes the hand-over:
        ``set_aside`` returns first what an earlier call has set aside, and ``receive`` ignores a message that came
        before. Two processes that do so at the same time do the same steps, each message arrives once. Returns how many
        arrived by this call.
        """
        arrived = 0
        # Check the fence of the dead letter queue first: if it is stale, nothing must be set aside.
        self._dead_letters.receive(queue=target, messages=(), now=now)
        while exhausted := self._dead_letters.set_aside(
            queue=queue, max_claim_count=rules.max_claim_count, limit=limit, now=now
        ):
            moved = []
            for message in exhausted:
                letter = replace(message, origin=Origin(queue.name, message.id, message.claim_count))
                if rules.ttl is not None:
                    letter = replace(letter, created=now, expires=now + rules.ttl)
                moved.append(letter)
            arrived += self._dead_letters.append(queue=target, messages=moved, now=now)
            # Only now: if it was forgotten before it was received, a crash in between would lose it.
            sequences = [message.sequence for message in exhausted]
            self._dead_letters.forget(queue=queue, sequences=sequences, now=now)
        return arrived

    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        reply = self._core.run_fenced(_GET, queue, now, claim_id)
        if reply == NO_CLAIM:
            raise NotFound("There is no such claim.")
        return claim_of(claim_id, reply[0]), list(messages_of(queue.uid, reply, now))

    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        arguments = ("" if ttl is None else ttl, "" if grace is None else grace)
        if self._core.run_fenced(_RENEW, queue, now, claim_id, *arguments) == NO_CLAIM:
            raise NotFound("There is no such claim.")

    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        self._core.run_fenced(_RELEASE, queue, now, claim_id)
