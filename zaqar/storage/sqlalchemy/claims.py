# SPDX-License-Identifier: Apache-2.0
"""Claims on an SQL database: what SQLite and PostgreSQL share.

The end of a claim is the column ``due`` of its messages, always. So the messages of a claim that ended are free without
any change. How messages are found and leased differs: see ``sqlite.claims`` and ``postgresql.claims``.
"""

from __future__ import annotations

from typing import Any

from zaqar.errors import NotFound
from zaqar.model import Claim, ClaimResult, DeadLetters, Message, Queue
from zaqar.storage.base import ClaimStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import BATCH, Fence, StoreCore, json_array
from zaqar.storage.sqlalchemy.exhausted_messages import ExhaustedMessages
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.queries import Queries


class ClaimQueries(Queries):
    claim_by_id: str
    delete_claim: str
    get_claim_row: str
    insert_claim: str
    release_messages: str
    renew_messages: str
    update_claim: str


class SqlClaims(ClaimStore):
    def __init__(self, core: StoreCore, exhausted: ExhaustedMessages, queries: ClaimQueries) -> None:
        self._core = core
        self._exhausted = exhausted
        self._sql: ClaimQueries = queries

    @retry_on_conflict
    def renew(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        with self._core.database.write as connection:
            key = {"segment": self._core.check_fence(connection, queue), "claim": claim_id, "now": now}
            old = self._live_claim(connection, key)
            new = Claim(claim_id, old.ttl if ttl is None else ttl, old.grace if grace is None else grace, started=now)
            change = {
                **key,
                "new_ttl": new.ttl,
                "new_grace": new.grace,
                "started": now,
                "end": new.expires,
                "life": new.expires + new.grace,
                "held_until": old.expires,
            }
            # The claim and its messages move together. A crash in between leaves the old end in both.
            connection.execute(self._sql.update_claim, change)
            connection.execute(self._sql.renew_messages, change)

    @retry_on_conflict
    def release(self, *, queue: Queue, claim_id: str, now: float) -> None:
        with self._core.database.write as connection:
            fence = self._core.read_fence(connection, queue, now)
            key = {"segment": fence.segment, "claim": claim_id}
            for (end,) in connection.execute(self._sql.delete_claim, key).fetchall():
                freed = connection.execute(self._sql.release_messages, {**key, "held_until": end}).fetchall()
                if freed:
                    # Searches must find the freed messages again, which may be before the place where they begin.
                    ready_from = min(fence.ready_from, min(freed)[0])
                    self._core.add_to_counters(
                        connection, queue.uid, ready=len(freed), claimed=-len(freed), ready_from=ready_from
                    )
        self._core.wake_waiting(queue)

    def _live_claim(self, connection: Connection, key: dict[str, Any]) -> Claim:
        row = connection.execute(self._sql.get_claim_row, key).fetchone()
        if row is None:
            raise NotFound("There is no such claim.")
        ttl, grace, started = row
        return Claim(key["claim"], ttl, grace, started)

    def _claim_beside_exhausted(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, rules: DeadLetters, dead_letter_queue: Queue
    ) -> ClaimResult:
        """Claim for a queue with a dead letter queue in this store: exhausted messages are moved there on the way."""
        moved = 0
        while True:
            taken, more = self._move_and_claim(
                queue=queue, claim=claim, limit=limit, now=now, rules=rules, dead_letter_queue=dead_letter_queue
            )
            moved += more
            if taken is not None:
                return ClaimResult(taken, moved)

    @retry_on_conflict
    def _move_and_claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, rules: DeadLetters, dead_letter_queue: Queue
    ) -> tuple[list[Message] | None, int]:
        """One transaction: move a batch of exhausted messages, and claim if no more of them come first.

        Returns the claimed messages and the number of messages that it moved. None instead of messages means that it
        only promoted due messages or moved exhausted ones. The caller then calls it again, so that others get their
        turn in between. A crash after it leaves nothing to be undone. A conflict repeats this transaction alone, so the
        batches before count once.
        """
        with self._core.database.write as connection:
            # The order of locks on PostgreSQL: the two fences by their uids, then messages as they are read. An
            # operation of one statement locks messages without the fence. If it deadlocks with this transaction, the
            # server rolls one of the two back, and that one runs again.
            self._exhausted.lock_in_order(connection, queue, dead_letter_queue)
            fence = self._core.promote_due(connection, queue, now)
            if fence is None:
                return None, 0
            ids, found = self._exhausted.sort_out(connection, fence, limit, now, rules.max_claim_count)
            if found:
                self._exhausted.move_to_dead_letter_queue(connection, queue, found, now, rules, dead_letter_queue)
                if len(found) == BATCH and len(ids) < limit:
                    # There may be more of them before the next claimable message.
                    return None, BATCH
            lease = {**lease_of(claim, now), "ids": json_array(ids)}
            rows = connection.execute(self._sql.claim_by_id, lease).fetchall()
            taken = messages_of(queue.uid, rows)
            self._keep(connection, queue, fence, claim, taken, now)
            return taken, len(found)

    def _keep(
        self, connection: Connection, queue: Queue, fence: Fence, claim: Claim, taken: list[Message], now: float
    ) -> None:
        """Count the leased messages and store the claim. Without messages there is no claim."""
        self._core.count_taken(connection, queue.uid, fence, taken, now, claimed=len(taken))
        if taken:
            row = {
                "segment": fence.segment,
                "claim": claim.id,
                "ttl": claim.ttl,
                "grace": claim.grace,
                "started": claim.started,
                "end": claim.expires,
            }
            connection.execute(self._sql.insert_claim, row)


def lease_of(claim: Claim, now: float) -> dict[str, Any]:
    """The parameters of the change that leases a message to a claim."""
    end = claim.expires
    return {"now": now, "new_claim_id": claim.id, "end": end, "life": end + claim.grace}
