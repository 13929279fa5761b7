# SPDX-License-Identifier: Apache-2.0
"""Claims. A state names the claim and its end, so the messages of a claim that ended are free whoever looks."""

from __future__ import annotations

from typing import Any

from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, DeadLetters, Message, Queue
from zaqar.storage.redis.aside import AsideStore
from zaqar.storage.redis.fences import ABSENT, STALE_GRAVE, WORN_OUT
from zaqar.storage.redis.records import claim_of, messages_of, pack_claim
from zaqar.storage.redis.scripts import load
from zaqar.storage.redis.wire import Word

_CLAIM = load("claim")
_GET = load("get_claim", again=True, writes=False)
_RENEW = load("renew", again=True)
_RELEASE = load("release", again=True)


class ClaimStore(AsideStore):
    """The part of the message store that is about claims."""

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        ends = claim.expires
        words: tuple[Word, ...] = (limit, claim.id, ends, ends + claim.grace, pack_claim(claim))
        if dead_letters is None:
            reply = self._ask(_CLAIM, queue, now, *words)
        else:
            reply = self._claim_living(queue, words, limit, now, dead_letters)
        return list(messages_of(queue.uid, reply, now))

    def _claim_living(self, queue: Queue, words: tuple[Word, ...], limit: int, now: float, rules: DeadLetters) -> Any:
        grave = rules.queue
        words += (rules.max_claim_count,)
        if grave is None:
            return self._ask(_CLAIM, queue, now, *words)
        expires = b"" if rules.ttl is None else now + rules.ttl
        fate: tuple[Word, ...] = (grave.generation, queue.name, expires)
        more_keys = () if self._redis.is_cluster else self._keys.of(grave.uid)
        if grave.uid != queue.uid and (self._redis.is_cluster or grave.notify):
            # Two queues of a Cluster lie in two slots, which no script reaches together; and what is notified is noted
            # by who receives it.
            fate, more_keys = (b"tell",), ()
        while (reply := self._ask(_CLAIM, queue, now, *words, *fate, more_keys=more_keys)) == WORN_OUT:
            self._carry(queue, grave, limit, now, rules)
        if reply == STALE_GRAVE:
            raise StaleQueue(grave.uid)
        return reply

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        reply = self._ask(_GET, queue, now, claim_id)
        if reply == ABSENT:
            raise NotFound("There is no such claim.")
        return claim_of(claim_id, reply[0]), list(messages_of(queue.uid, reply, now))

    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        words = ("" if ttl is None else ttl, "" if grace is None else grace)
        if self._ask(_RENEW, queue, now, claim_id, *words) == ABSENT:
            raise NotFound("There is no such claim.")

    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        self._ask(_RELEASE, queue, now, claim_id)
