# SPDX-License-Identifier: Apache-2.0
"""Claims. The end of a claim is the ``due`` of its messages, always, so the messages of a claim that ended are free."""

from __future__ import annotations

from typing import Any

from zaqar.errors import NotFound
from zaqar.model import Claim, DeadLetters, Message, Queue
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.dead_letters import DeadLetterStore
from zaqar.storage.sqlalchemy.rows import messages_of
from zaqar.storage.sqlalchemy.sql import json_array


class ClaimStore(DeadLetterStore):
    """The part of the message store that is about claims."""

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        sql = self._statements.claims
        lease = {
            "now": now,
            "new_claim_id": claim.id,
            "end": claim.expires,
            "life": claim.expires + claim.grace,
        }
        while True:
            with self._database.write as connection:
                if dead_letters is not None and dead_letters.queue is not None:
                    self._lock_in_order(connection, queue, dead_letters.queue)
                fence = self._settled(connection, queue, now)
                if fence is None:
                    continue
                if dead_letters is None:
                    first = {"segment": fence.segment, "ready_from": fence.ready_from, "limit": limit}
                    rows = connection.execute(sql.take, {**lease, **first}).fetchall()
                elif dead_letters.queue is None:
                    first = {"segment": fence.segment, "ready_from": fence.ready_from, "limit": limit}
                    most = {"max_claim_count": dead_letters.max_claim_count}
                    rows = connection.execute(sql.take_fresh, {**lease, **first, **most}).fetchall()
                else:
                    ids = self._bury(connection, queue, fence, limit, now, dead_letters, dead_letters.queue)
                    if ids is None:
                        continue
                    rows = connection.execute(sql.take_these, {**lease, "ids": json_array(ids)}).fetchall()
                taken = messages_of(queue.uid, rows)
                self._count_taken(connection, queue.uid, fence, taken, now, claimed=len(taken))
                if taken:
                    connection.execute(sql.insert, _row_of(fence.segment, claim))
                return taken

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        with self._database.read() as connection:
            key = {"segment": self._segment(connection, queue), "claim": claim_id, "now": now}
            claim = self._live(connection, key)
            rows = connection.execute(self._statements.claims.held, {**key, "held_until": claim.expires}).fetchall()
        return claim, messages_of(queue.uid, rows)

    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        sql = self._statements.claims
        with self._database.write as connection:
            key = {"segment": self._segment(connection, queue), "claim": claim_id, "now": now}
            old = self._live(connection, key)
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
            connection.execute(sql.update, change)
            connection.execute(sql.renew, change)

    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        sql = self._statements.claims
        with self._database.write as connection:
            fence = self._look(connection, queue, now)
            key = {"segment": fence.segment, "claim": claim_id}
            for (end,) in connection.execute(sql.delete, key).fetchall():
                freed = connection.execute(sql.release, {**key, "held_until": end}).fetchall()
                if freed:
                    ready_from = min(fence.ready_from, min(freed)[0])
                    self._count(connection, queue.uid, ready=len(freed), claimed=-len(freed), ready_from=ready_from)

    def _live(self, connection: Connection, key: dict[str, Any]) -> Claim:
        row = connection.execute(self._statements.claims.get, key).fetchone()
        if row is None:
            raise NotFound("There is no such claim.")
        ttl, grace, started = row
        return Claim(key["claim"], ttl, grace, started)


def _row_of(segment: int, claim: Claim) -> dict[str, Any]:
    return {
        "segment": segment,
        "claim": claim.id,
        "ttl": claim.ttl,
        "grace": claim.grace,
        "started": claim.started,
        "end": claim.expires,
    }
