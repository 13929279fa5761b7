# SPDX-License-Identifier: Apache-2.0
"""What the parts of one message store on PostgreSQL share.

The usual operations are one statement each, which is a transaction by itself: one round trip. Each statement begins
with the fence as its snapshot has it, and gives it in the first columns, so that no row means a stale queue. Only a
post locks the fence; docs/decisions/0008 says why the others need not. Operations that take several statements lock
the fence and then messages, as on any SQL database.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.model import Message, Queue
from zaqar.storage.base import Wakeups
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import FAR, Fence, FenceQueries, StoreCore
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase

Row = tuple[Any, ...]

FENCE_COLUMNS: Final = len(Fence._fields)
"""The first columns of a row are those of ``Fence``."""


class PostgresqlFenceQueries(FenceQueries, file="fences", dialects=["postgresql"]):
    remove_tallies_of_garbage: str
    wake_waiting: str


class PostgresqlCore(StoreCore):
    is_concurrent = True
    database: PostgresqlDatabase
    _sql: PostgresqlFenceQueries

    def _queries(self) -> FenceQueries:
        return PostgresqlFenceQueries.of("postgresql")

    def run(self, statement: str, queue: Queue, values: Mapping[str, Any]) -> list[Row]:
        """The rows of an operation of one statement. Raises StaleQueue if there are none."""
        with self.database.autocommit() as connection:
            key = {"uid": queue.uid, "generation": queue.generation, **values}
            rows = connection.execute(statement, key).fetchall()
        if not rows:
            raise StaleQueue(queue.uid)
        return rows

    def run_in_order(
        self, statement: str, queue: Queue, values: Mapping[str, Any], now: float
    ) -> tuple[Fence, list[Row]]:
        """The fence, and the rows that were found without it, of an operation that needs the order of free messages.

        While messages are due, such a statement finds and changes nothing. Then they are promoted, and the statement
        runs again. A message that falls due between the two makes one more round.
        """
        while True:
            rows = self.run(statement, queue, values)
            fence = Fence._make(rows[0][:FENCE_COLUMNS])
            if not fence.due:
                return fence, [row[FENCE_COLUMNS:] for row in rows if row[FENCE_COLUMNS] is not None]
            self.promote_all_due(queue, now)

    @retry_on_conflict
    def take_first_free(
        self, statement: str, waiting: str, queue: Queue, values: Mapping[str, Any], now: float
    ) -> tuple[list[Message], bool]:
        """Take the first free messages; return them, and whether none was taken because one of them is unfit.

        Unfit is an exhausted message for a claim, and a sealed one for a pop. ``statement`` passes over messages that
        others have locked, so takers do not wait for each other. If others have all free messages locked, it finds
        none; but they may yet roll back. So before the answer is that nothing is free, ``waiting``, the same statement
        that waits for those locks, looks once more.
        """
        fence, rows = self.run_in_order(statement, queue, values, now)
        is_unfit, others_hold_free = rows[0][:2]
        if others_hold_free and not is_unfit:
            fence, rows = self.run_in_order(waiting, queue, values, now)
            is_unfit = rows[0][0]
        taken = messages_of(queue.uid, (row[2:] for row in rows if row[2] is not None))
        first = taken[0].sequence if taken else fence.next_sequence
        if first - fence.ready_from > FAR and not is_unfit:
            self.move_ready_from(queue, now)
        return taken, is_unfit

    def move_ready_from(self, queue: Queue, now: float) -> None:
        # The caller's operation is done, and this only makes others faster. So no failure of it reaches the caller.
        with suppress(StoreUnavailable, StaleQueue), self.database.write as connection:
            fence = self.read_fence(connection, queue, now)
            # A claim that is not committed yet does not hide its messages from this search. And a transaction that
            # makes a message READY before this place waits for the fence, so it sees the new place and moves it back.
            first = self.first_ready(connection, fence, now)
            if first > fence.ready_from:
                self.add_to_counters(connection, queue.uid, ready_from=first)

    def wake_waiting(self, queue: Queue) -> None:
        """Wake clients that wait for the queue, in a transaction of its own after the one that they wait for.

        In the same transaction it would hold the server's lock on notifications while the disk writes, so that the
        posts to all queues would be written one by one. If this fails, waiting clients look again within a second; the
        operation before is committed and must not be repeated.
        """
        if self.database.listen:
            with suppress(StoreUnavailable), self.database.autocommit() as connection:
                connection.execute(self._sql.wake_waiting, {"uid": queue.uid})

    def wakeups(self) -> Wakeups | None:
        return self.database.wakeups() if self.database.listen else None

    def _forget_segment(self, connection: Connection, segment: int) -> int:
        connection.execute(self._sql.remove_tallies_of_garbage, {"segment": segment})
        return super()._forget_segment(connection, segment)


def key_of_claim(claim_id: str) -> str:
    """The id; or one that no claim has, if the id is a guess that PostgreSQL does not even take as a parameter."""
    return "" if "\0" in claim_id or not claim_id.isascii() else claim_id
