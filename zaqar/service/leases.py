# SPDX-License-Identifier: Apache-2.0
"""Leases that the service itself takes on messages: to pop encrypted ones, and to pass over what cannot be read.

No store can decrypt, so none can say in one step whether a message may be removed. An encrypted message is leased,
decrypted, then removed under the lease: whatever a process that is killed in between leaves is free again when the
lease ends, and what cannot be decrypted is not removed at all.
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
"""How long a pop leases messages that have to be decrypted before they may be removed."""

_SAFE_SECONDS = 15
"""What has to be left of a lease when its messages are removed: longer than a store takes, and than clocks differ.

A store does not say which messages it found gone. So a pop must not ask for the removal when somebody else may have
leased the messages by the time at which the store gets to it; then both would answer them.
"""


class Leases:
    def __init__(self, *, queues: Queues, bodies: Bodies, clock: Clock) -> None:
        self._queues = queues
        self._bodies = bodies
        self._clock = clock

    def pop(self, address: QueueName, *, limit: int) -> tuple[list[Message], bool]:
        """Take the first free messages that can be read out for good; none only if no message was free.

        Also returns whether it has leased as many as it may, so that more may be free. Raises MessagesUnreadable if so
        many of the first ones cannot be read that the next request has to go on.
        """
        for _ in range(MOST_ROUNDS):
            claim = Claim(secrets.token_hex(12), POP_SECONDS, 0, self._clock())
            leased = self._lease(address, claim, limit)
            readable = self._bodies.readable(address.project, leased)
            removed = bool(readable) and self._remove(address, claim, readable)
            if len(readable) < len(leased) and (removed or not readable):
                self.pass_over(address, claim.id)
            if removed or not leased:
                return [_as_popped(message) for message in readable], len(leased) == limit
        raise MessagesUnreadable

    def _lease(self, address: QueueName, claim: Claim, limit: int) -> list[Message]:
        leased = self._queues.serve(
            address,
            lambda known: known.store_ref.store.claims.claim(
                queue=known.queue, claim=claim, limit=limit, now=claim.started
            ),
        )
        return leased or []

    def _remove(self, address: QueueName, claim: Claim, leased: list[Message]) -> bool:
        """Remove messages under the claim, all or nothing; False if the claim is over, or nearly."""

        def remove(known: ResolvedQueue) -> bool:
            now = self._clock()
            if known.queue.uid != leased[0].queue_uid or now > claim.expires - _SAFE_SECONDS:
                return False
            numbers = [message.sequence for message in leased]
            known.store_ref.store.messages.delete_many(
                queue=known.queue, sequences=numbers, claim_ids={claim.id}, now=now
            )
            return True

        try:
            return bool(self._queues.serve(address, remove))
        except ClaimOver:
            return False

    def pass_over(self, address: QueueName, claim_id: str) -> None:
        """Leave alone for a while what the claim still holds: it cannot be read, and others come past it meanwhile.

        Without a grace, so that this adds to the life of a message no more than the lease itself.
        """

        def renew(known: ResolvedQueue) -> None:
            known.store_ref.store.claims.renew(
                queue=known.queue, claim_id=claim_id, ttl=PASSED_OVER_SECONDS, grace=0, now=self._clock()
            )

        # What was popped has to be answered. Without the renewal the messages are met again a little sooner.
        with suppress(NotFound, StoreUnavailable):
            self._queues.serve(address, renew)


def _as_popped(message: Message) -> Message:
    """The message without the lease that the pop took, which is none of a consumer."""
    return replace(message, claim_id=None, claim_count=message.claim_count - 1)
