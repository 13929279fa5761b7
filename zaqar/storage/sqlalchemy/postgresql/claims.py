# SPDX-License-Identifier: Apache-2.0
"""Claims on PostgreSQL: a claim is one statement unless exhausted messages have to be moved."""

from __future__ import annotations

from typing import Final

from zaqar.errors import NotFound
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue
from zaqar.storage.sqlalchemy.claims import ClaimQueries, SqlClaims, lease_of
from zaqar.storage.sqlalchemy.exhausted_messages import ExhaustedMessages
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.postgresql.core import FENCE_COLUMNS, PostgresqlCore, key_of_claim

_NEVER: Final = 2**31 - 1
"""A claim count that no message reaches."""


class PostgresqlClaimQueries(ClaimQueries, file="claims", dialects=["postgresql"]):
    claim: str
    claim_waiting: str
    get_claim: str


class PostgresqlClaims(SqlClaims):
    _core: PostgresqlCore
    _sql: PostgresqlClaimQueries

    def __init__(self, core: PostgresqlCore, exhausted: ExhaustedMessages) -> None:
        super().__init__(core, exhausted, PostgresqlClaimQueries.of("postgresql"))

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        values = {
            **lease_of(claim, now),
            "ttl": claim.ttl,
            "grace": claim.grace,
            "limit": limit,
            "passed_over_from": _NEVER,
            "exhausted_from": _NEVER,
        }
        dead_letter_queue = None
        if dead_letters is not None:
            dead_letter_queue = dead_letters.queue
            # With a dead letter queue in another store, exhausted messages stay where they are and are passed over.
            rule = "passed_over_from" if dead_letter_queue is None else "exhausted_from"
            values[rule] = dead_letters.max_claim_count
        sql = self._sql
        taken, found_exhausted = self._core.take_first_free(sql.claim, sql.claim_waiting, queue, values, now)
        if found_exhausted and dead_letters is not None and dead_letter_queue is not None:
            # The statement leased nothing. Claim again in a transaction that locks both fences and moves messages.
            result = self._claim_beside_exhausted(
                queue=queue,
                claim=claim,
                limit=limit,
                now=now,
                rules=dead_letters,
                dead_letter_queue=dead_letter_queue,
            )
            self._core.wake_waiting(dead_letter_queue)
            return result
        return ClaimResult(taken)

    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        rows = self._core.run(self._sql.get_claim, queue, {"claim": key_of_claim(claim_id), "now": now})
        end_of_claim = FENCE_COLUMNS + 3
        ttl, grace, started = rows[0][FENCE_COLUMNS:end_of_claim]
        if ttl is None:
            raise NotFound("There is no such claim.")
        held = (row[end_of_claim:] for row in rows if row[end_of_claim] is not None)
        return Claim(claim_id, ttl, grace, started), messages_of(queue.uid, held)

    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        super().renew(queue=queue, claim_id=key_of_claim(claim_id), ttl=ttl, grace=grace, now=now)

    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        super().release(queue=queue, claim_id=key_of_claim(claim_id), now=now)
