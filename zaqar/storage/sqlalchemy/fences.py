# SPDX-License-Identifier: Apache-2.0
"""The fence of each queue, and what keeps the rows behind it in their places.

On SQLite every write runs alone (``BEGIN IMMEDIATE``); on PostgreSQL it locks the fence, and each message that it reads
in order to change it. Every read sees one moment. So whatever is read of the fence inside a transaction is in force
until the transaction ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from zaqar.errors import QueueDropped, StaleQueue, StoreUnavailable
from zaqar.model import Message, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.base.uncut import UncutMessageStore
from zaqar.storage.sqlalchemy.connection import Connection, Database
from zaqar.storage.sqlalchemy.sql import json_array
from zaqar.storage.sqlalchemy.statements import statements_for
from zaqar.storage.sqlalchemy.tables import CLAIMED, DELAYED, READY

BATCH = 500
"""Rows that one transaction ripens, moves or removes at most, so that it does not hold up other writers."""

FAR = 200
"""Numbers that a scan for READY messages may pass in vain before ``ready_from`` is moved for that alone."""

SKEW = 1.0
"""Seconds that the clock of another host may be behind: until then what has expired here may be alive there."""


class Fence(NamedTuple):
    """The fence of a queue as an operation finds it, and whether messages are due."""

    segment: int
    next_sequence: int
    ready_from: int
    due: bool


def dropped_row(uid: str, subscription_id: str, now: float, until: float) -> dict[str, Any]:
    """The tombstone for the deliveries of one subscription, or with '' for all of a queue."""
    return {"uid": uid, "subscription": subscription_id, "now": now, "until": until}


class FenceStore(UncutMessageStore):
    """The part of the message store that the other parts stand on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = statements_for(database.dialect)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls.on(Database.from_settings(settings))

    @classmethod
    def on(cls, database: Database) -> Self:
        """The store for that kind of database, which may be one of a subclass."""
        return cls(database)

    def open_queue(self, *, queue: Queue, now: float) -> int:
        sql = self._statements.fences
        with self._database.write as connection:
            row = connection.execute(sql.find, {"uid": queue.uid}).fetchone()
            if row is not None and row[2] is not None and now >= row[2]:
                connection.execute(sql.delete, {"uid": queue.uid})
                row = None
            if row is None:
                self._insert_fence(connection, queue, segment=self._new_segment(connection), forget_at=None)
                return queue.generation
            generation, _, forget_at = row
            if forget_at is not None:
                raise QueueDropped(queue.uid)
            if queue.generation > generation:
                connection.execute(sql.raise_generation, {"uid": queue.uid, "new_generation": queue.generation})
            return max(int(generation), queue.generation)

    def drop_queue(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        sql = self._statements.fences
        until = now + remember
        with self._database.write as connection:
            row = connection.execute(sql.find, {"uid": queue.uid}).fetchone()
            _, segment, forget_at = row or (None, None, None)
            if segment is not None:
                connection.execute(sql.discard_segment, {"segment": segment})
            if remember <= 0:
                if segment is not None:
                    connection.execute(sql.delete, {"uid": queue.uid})
            elif row is None:
                self._insert_fence(connection, queue, segment=None, forget_at=until)
            elif forget_at is None or forget_at < until:
                connection.execute(sql.bury, {"uid": queue.uid, "until": until})
            if remember > 0:
                connection.execute(sql.drop_deliveries, dropped_row(queue.uid, "", now, until))
        if segment is not None:
            self._clear_up(segment)

    def purge(self, *, queue: Queue, now: float) -> None:
        sql = self._statements.fences
        with self._database.write as connection:
            old = self._segment(connection, queue)
            new = self._new_segment(connection)
            connection.execute(sql.replace_segment, {"uid": queue.uid, "new_segment": new})
            connection.execute(sql.discard_segment, {"segment": old})
        self._clear_up(old)

    def durability(self) -> Mapping[str, str]:
        return self._database.durability()

    def ping(self) -> None:
        with self._database.read() as connection:
            connection.execute(self._statements.fences.ping).fetchone()

    def close(self) -> None:
        self._database.close()

    # -- inside a transaction ----------------------------------------------------------------------------------------

    def _segment(self, connection: Connection, queue: Queue) -> int:
        """Where the messages of the queue are; StaleQueue where the queue is not as the fence has it."""
        key = {"uid": queue.uid, "generation": queue.generation}
        row = connection.execute(self._statements.fences.segment, key).fetchone()
        if row is None:
            raise StaleQueue(queue.uid)
        return int(row[0])

    def _look(self, connection: Connection, queue: Queue, now: float) -> Fence:
        """The whole fence, for what needs READY messages in order; that takes that nothing is due."""
        key = {"uid": queue.uid, "generation": queue.generation, "now": now}
        row = connection.execute(self._statements.fences.look, key).fetchone()
        if row is None:
            raise StaleQueue(queue.uid)
        return Fence._make(row)

    def _count(
        self,
        connection: Connection,
        uid: str,
        *,
        ready: int = 0,
        claimed: int = 0,
        delayed: int = 0,
        ready_from: int | None = None,
    ) -> None:
        """Add to the counters, and move the place where scans for READY messages begin."""
        change = {
            "uid": uid,
            "more_ready": ready,
            "more_claimed": claimed,
            "more_delayed": delayed,
            "new_ready_from": ready_from,
        }
        connection.execute(self._statements.fences.count, change)

    def _count_taken(
        self, connection: Connection, uid: str, fence: Fence, taken: Sequence[Message], now: float, *, claimed: int = 0
    ) -> None:
        """After the first free messages were taken: scans begin behind them, or before what they passed over."""
        count = len(taken)
        end = taken[-1].sequence + 1 if taken else fence.next_sequence
        passed = end - fence.ready_from - count
        ready_from = None
        if count and not passed:
            ready_from = end
        elif passed > FAR:
            ready_from = self._first_free(connection, fence, now)
        if count or ready_from not in (None, fence.ready_from):
            self._count(connection, uid, ready=-count, claimed=claimed, ready_from=ready_from)

    def _first_free(self, connection: Connection, fence: Fence, now: float) -> int:
        """The number of the first READY message that is alive on any host, or the next one where there is none."""
        start = {"segment": fence.segment, "ready_from": fence.ready_from, "now": now - SKEW, "limit": 1}
        row = connection.execute(self._statements.messages.first_free, start).fetchone()
        return fence.next_sequence if row is None else int(row[0])

    def _settled(self, connection: Connection, queue: Queue, now: float) -> Fence | None:
        """The fence when nothing is due any more, so that READY messages are complete.

        None after a batch that was not the last: the transaction ends here, so that others get their turn, and the
        operation begins again.
        """
        fence = self._look(connection, queue, now)
        if not fence.due:
            return fence
        return self._look(connection, queue, now) if self._ripen(connection, queue, fence, now) else None

    def _settle(self, queue: Queue, now: float) -> None:
        """The same for who only reads: every batch in a transaction of its own."""
        fence = None
        while fence is None:
            with self._database.write as connection:
                fence = self._settled(connection, queue, now)

    def _ripen(self, connection: Connection, queue: Queue, fence: Fence, now: float) -> bool:
        """Bring one batch of what is due where it belongs; whether it was the last."""
        sql = self._statements.messages
        batch = {"segment": fence.segment, "now": now, "limit": BATCH}
        rows = connection.execute(sql.due_batch, batch).fetchall()
        live = [number for number, _, _, expired in rows if not expired]
        gone = [number for number, _, _, expired in rows if expired]
        if live:
            connection.execute(sql.ripen, {"ids": json_array(live)})
        if gone:
            connection.execute(sql.delete_several, {"ids": json_array(gone)})
        left = Counter(state for _, _, state, _ in rows)
        self._count(
            connection,
            queue.uid,
            ready=len(live),
            claimed=-left[CLAIMED],
            delayed=-left[DELAYED],
            ready_from=min([fence.ready_from, *(sequence for _, sequence, _, expired in rows if not expired)]),
        )
        return len(rows) < BATCH

    def _expire(self, connection: Connection, uid: str, segment: int, now: float, *, limit: int) -> int:
        """Remove up to ``limit`` expired messages of a queue; how many."""
        batch = {"segment": segment, "now": now, "limit": limit}
        rows = connection.execute(self._statements.messages.expire, batch).fetchall()
        if rows:
            gone = Counter(state for (state,) in rows)
            self._count(connection, uid, ready=-gone[READY], claimed=-gone[CLAIMED], delayed=-gone[DELAYED])
        return len(rows)

    def _new_segment(self, connection: Connection) -> int:
        ((number,),) = connection.execute(self._statements.fences.add_segment).fetchall()
        return int(number)

    def _insert_fence(
        self, connection: Connection, queue: Queue, *, segment: int | None, forget_at: float | None
    ) -> None:
        row = {"uid": queue.uid, "generation": queue.generation, "segment": segment, "forget_at": forget_at}
        connection.execute(self._statements.fences.insert, row)

    # -- what a purge or a drop leaves behind ------------------------------------------------------------------------

    def _clear_up(self, segment: int) -> None:
        """Remove the first rows of a segment that nobody can reach any more; a sweep removes the rest."""
        with suppress(StoreUnavailable):  # the purge or drop is done; what is left is nobody's but the sweep's
            for _ in range(4):
                if self._remove_garbage(segment, limit=BATCH) < BATCH:
                    return

    def _remove_garbage(self, segment: int, *, limit: int) -> int:
        """Remove up to ``limit`` rows, then the segment itself; how many were removed."""
        sql = self._statements.sweep
        with self._database.write as connection:
            removed = connection.execute(sql.messages_of, {"segment": segment, "limit": limit}).rowcount
            if removed < limit:
                rest = {"segment": segment, "limit": limit - removed}
                removed += connection.execute(sql.claims_of, rest).rowcount
            if removed < limit:
                rest = {"segment": segment, "limit": limit - removed}
                removed += connection.execute(sql.set_aside_of, rest).rowcount
            if removed < limit:
                if self._database.dialect == "postgresql":
                    connection.execute(sql.forget_tallies, {"segment": segment})
                removed += connection.execute(sql.forget_garbage, {"segment": segment}).rowcount
                connection.execute(sql.forget_segment, {"segment": segment})
        return removed
