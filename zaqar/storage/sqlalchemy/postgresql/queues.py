# SPDX-License-Identifier: Apache-2.0
"""Statistics of a queue on PostgreSQL, in one statement."""

from __future__ import annotations

from zaqar.model import Queue, Stats
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.message_rows import message_of
from zaqar.storage.sqlalchemy.postgresql.core import PostgresqlCore
from zaqar.storage.sqlalchemy.queues import QueueQueries, SqlQueues


class PostgresqlQueueQueries(QueueQueries, file="queues", dialects=["postgresql"]):
    full_stats: str
    stats: str


class PostgresqlQueues(SqlQueues):
    _core: PostgresqlCore
    _sql: PostgresqlQueueQueries

    def __init__(self, core: PostgresqlCore) -> None:
        super().__init__(core, PostgresqlQueueQueries.of("postgresql"))

    @retry_on_conflict
    def stats(self, *, queue: Queue, now: float) -> Stats:
        fence, rows = self._core.run_in_order(self._sql.stats, queue, {"now": now}, now)
        if not rows:  # too many have expired to count them each time
            self._remove_many_expired(queue, fence.segment, now)
            _, rows = self._core.run_in_order(self._sql.full_stats, queue, {"now": now}, now)
        ((free, claimed, *ends),) = rows
        half = len(ends) // 2
        oldest, newest = (
            None if end[0] is None else message_of(queue.uid, tuple(end)) for end in (ends[:half], ends[half:])
        )
        return Stats(free, claimed, oldest, newest)
