# SPDX-License-Identifier: Apache-2.0
"""Claims: create, get, renew, release. The transports call it."""

import logging
import secrets
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from zaqar.clock import Clock
from zaqar.errors import MessagesUnreadable, NotFound, StaleQueue, StoreUnavailable
from zaqar.limits import Limits
from zaqar.metrics.families import CLAIMS
from zaqar.metrics.recorder import Recorder
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

_MOST_FINISHED = 10_000
"""Queues of which a process remembers that no dead letter is on its way to another store."""


class Claimed(NamedTuple):
    """A claim and the messages that it holds, as they were at ``now``."""

    claim: Claim
    messages: list[Message]
    now: float


class Claims:
    """The operations on claims. Threads may share it."""

    def __init__(
        self,
        *,
        queues: Queues,
        limits: Limits,
        clock: Clock,
        bodies: Bodies,
        hub: Hub,
        recorder: Recorder | None = None,
    ) -> None:
        self._queues = queues
        self._hub = hub
        self._bodies = bodies
        self._leases = Leases(queues=queues, bodies=bodies, clock=clock)
        self._limits = limits
        self._clock = clock
        self._recorder = recorder
        self._finished_handovers: dict[str, tuple[int, str]] = {}

    def prepare(self, queue_name: QueueName, raw: bytes, *, limit: int) -> Awaited[Claimed]:
        """Prepare a claim of the first ``limit`` free messages.

        The answer has no messages if none is free or the queue is missing. ``raw`` is the request body with TTL and
        grace, which may be empty. The TTL starts when the claim is made. Exhausted messages, which were claimed as
        often as the queue allows, go to its dead letter queue instead. Messages that cannot be decrypted stay leased
        for a while and are not in the answer. An attempt raises MessagesUnreadable if there are very many of these;
        then the next request continues after them.
        """
        ttl, grace = self._terms(raw)
        return Awaited(
            queue_name,
            Kind.TAKER,
            lambda _: self._attempt(queue_name, ttl, grace, limit),
            lambda: Claimed(self._new_claim(ttl, grace), [], self._clock()),
            unchanged,
        )

    def _terms(self, raw: bytes) -> tuple[int, int]:
        """Return the TTL and the grace of a claim, in seconds. ``raw`` is the request body and may be empty."""
        terms = parse_terms(raw, limits=self._limits) if raw else Terms()
        ttl = self._limits.default_claim_ttl if terms.ttl is None else terms.ttl
        return ttl, self._limits.default_claim_grace if terms.grace is None else terms.grace

    def _new_claim(self, ttl: int, grace: int) -> Claim:
        return Claim(secrets.token_hex(12), ttl, grace, self._clock())

    def _attempt(self, queue_name: QueueName, ttl: int, grace: int, limit: int) -> Attempt[Claimed]:
        for _ in range(MOST_ROUNDS):
            claim = self._new_claim(ttl, grace)
            taken = self._take(queue_name, claim, limit)
            readable = self._bodies.readable(queue_name.project, taken)
            if readable or not taken:
                return Attempt(Claimed(claim, readable, claim.started), bool(readable), len(taken) == limit)
            self._leases.pass_over(queue_name, claim.id)
        raise MessagesUnreadable

    def count(self, claimed: Claimed, *, waited: bool) -> None:
        """Count the answer to a request for a claim. ``waited``: the request was ready to wait for messages."""
        if self._recorder is not None:
            outcome = "filled" if claimed.messages else "empty"
            self._recorder.add(CLAIMS, (f"waited_{outcome}" if waited else outcome,))

    def give_back(self, queue_name: QueueName, claim_id: str) -> None:
        """Release a claim whose answer did not reach a client. No stage is called, because no client asked for it.

        If the store does not answer, this is no error: the claim expires after its TTL.
        """
        with suppress(StoreUnavailable):
            Claims.release(self, queue_name, claim_id)

    def _take(self, queue_name: QueueName, claim: Claim, limit: int) -> list[Message]:
        now = claim.started

        def take(resolved: ResolvedQueue) -> list[Message]:
            dead_letters = self._move_exhausted(queue_name, resolved, limit, now)
            try:
                taken = resolved.store_ref.store.claims.claim(
                    queue=resolved.queue, claim=claim, limit=limit, now=now, dead_letters=dead_letters
                ).messages
            except StaleQueue as stale:
                if dead_letters is not None and dead_letters.queue is not None and stale.uid == dead_letters.queue.uid:
                    self._queues.refresh(queue_name._replace(name=dead_letters.queue.name), create=True)
                raise
            if dead_letters is not None and dead_letters.queue is not None and monotonic() >= self._hub.check_at:
                self._hub.may_have_received(dead_letters.queue, resolved.store_ref)
            return taken

        return self._queues.serve(queue_name, take) or []

    def _move_exhausted(
        self, queue_name: QueueName, resolved: ResolvedQueue, limit: int, now: float
    ) -> DeadLetters | None:
        """Return the rule that the claim has to apply to exhausted messages; None if there is no dead letter queue.

        If the dead letter queue is on the same store, the claim moves exhausted messages itself, in its transaction. If
        it is on another store, this call moves them before the claim. If that store does not answer, the messages stay,
        the claim skips them, and a later claim moves them. So an outage of one store stops no consumer of another.
        """
        rules = resolved.rules
        if rules.dead_letter_queue is None or rules.max_claim_count is None:
            # The rule may have been removed while a hand-over was unfinished. Then messages are still set aside, and
            # this hands them over from the queue to itself, so that they can be claimed again.
            if resolved.queue.generation > 1 and not self._is_handover_finished(resolved, resolved):
                is_finished = hand_over(
                    resolved, resolved, most=NEVER, ttl=None, limit=limit, now=now, received=self._hub.received
                )
                self._note_handover(resolved, resolved, is_finished)
            return None
        passed_over = DeadLetters(None, rules.max_claim_count)
        ttl = rules.dead_letter_queue_messages_ttl
        dead_letters = queue_name._replace(name=rules.dead_letter_queue)
        try:
            target = self._queues.ensure(dead_letters)
        except StoreUnavailable:
            _log.debug("The store of the dead letter queue '%s' does not answer.", dead_letters.name)
            return passed_over
        # Messages that were set aside for another store come first: the claim moves exhausted messages itself only if
        # none of them is left.
        in_one_store = target.store_ref is resolved.store_ref
        if in_one_store and self._is_handover_finished(resolved, target):
            return DeadLetters(target.queue, rules.max_claim_count, ttl)
        if target.store_ref.failed_recently:
            return passed_over
        try:
            is_finished = hand_over(
                resolved,
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
        self._note_handover(resolved, target, is_finished)
        return passed_over

    def _is_handover_finished(self, resolved: ResolvedQueue, target: ResolvedQueue) -> bool:
        """Whether no message can still be set aside from a time when the dead letter queue was on another store.

        Then the claim alone moves exhausted messages within one store, as it always does without pools.
        """
        return not self._queues.spread or self._finished_handovers.get(resolved.queue.uid) == _pair(resolved, target)

    def _note_handover(self, resolved: ResolvedQueue, target: ResolvedQueue, is_finished: bool) -> None:
        if is_finished:
            if len(self._finished_handovers) >= _MOST_FINISHED:
                self._finished_handovers.clear()
            self._finished_handovers[resolved.queue.uid] = _pair(resolved, target)

    def get(self, queue_name: QueueName, claim_id: str) -> Claimed:
        """Return a live claim with the messages that it still holds, without messages that cannot be decrypted.

        Raises NotFound if there is no such claim, or if it is over.
        """
        if not is_id(claim_id):
            raise _no_claim(queue_name)
        now = self._clock()
        found = self._queues.serve(
            queue_name,
            lambda resolved: resolved.store_ref.store.claims.get(queue=resolved.queue, claim_id=claim_id, now=now),
        )
        if found is None:
            raise _no_claim(queue_name)
        claim, held = found
        return Claimed(claim, self._bodies.readable(queue_name.project, held), now)

    def renew(self, queue_name: QueueName, claim_id: str, raw: bytes) -> None:
        """Start the TTL of a live claim again from now. A field that the request body leaves out keeps its value.

        Raises NotFound if there is no such claim, or if it is over.
        """
        terms = parse_terms(raw, limits=self._limits)
        if not is_id(claim_id):
            raise _no_claim(queue_name)

        def renew(resolved: ResolvedQueue) -> bool:
            resolved.store_ref.store.claims.renew(
                queue=resolved.queue, claim_id=claim_id, ttl=terms.ttl, grace=terms.grace, now=self._clock()
            )
            return True

        if not self._queues.serve(queue_name, renew):
            raise _no_claim(queue_name)

    def release(self, queue_name: QueueName, claim_id: str) -> None:
        """End a claim. The messages that it still holds are free at once. An absent claim is no error."""
        if not is_id(claim_id):
            return

        def release(resolved: ResolvedQueue) -> None:
            resolved.store_ref.store.claims.release(queue=resolved.queue, claim_id=claim_id, now=self._clock())
            self._hub.freed(resolved.queue)

        self._queues.serve(queue_name, release)


def _no_claim(queue_name: QueueName) -> NotFound:
    return NotFound(f"There is no such claim on '{queue_name.name}', or it is over.")


def _pair(resolved: ResolvedQueue, target: ResolvedQueue) -> tuple[int, str]:
    # With the generation, because a change of the rules of the queue may start a hand-over again.
    return resolved.queue.generation, target.queue.uid
