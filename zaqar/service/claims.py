# SPDX-License-Identifier: Apache-2.0
"""Claims: create, get, renew, release."""

import secrets
from typing import NamedTuple

from zaqar.clock import Clock
from zaqar.errors import NotFound, StaleQueue
from zaqar.limits import Limits
from zaqar.model import Address, Claim, DeadLetters, Message
from zaqar.schemas.claims import Terms, parse_terms
from zaqar.service.queues import Known, Queues


class Claimed(NamedTuple):
    """A claim and the messages it holds, as they were at ``now``."""

    claim: Claim
    messages: list[Message]
    now: float


class Claims:
    def __init__(self, *, queues: Queues, limits: Limits, clock: Clock) -> None:
        self._queues = queues
        self._limits = limits
        self._clock = clock

    def create(self, address: Address, raw: bytes, *, limit: int) -> Claimed:
        """Lease the first free messages; without messages where none is free or the queue is missing.

        Messages that were claimed as often as the queue allows go to its dead letter queue instead.
        """
        terms = parse_terms(raw, limits=self._limits) if raw else Terms()
        ttl = self._limits.default_claim_ttl if terms.ttl is None else terms.ttl
        grace = self._limits.default_claim_grace if terms.grace is None else terms.grace
        now = self._clock()
        claim = Claim(secrets.token_hex(12), ttl, grace, now)

        def take(known: Known) -> list[Message]:
            dead_letters = self._dead_letters(address, known)
            try:
                return known.store.claim(
                    queue=known.queue, claim=claim, limit=limit, now=now, dead_letters=dead_letters
                )
            except StaleQueue as stale:
                if dead_letters is not None and dead_letters.queue is not None and stale.uid == dead_letters.queue.uid:
                    self._queues.reopen(address._replace(name=dead_letters.queue.name), create=True)
                raise

        return Claimed(claim, self._queues.serve(address, take) or [], now)

    def _dead_letters(self, address: Address, known: Known) -> DeadLetters | None:
        rules = known.rules
        if rules.dead_letter_queue is None or rules.max_claim_count is None:
            return None
        target = self._queues.ensure(address._replace(name=rules.dead_letter_queue))
        return DeadLetters(target.queue, rules.max_claim_count, rules.dead_letter_queue_messages_ttl)

    def get(self, address: Address, claim_id: str) -> Claimed:
        """A live claim and what it still holds; NotFound otherwise."""
        now = self._clock()
        found = self._queues.serve(
            address, lambda known: known.store.get_claim(queue=known.queue, claim_id=claim_id, now=now)
        )
        if found is None:
            raise _no_claim(address)
        return Claimed(*found, now)

    def renew(self, address: Address, claim_id: str, raw: bytes) -> None:
        """Start a live claim anew from now; what the request leaves out stays as it was."""
        terms = parse_terms(raw, limits=self._limits)

        def start_anew(known: Known) -> bool:
            known.store.renew_claim(
                queue=known.queue, claim_id=claim_id, ttl=terms.ttl, grace=terms.grace, now=self._clock()
            )
            return True

        if not self._queues.serve(address, start_anew):
            raise _no_claim(address)

    def release(self, address: Address, claim_id: str) -> None:
        """End a claim; what it still holds is free at once. An absent one is fine."""
        self._queues.serve(
            address,
            lambda known: known.store.release_claim(queue=known.queue, claim_id=claim_id, now=self._clock()),
        )


def _no_claim(address: Address) -> NotFound:
    return NotFound(f"There is no such claim on '{address.name}', or it is over.")
