# SPDX-License-Identifier: Apache-2.0
"""Statistics of a queue on SQLite, in one transaction that reads."""

from __future__ import annotations

from zaqar.model import Queue, Stats
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.queues import QueueQueries, SqlQueues


class SqliteQueueQueries(QueueQueries, file="queues", dialects=["sqlite"]):
    count_all_messages: str
    count_messages: str
    newest_message: str
    oldest_message: str


class SqliteQueues(SqlQueues):
    _sql: SqliteQueueQueries

    def __init__(self, core: StoreCore) -> None:
        super().__init__(core, SqliteQueueQueries.of("sqlite"))

    def stats(self, *, queue: Queue, now: float) -> Stats:
        count = self._sql.count_messages
        while True:
            with self._core.database.read() as connection:
                fence = self._core.read_fence(connection, queue, now)
                if not fence.due:
                    (counted,) = connection.execute(count, {"uid": queue.uid, "now": now}).fetchall()
                    if counted[0] is not None:
                        ends = {"segment": fence.segment, "ready_from": fence.ready_from, "now": now}
                        oldest = connection.execute(self._sql.oldest_message, ends).fetchall()
                        newest = connection.execute(self._sql.newest_message, ends).fetchall()
                        break
            # Outside the transaction that reads, which must not write, and then from the start: both take batches, and
            # others may change the queue in between.
            if fence.due:
                self._core.promote_all_due(queue, now)
            else:
                self._remove_many_expired(queue, fence.segment, now)
                count = self._sql.count_all_messages
        return Stats(*counted, *messages_of(queue.uid, oldest), *messages_of(queue.uid, newest))
