# SPDX-License-Identifier: Apache-2.0
"""Claims. The end of a claim is the ``due`` of its messages, always, so the messages of a claim that ended are free."""

from __future__ import annotations

from typing import Any

from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, DeadLetters, Message, Queue, message_id
from zaqar.storage.sqlalchemy.fences import BATCH, Fence, FenceStore
from zaqar.storage.sqlalchemy.rows import messages_of
from zaqar.storage.sqlalchemy.sql import numbers
from zaqar.storage.sqlalchemy.transactions import Connection


class ClaimStore(FenceStore):
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
                fence = self._settled(connection, queue, now)
                if fence is None:
                    continue
                if dead_letters is None:
                    first = {"segment": fence.segment, "ready_from": fence.ready_from, "limit": limit}
                    rows = connection.execute(sql.take, {**lease, **first}).fetchall()
                else:
                    ids = self._bury(connection, queue, fence, limit, now, dead_letters)
                    if ids is None:
                        continue
                    rows = connection.execute(sql.take_these, {**lease, "ids": numbers(ids)}).fetchall()
                taken = messages_of(queue.uid, rows)
                self._count_taken(connection, queue.uid, fence, taken, claimed=len(taken))
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

    # -- dead letters ------------------------------------------------------------------------------------------------

    def _bury(
        self, connection: Connection, queue: Queue, fence: Fence, limit: int, now: float, rules: DeadLetters
    ) -> list[int] | None:
        """Move the worn out among the first free messages; the ids of the ``limit`` living ones before and after them.

        None where a batch was moved and there may be more: the caller commits it and begins again.
        """
        living: list[int] = []
        dead: list[tuple[Any, ...]] = []
        # What is moved to the end of the same queue must not be met again.
        place = {
            "segment": fence.segment,
            "now": now,
            "ready_from": fence.ready_from,
            "end_of_queue": fence.next_sequence,
            "limit": limit + BATCH,
        }
        rows = connection.execute(self._statements.claims.candidates, place).fetchall()
        for row in rows:
            if len(living) == limit or len(dead) == BATCH:
                break
            number, _, claim_count, _, _ = row
            if claim_count >= rules.max_claim_count:
                dead.append(row)
            else:
                living.append(number)
        if dead:
            self._move(connection, queue, dead, now, rules)
        return None if len(dead) == BATCH and len(living) < limit else living

    def _move(
        self, connection: Connection, queue: Queue, dead: list[tuple[Any, ...]], now: float, rules: DeadLetters
    ) -> None:
        """Put messages at the end of the dead letter queue, whose fence is checked in the same statement."""
        grave = rules.queue
        key = {"uid": grave.uid, "generation": grave.generation}
        more = {"count": len(dead), "more_ready": len(dead), "more_delayed": 0}
        rows = connection.execute(self._statements.fences.append, {**key, **more}).fetchall()
        if not rows:
            raise StaleQueue(grave.uid)
        ((segment, end),) = rows
        moves = []
        for new_sequence, (number, sequence, _, created, expires) in enumerate(dead, end - len(dead)):
            move = {
                "message": number,
                "new_segment": segment,
                "new_sequence": new_sequence,
                "new_created": created if rules.ttl is None else now,
                "new_expires": expires if rules.ttl is None else now + rules.ttl,
                "from_queue": queue.name,
                "from_id": message_id(queue.uid, sequence),
            }
            moves.append(move)
        connection.executemany(self._statements.claims.move, moves)
        self._count(connection, queue.uid, ready=-len(dead))


def _row_of(segment: int, claim: Claim) -> dict[str, Any]:
    return {
        "segment": segment,
        "claim": claim.id,
        "ttl": claim.ttl,
        "grace": claim.grace,
        "started": claim.started,
        "end": claim.expires,
    }
