# SPDX-License-Identifier: Apache-2.0
"""Leases that the service itself takes on messages: to pop encrypted messages, and to skip unreadable ones.

A store cannot decrypt, so it cannot decide in one step whether a message may be removed. A pop of an encrypted message
leases it, decrypts it, and removes it under the lease. If the process is killed in between, the message is free again
when the lease ends. A message that cannot be decrypted is not removed. ``Messages`` and ``Claims`` use this module.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import replace

from zaqar.clock import Clock
from zaqar.errors import ClaimOver, MessagesUnreadable, NotFound, StoreUnavailable
from zaqar.model import Claim, Message, QueueName
from zaqar.service.bodies import MOST_ROUNDS, PASSED_OVER_SECONDS, Bodies
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.service.queues import Queues

POP_SECONDS = 30
"""How long a pop leases encrypted messages. It decrypts and removes them within this time."""

_SAFE_SECONDS = 15
"""A pop removes its messages only while its lease has this long to go: more than a store call and the clock skew.

The removal does not report messages that are already gone. If the lease could expire before the store handles the
removal, another client could lease the messages meanwhile, and both would return them.
"""


class Leases:
    """Takes and renews leases for pops and claims. Threads may share it."""

    def __init__(self, *, queues: Queues, bodies: Bodies, clock: Clock) -> None:
        self._queues = queues
        self._bodies = bodies
        self._clock = clock

    def pop(self, queue_name: QueueName, *, limit: int) -> tuple[list[Message], bool]:
        """Remove and return the first free messages that can be decrypted; none only if no message was free.

        Also returns whether it leased ``limit`` messages, so that more may be free. Raises MessagesUnreadable if very
        many of the first messages cannot be decrypted; a retry continues after them.
        """
        for _ in range(MOST_ROUNDS):
            claim = Claim(secrets.token_hex(12), POP_SECONDS, 0, self._clock())
            leased = self._lease(queue_name, claim, limit)
            readable = self._bodies.readable(queue_name.project, leased)
            removed = bool(readable) and self._remove(queue_name, claim, readable)
            if len(readable) < len(leased) and (removed or not readable):
                self.pass_over(queue_name, claim.id)
            if removed or not leased:
                return [_as_popped(message) for message in readable], len(leased) == limit
        raise MessagesUnreadable

    def _lease(self, queue_name: QueueName, claim: Claim, limit: int) -> list[Message]:
        leased = self._queues.serve(
            queue_name,
            lambda resolved: (
                resolved.store_ref.store.claims.claim(
                    queue=resolved.queue, claim=claim, limit=limit, now=claim.started
                ).messages
            ),
        )
        return leased or []

    def _remove(self, queue_name: QueueName, claim: Claim, leased: list[Message]) -> bool:
        """Remove messages under the claim, all or none. Returns False if the claim is over or about to expire."""

        def remove(resolved: ResolvedQueue) -> bool:
            now = self._clock()
            if resolved.queue.uid != leased[0].queue_uid or now > claim.expires - _SAFE_SECONDS:
                return False
            numbers = [message.sequence for message in leased]
            resolved.store_ref.store.messages.delete_many(
                queue=resolved.queue, sequences=numbers, claim_ids={claim.id}, now=now
            )
            return True

        try:
            return bool(self._queues.serve(queue_name, remove))
        except ClaimOver:
            return False

    def pass_over(self, queue_name: QueueName, claim_id: str) -> None:
        """Renew the lease on messages that cannot be decrypted, so that other clients skip them for a while.

        The lease has no grace, so it does not make messages live longer than the lease itself.
        """

        def renew(resolved: ResolvedQueue) -> None:
            resolved.store_ref.store.claims.renew(
                queue=resolved.queue, claim_id=claim_id, ttl=PASSED_OVER_SECONDS, grace=0, now=self._clock()
            )

        # The caller has messages to return, so an error must not end the request. Without the renewal the unreadable
        # messages are free a little earlier.
        with suppress(NotFound, StoreUnavailable):
            self._queues.serve(queue_name, renew)


def _as_popped(message: Message) -> Message:
    """Return the message without the lease of the pop, which does not count as a claim of a consumer."""
    return replace(message, claim_id=None, claim_count=message.claim_count - 1)
