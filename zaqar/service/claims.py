# SPDX-License-Identifier: Apache-2.0
"""Claims: create, get, renew, release."""

import logging
import secrets
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from zaqar.clock import Clock
from zaqar.errors import MessagesUnreadable, NotFound, StaleQueue, StoreUnavailable
from zaqar.limits import Limits
from zaqar.model import Claim, DeadLetters, Message, QueueName
from zaqar.schemas.claims import Terms, parse_terms
from zaqar.schemas.fields import is_id
from zaqar.service.awaited import Awaited, unchanged
from zaqar.service.bodies import MOST_ROUNDS, Bodies
from zaqar.service.dead_letters import NEVER, hand_over
from zaqar.service.leases import Leases
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.service.queues import Queues
from zaqar.waiting.blocking import Attempt
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Kind

_log = logging.getLogger(__name__)

_MOST_SETTLED = 10_000


class Claimed(NamedTuple):
    """A claim and the messages it holds, as they were at ``now``."""

    claim: Claim
    messages: list[Message]
    now: float


class Claims:
    def __init__(self, *, queues: Queues, limits: Limits, clock: Clock, bodies: Bodies, hub: Hub) -> None:
        self._queues = queues
        self._hub = hub
        self._bodies = bodies
        self._leases = Leases(queues=queues, bodies=bodies, clock=clock)
        self._limits = limits
        self._clock = clock
        self._settled: dict[str, tuple[int, str]] = {}

    def prepare(self, address: QueueName, raw: bytes, *, limit: int) -> Awaited[Claimed]:
        """A lease of the first free messages, or an answer without messages if none is free or the queue is missing.

        The TTL of the claim starts when it is made. Messages that were claimed as often as the queue allows go to its
        dead letter queue instead. Those that cannot be decrypted stay leased for a while and are not in the answer.
        An attempt raises MessagesUnreadable if they are so many that the next request has to go on behind them.
        """
        ttl, grace = self._terms(raw)
        return Awaited(
            address,
            Kind.TAKER,
            lambda _: self._attempt(address, ttl, grace, limit),
            lambda: Claimed(self._new_claim(ttl, grace), [], self._clock()),
            unchanged,
        )

    def _terms(self, raw: bytes) -> tuple[int, int]:
        """The TTL and the grace of a claim, from the body of a request, which may be empty."""
        terms = parse_terms(raw, limits=self._limits) if raw else Terms()
        ttl = self._limits.default_claim_ttl if terms.ttl is None else terms.ttl
        return ttl, self._limits.default_claim_grace if terms.grace is None else terms.grace

    def _new_claim(self, ttl: int, grace: int) -> Claim:
        return Claim(secrets.token_hex(12), ttl, grace, self._clock())

    def _attempt(self, address: QueueName, ttl: int, grace: int, limit: int) -> Attempt[Claimed]:
        for _ in range(MOST_ROUNDS):
            claim = self._new_claim(ttl, grace)
            taken = self._take(address, claim, limit)
            readable = self._bodies.readable(address.project, taken)
            if readable or not taken:
                return Attempt(Claimed(claim, readable, claim.started), bool(readable), len(taken) == limit)
            self._leases.pass_over(address, claim.id)
        raise MessagesUnreadable

    def give_back(self, address: QueueName, claim_id: str) -> None:
        """Release a claim that no client was told of. No stage is called, as no client has asked for it.

        That the store is away is no error: then the claim ends by its TTL.
        """
        with suppress(StoreUnavailable):
            Claims.release(self, address, claim_id)

    def _take(self, address: QueueName, claim: Claim, limit: int) -> list[Message]:
        now = claim.started

        def take(known: ResolvedQueue) -> list[Message]:
            dead_letters = self._bury(address, known, limit, now)
            try:
                taken = known.store_ref.store.claims.claim(
                    queue=known.queue, claim=claim, limit=limit, now=now, dead_letters=dead_letters
                )
            except StaleQueue as stale:
                if dead_letters is not None and dead_letters.queue is not None and stale.uid == dead_letters.queue.uid:
                    self._queues.refresh(address._replace(name=dead_letters.queue.name), create=True)
                raise
            if dead_letters is not None and dead_letters.queue is not None and monotonic() >= self._hub.check_at:
                self._hub.may_have_received(dead_letters.queue, known.store_ref)
            return taken

        return self._queues.serve(address, take) or []

    def _bury(self, address: QueueName, known: ResolvedQueue, limit: int, now: float) -> DeadLetters | None:
        """What the claim has to do with exhausted messages; None if the queue has no dead letter queue.

        If the dead letter queue is on another store, this call has moved them there. If that store is away, the
        messages stay, the claim passes over them, and a later claim moves them. So a store that is away stops no
        consumer of another store.
        """
        rules = known.rules
        if rules.dead_letter_queue is None or rules.max_claim_count is None:
            # The rule may have been removed while dead letters were on their way to another store.
            if known.queue.generation > 1 and not self._is_settled(known, known):
                brought = hand_over(
                    known, known, most=NEVER, ttl=None, limit=limit, now=now, received=self._hub.received
                )
                self._settle(known, known, brought)
            return None
        passed_over = DeadLetters(None, rules.max_claim_count)
        ttl = rules.dead_letter_queue_messages_ttl
        dead_letters = address._replace(name=rules.dead_letter_queue)
        try:
            target = self._queues.ensure(dead_letters)
        except StoreUnavailable:
            _log.debug("The dead letter queue '%s' is away.", dead_letters.name)
            return passed_over
        in_one_store = target.store_ref is known.store_ref
        if in_one_store and self._is_settled(known, target):
            return DeadLetters(target.queue, rules.max_claim_count, ttl)
        if target.store_ref.away:
            return passed_over
        try:
            brought = hand_over(
                known,
                target,
                most=rules.max_claim_count,
                ttl=ttl,
                limit=limit,
                now=now,
                received=self._hub.received,
            )
        except StaleQueue as stale:
            if stale.uid == target.queue.uid:
                self._queues.refresh(dead_letters, create=True)
            raise
        self._settle(known, target, brought)
        return passed_over

    def _is_settled(self, known: ResolvedQueue, target: ResolvedQueue) -> bool:
        """Whether nothing can be left on its way from the time when the dead letters went to another store.

        Then the claim alone moves them within one store, as it always does without pools.
        """
        return not self._queues.spread or self._settled.get(known.queue.uid) == _pair(known, target)

    def _settle(self, known: ResolvedQueue, target: ResolvedQueue, brought: bool) -> None:
        if brought:
            if len(self._settled) >= _MOST_SETTLED:
                self._settled.clear()
            self._settled[known.queue.uid] = _pair(known, target)

    def get(self, address: QueueName, claim_id: str) -> Claimed:
        """A live claim and what it still holds, as far as that can be decrypted; NotFound otherwise."""
        if not is_id(claim_id):
            raise _no_claim(address)
        now = self._clock()
        found = self._queues.serve(
            address, lambda known: known.store_ref.store.claims.get(queue=known.queue, claim_id=claim_id, now=now)
        )
        if found is None:
            raise _no_claim(address)
        claim, held = found
        return Claimed(claim, self._bodies.readable(address.project, held), now)

    def renew(self, address: QueueName, claim_id: str, raw: bytes) -> None:
        """Start a live claim anew from now; what the request leaves out stays as it was."""
        terms = parse_terms(raw, limits=self._limits)
        if not is_id(claim_id):
            raise _no_claim(address)

        def start_anew(known: ResolvedQueue) -> bool:
            known.store_ref.store.claims.renew(
                queue=known.queue, claim_id=claim_id, ttl=terms.ttl, grace=terms.grace, now=self._clock()
            )
            return True

        if not self._queues.serve(address, start_anew):
            raise _no_claim(address)

    def release(self, address: QueueName, claim_id: str) -> None:
        """End a claim; what it still holds is free at once. An absent one is fine."""
        if not is_id(claim_id):
            return

        def release(known: ResolvedQueue) -> None:
            known.store_ref.store.claims.release(queue=known.queue, claim_id=claim_id, now=self._clock())
            self._hub.freed(known.queue)

        self._queues.serve(address, release)


def _no_claim(address: QueueName) -> NotFound:
    return NotFound(f"There is no such claim on '{address.name}', or it is over.")


def _pair(known: ResolvedQueue, target: ResolvedQueue) -> tuple[int, str]:
    return known.queue.generation, target.queue.uid
