# SPDX-License-Identifier: Apache-2.0
"""Claims on SQLite. A transaction that writes runs alone, so a statement does not lock what it reads."""

from __future__ import annotations

from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue
from zaqar.storage.sqlalchemy.claims import ClaimQueries, SqlClaims, lease_of
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.exhausted_messages import ExhaustedMessages
from zaqar.storage.sqlalchemy.message_rows import messages_of


class SqliteClaimQueries(ClaimQueries, file="claims", dialects=["sqlite"]):
    claim_first: str
    claim_first_not_exhausted: str
    messages_of_claim: str


class SqliteClaims(SqlClaims):
    _sql: SqliteClaimQueries

    def __init__(self, core: StoreCore, exhausted: ExhaustedMessages) -> None:
        super().__init__(core, exhausted, SqliteClaimQueries.of("sqlite"))

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> ClaimResult:
        lease = {**lease_of(claim, now), "limit": limit}
        statement = self._sql.claim_first
        if dead_letters is not None:
            if dead_letters.queue is not None:
                return self._claim_beside_exhausted(
                    queue=queue,
                    claim=claim,
                    limit=limit,
                    now=now,
                    rules=dead_letters,
                    dead_letter_queue=dead_letters.queue,
                )
            statement, lease["max_claim_count"] = self._sql.claim_first_not_exhausted, dead_letters.max_claim_count
        while True:
            with self._core.database.write as connection:
                fence = self._core.promote_due(connection, queue, now)
                if fence is None:
                    continue  # which commits a batch of due messages; there may be more
                lease.update(segment=fence.segment, ready_from=fence.ready_from)
                # No other transaction writes until this one ends. So the messages that the statement finds are still
                # the first free ones when the claim and the counters are written, and a crash leaves none of it.
                taken = messages_of(queue.uid, connection.execute(statement, lease).fetchall())
                self._keep(connection, queue, fence, claim, taken, now)
                return ClaimResult(taken)

    def get(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        with self._core.database.read() as connection:
            key = {"segment": self._core.check_fence(connection, queue), "claim": claim_id, "now": now}
            claim = self._live_claim(connection, key)
            held = {**key, "held_until": claim.expires}
            rows = connection.execute(self._sql.messages_of_claim, held).fetchall()
        return claim, messages_of(queue.uid, rows)
