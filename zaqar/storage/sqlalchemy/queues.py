# SPDX-License-Identifier: Apache-2.0
"""Queues as a whole on an SQL database: how a fence comes, changes and goes, statistics and positions.

Statistics differ between the databases: see ``sqlite.queues`` and ``postgresql.queues``.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from zaqar.errors import QueueDropped, StoreUnavailable
from zaqar.model import Queue, QueuePosition, QueueUsage
from zaqar.storage.base import TOMBSTONE_LIFETIME, QueueStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import BATCH, StoreCore, json_array, tombstone_of
from zaqar.storage.sqlalchemy.queries import Queries

BATCHES_AT_ONCE = 8
"""Batches of expired messages that statistics remove at most before they count the rest."""

_BATCHES_OF_A_PURGE = 4
"""Batches that a purge or a drop removes itself; a sweep removes the rest."""


class QueueQueries(Queries):
    add_segment: str
    delete_fence: str
    discard_segment: str
    get_usage: str
    insert_fence: str
    positions: str
    raise_generation: str
    replace_segment: str
    turn_into_tombstone: str


class SqlQueues(QueueStore):
    def __init__(self, core: StoreCore, queries: QueueQueries) -> None:
        self._core = core
        self._sql: QueueQueries = queries

    @retry_on_conflict
    def open(self, *, queue: Queue, now: float) -> int:
        with self._core.database.write as connection:
            # The row is locked here. If there is none, nothing is locked on PostgreSQL: then of two transactions that
            # insert the same uid, the second one fails at its primary key and runs again.
            row = self._core.find_fence(connection, queue.uid)
            if row is not None and row[2] is not None and now >= row[2]:
                connection.execute(self._sql.delete_fence, {"uid": queue.uid})
                row = None
            if row is None:
                self._insert_fence(connection, queue, segment=self._new_segment(connection), forget_at=None)
                return queue.generation
            generation, _, forget_at = row
            if forget_at is not None:
                raise QueueDropped(queue.uid)
            if queue.generation > generation:
                connection.execute(self._sql.raise_generation, {"uid": queue.uid, "new_generation": queue.generation})
            return max(int(generation), queue.generation)

    def drop(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        segment = self._drop(queue, now, remember)
        if segment is not None:
            self._remove_first_rows(segment)

    @retry_on_conflict
    def _drop(self, queue: Queue, now: float, remember: float) -> int | None:
        """Make everything of the queue unreachable in one step; return its segment, if it had one."""
        until = now + remember
        with self._core.database.write as connection:
            row = self._core.find_fence(connection, queue.uid)
            _, segment, forget_at = row or (None, None, None)
            if segment is not None:
                connection.execute(self._sql.discard_segment, {"segment": segment})
            if remember <= 0:
                if segment is not None:
                    connection.execute(self._sql.delete_fence, {"uid": queue.uid})
            elif row is None:
                self._insert_fence(connection, queue, segment=None, forget_at=until)
            elif forget_at is None or forget_at < until:
                connection.execute(self._sql.turn_into_tombstone, {"uid": queue.uid, "until": until})
            if remember > 0:
                self._core.hide_deliveries(connection, [tombstone_of(queue.uid, "", now, until)])
        return segment

    def purge(self, *, queue: Queue, now: float) -> None:
        self._remove_first_rows(self._purge(queue))

    @retry_on_conflict
    def _purge(self, queue: Queue) -> int:
        """Give the queue a new segment in one step, whatever the old one holds; return the old one."""
        with self._core.database.write as connection:
            old = self._core.check_fence(connection, queue)
            new = self._new_segment(connection)
            # A claim or a delete that began before this commit finds rows of the old segment at most. These are gone
            # for everybody else, so it changes nothing that anybody sees.
            connection.execute(self._sql.replace_segment, {"uid": queue.uid, "new_segment": new})
            connection.execute(self._sql.discard_segment, {"segment": old})
        return old

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        with self._core.database.read_once() as connection:
            several = {"uids": json_array(uids), "now": now}
            rows = connection.execute(self._sql.positions, several).fetchall()
        return {uid: QueuePosition(last, bool(free), next_due) for uid, last, free, next_due in rows}

    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        with self._core.database.read_once() as connection:
            one = {"uid": queue.uid, "now": now, "most": most}
            return QueueUsage(*connection.execute(self._sql.get_usage, one).fetchone())

    def _remove_many_expired(self, queue: Queue, segment: int, now: float) -> None:
        """Before a count: remove expired messages, as many as one caller can wait for. Others go on."""
        for _ in range(BATCHES_AT_ONCE):
            removed, _ = self._core.remove_expired_in([(queue.uid, segment)], now, BATCH)
            if removed < BATCH:
                break
        self._core.move_ready_from(queue, now)

    def _new_segment(self, connection: Connection) -> int:
        ((number,),) = connection.execute(self._sql.add_segment).fetchall()
        return int(number)

    def _insert_fence(
        self, connection: Connection, queue: Queue, *, segment: int | None, forget_at: float | None
    ) -> None:
        row = {"uid": queue.uid, "generation": queue.generation, "segment": segment, "forget_at": forget_at}
        connection.execute(self._sql.insert_fence, row)

    def _remove_first_rows(self, segment: int) -> None:
        """Remove the first rows of a segment that no fence names any more."""
        # The purge or drop is committed, and nobody can reach the rows. A failure here only leaves them to a sweep.
        with suppress(StoreUnavailable):
            for _ in range(_BATCHES_OF_A_PURGE):
                if self._core.remove_garbage(segment, limit=BATCH) < BATCH:
                    return
