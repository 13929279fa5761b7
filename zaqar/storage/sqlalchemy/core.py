# SPDX-License-Identifier: Apache-2.0
"""What the parts of one message store share: the database, and the fence of each queue.

A fence is the row that says which generation of a queue is in force, which segment has its messages, which number comes
next, and how many messages there are in each state. Each part gets one ``StoreCore`` and calls its methods inside the
part's own transactions, which are short: a batch of rows at most.

On SQLite every transaction that writes runs alone (``BEGIN IMMEDIATE``). On PostgreSQL it locks the fence first and
then each message that it reads in order to change it. A transaction that reads sees one moment. So whatever a
transaction reads of the fence stays in force until the transaction ends.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.model import Delivery, Message, Queue
from zaqar.storage.base import Wakeups
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.queries import Queries
from zaqar.storage.sqlalchemy.states import CLAIMED, DELAYED, READY

BATCH = 500
"""Rows that one transaction makes READY, moves or removes at most, so that it does not hold up other writers."""

FAR = 200
"""Numbers that a search for READY messages may pass in vain before ``ready_from`` is moved for that alone."""

SKEW = 1.0
"""Seconds that the clock of another host may be behind: until then a message that has expired here may be alive
there."""


class Fence(NamedTuple):
    """The fence of a queue as an operation finds it, and whether messages are due."""

    segment: int
    next_sequence: int
    ready_from: int
    """No READY message with a lesser number is alive, so a search for free messages begins here."""
    due: bool
    """Whether a claim or a delay has ended whose messages still stand as claimed or delayed."""


class FenceQueries(Queries):
    add_to_counters: str
    append: str
    check_fence: str
    delete_by_id: str
    delete_expired: str
    dropped_among: str
    due_batch: str
    find_fence: str
    first_ready: str
    forget_garbage: str
    forget_segment: str
    hide_deliveries: str
    make_ready: str
    note_post: str
    read_fence: str
    remove_claims_of_garbage: str
    remove_messages_of_garbage: str
    remove_set_aside_of_garbage: str


class SqliteFenceQueries(FenceQueries, file="fences", dialects=["sqlite"]):
    pass


def json_array(values: Iterable[int] | Iterable[str]) -> str:
    """The value of a parameter that stands for a set of numbers or of texts, so that one statement serves any count."""
    return json.dumps(list(values))


class StoreCore:
    """The fences of a database, for the parts of its message store on SQLite; PostgreSQL has a subclass.

    A method that takes a connection runs inside the caller's transaction.
    """

    is_concurrent = False
    """Whether transactions that write run beside each other, so that rows are locked."""

    _sql: FenceQueries

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sql = self._queries()

    def _queries(self) -> FenceQueries:
        return SqliteFenceQueries.of("sqlite")

    # -- the fence ---------------------------------------------------------------------------------------------------

    def check_fence(self, connection: Connection, queue: Queue) -> int:
        """Return the segment of the queue. Raises StaleQueue unless the generation of ``queue`` is in force."""
        key = {"uid": queue.uid, "generation": queue.generation}
        row = connection.execute(self._sql.check_fence, key).fetchone()
        if row is None:
            raise StaleQueue(queue.uid)
        return int(row[0])

    def read_fence(self, connection: Connection, queue: Queue, now: float) -> Fence:
        """Return the whole fence, for operations on READY messages in their order. Raises StaleQueue.

        The caller must not trust the order while ``due`` is set; see ``promote_due``.
        """
        key = {"uid": queue.uid, "generation": queue.generation, "now": now}
        row = connection.execute(self._sql.read_fence, key).fetchone()
        if row is None:
            raise StaleQueue(queue.uid)
        return Fence._make(row)

    def find_fence(self, connection: Connection, uid: str) -> tuple[int, int | None, float | None] | None:
        """Return generation, segment and end of the tombstone of a fence in any generation; None if there is none.

        On PostgreSQL this also locks the fence until the transaction ends.
        """
        row: tuple[int, int | None, float | None] | None
        row = connection.execute(self._sql.find_fence, {"uid": uid}).fetchone()
        return row

    def append(self, connection: Connection, queue: Queue, *, ready: int, delayed: int = 0) -> tuple[int, int]:
        """Take numbers at the end of the queue; return its segment and the first number. Raises StaleQueue.

        One UPDATE checks the fence, takes the numbers and counts the messages, which the caller stores in the same
        transaction. The row stays locked until the commit. So a reader that sees a number sees all lesser ones too, and
        a crash before the commit takes neither numbers nor counts.
        """
        count = ready + delayed
        values = {
            "uid": queue.uid,
            "generation": queue.generation,
            "count": count,
            "more_ready": ready,
            "more_delayed": delayed,
        }
        rows = connection.execute(self._sql.append, values).fetchall()
        if not rows:
            raise StaleQueue(queue.uid)
        ((segment, end),) = rows
        return segment, end - count

    # -- counters, and where searches begin --------------------------------------------------------------------------

    def add_to_counters(
        self,
        connection: Connection,
        uid: str,
        *,
        ready: int = 0,
        claimed: int = 0,
        delayed: int = 0,
        ready_from: int | None = None,
    ) -> None:
        """Add to the counters of a fence. ``ready_from`` moves the number at which searches begin; None leaves it."""
        change = {
            "uid": uid,
            "more_ready": ready,
            "more_claimed": claimed,
            "more_delayed": delayed,
            "new_ready_from": ready_from,
        }
        connection.execute(self._sql.add_to_counters, change)

    def count_deleted(self, connection: Connection, uid: str, states: Counter[int]) -> None:
        """Subtract deleted messages from the counters: ``states`` has how many were in each stored state."""
        self.add_to_counters(connection, uid, ready=-states[READY], claimed=-states[CLAIMED], delayed=-states[DELAYED])

    def count_taken(
        self, connection: Connection, uid: str, fence: Fence, taken: Sequence[Message], now: float, *, claimed: int = 0
    ) -> None:
        """Count after the first free messages, ``taken`` in their order, were claimed or deleted.

        Searches begin after them from now on, if no message was passed over: a message that was passed over may be
        alive by the clock of another host, or be free for a queue with other rules.
        """
        count = len(taken)
        end = taken[-1].sequence + 1 if taken else fence.next_sequence
        passed = end - fence.ready_from - count
        ready_from = None
        if count and not passed:
            ready_from = end
        elif passed > FAR:
            ready_from = self.first_ready(connection, fence, now)
        if count or ready_from not in (None, fence.ready_from):
            self.add_to_counters(connection, uid, ready=-count, claimed=claimed, ready_from=ready_from)

    def first_ready(self, connection: Connection, fence: Fence, now: float) -> int:
        """The number of the first READY message that is alive on any host, or the next one if there is none."""
        start = {"segment": fence.segment, "ready_from": fence.ready_from, "now": now - SKEW}
        row = connection.execute(self._sql.first_ready, start).fetchone()
        return fence.next_sequence if row is None else int(row[0])

    def move_ready_from(self, queue: Queue, now: float) -> None:
        """After a search that passed many numbers in vain, let the next one begin after them."""
        # The caller's operation is done, and this only makes others faster. So no failure of it reaches the caller.
        with suppress(StoreUnavailable, StaleQueue):
            # Look before taking the turn to write: most often another process has moved it.
            with self.database.read() as connection:
                fence = self.read_fence(connection, queue, now)
                first = self.first_ready(connection, fence, now)
            if first > fence.ready_from + FAR:
                with self.database.write as connection:
                    # A message before ``first`` may have become READY in between, so search again under the lock.
                    first = self.first_ready(connection, self.read_fence(connection, queue, now), now)
                    self.add_to_counters(connection, queue.uid, ready_from=first)

    # -- timers ------------------------------------------------------------------------------------------------------

    def promote_due(self, connection: Connection, queue: Queue, now: float) -> Fence | None:
        """Make messages READY whose claim or delay has ended; return the fence if that was all.

        Free messages are given out in the order of their numbers. A message that is due is free but not found by a
        search for READY ones. So an operation that takes free messages first calls this, in the same transaction.

        None means that a full batch was promoted and more may be due. The caller then ends the transaction, which keeps
        the batch and gives others their turn, and begins its operation again. A crash in between leaves a queue in
        which fewer messages are due; nothing else depends on it.
        """
        fence = self.read_fence(connection, queue, now)
        if not fence.due:
            return fence
        # Read again: promotion may have moved ``ready_from`` back to a message that is free once more.
        return self.read_fence(connection, queue, now) if self._promote_batch(connection, queue, fence, now) else None

    def promote_all_due(self, queue: Queue, now: float) -> None:
        """The same for an operation that only reads: each batch in a transaction of its own, until none is due."""
        fence = None
        while fence is None:
            with self.database.write as connection:
                fence = self.promote_due(connection, queue, now)

    def _promote_batch(self, connection: Connection, queue: Queue, fence: Fence, now: float) -> bool:
        """Make up to BATCH due messages READY, or delete them if they have expired; return whether that was all."""
        batch = {"segment": fence.segment, "now": now, "limit": BATCH}
        rows = connection.execute(self._sql.due_batch, batch).fetchall()
        live = [number for number, _, _, expired in rows if not expired]
        gone = [number for number, _, _, expired in rows if expired]
        if live:
            connection.execute(self._sql.make_ready, {"ids": json_array(live)})
        if gone:
            self.delete_rows(connection, gone)
        left = Counter(state for _, _, state, _ in rows)
        self.add_to_counters(
            connection,
            queue.uid,
            ready=len(live),
            claimed=-left[CLAIMED],
            delayed=-left[DELAYED],
            ready_from=min([fence.ready_from, *(sequence for _, sequence, _, expired in rows if not expired)]),
        )
        return len(rows) < BATCH

    def delete_rows(self, connection: Connection, ids: Iterable[int]) -> None:
        """Delete messages by the ids of their rows, which the caller read, and locked, in the same transaction."""
        connection.execute(self._sql.delete_by_id, {"ids": json_array(ids)})

    def remove_expired(self, connection: Connection, uid: str, segment: int, now: float, *, limit: int) -> int:
        """Delete up to ``limit`` expired messages of a queue; return how many. The caller's transaction has the fence.

        Expired messages are gone for every operation anyway, by their time. Deleting them only keeps the tables short.
        """
        batch = {"segment": segment, "now": now, "limit": limit}
        rows = connection.execute(self._sql.delete_expired, batch).fetchall()
        if rows:
            self.count_deleted(connection, uid, Counter(state for (state,) in rows))
        return len(rows)

    def remove_expired_in(self, queues: Iterable[tuple[str, int]], now: float, limit: int) -> tuple[int, int | None]:
        """Delete up to ``limit`` expired messages of queues, given as (uid, segment), in one transaction.

        Returns how many, and the last segment that has none left, or None.
        """
        removed, finished = 0, None
        with self.database.write as connection:
            for uid, segment in queues:
                fence = self.find_fence(connection, uid)
                if fence is None or fence[1] != segment:
                    # Purged or dropped since the caller found it. The counters are those of another segment now, and
                    # the rows of this one are removed as garbage.
                    continue
                removed += self.remove_expired(connection, uid, segment, now, limit=limit - removed)
                if removed == limit:
                    break
                finished = segment
        return removed, finished

    # -- notes for notifiers -----------------------------------------------------------------------------------------

    def note_posts(self, connection: Connection, notes: Iterable[Mapping[str, Any]]) -> None:
        """Store that deliveries have to be made: each note has uid, first (number), content and now."""
        connection.executemany(self._sql.note_post, notes)

    def hide_deliveries(self, connection: Connection, tombstones: Iterable[Mapping[str, Any]]) -> None:
        """Make deliveries unreachable; see ``tombstone_of``."""
        connection.executemany(self._sql.hide_deliveries, tombstones)

    def reachable(
        self, connection: Connection, queue_uid: str, deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery] | None:
        """Return the deliveries of a queue that no tombstone hides; None if the whole queue was dropped."""
        ids = {delivery.subscription_id for delivery in deliveries}
        these = {"uid": queue_uid, "subscriptions": json_array(["", *sorted(ids)])}
        dropped = {id_ for (id_,) in connection.execute(self._sql.dropped_among, these).fetchall()}
        if "" in dropped:
            return None
        return [each for each in deliveries if each.subscription_id not in dropped] if dropped else deliveries

    # -- clients that wait -------------------------------------------------------------------------------------------

    def wake_waiting(self, queue: Queue) -> None:
        """Wake clients that wait for the queue, after a commit. Nothing to do here: only PostgreSQL has LISTEN."""

    def wakeups(self) -> Wakeups | None:
        """A new connection that tells of posts and releases, if the database has such a thing."""
        return None

    # -- segments that no fence names --------------------------------------------------------------------------------

    def remove_garbage(self, segment: int, *, limit: int) -> int:
        """Remove up to ``limit`` rows of a segment, and the segment itself if that was all; return how many.

        The segment stays listed as garbage until all its rows are gone. So after a crash, a sweep finds it again.
        """
        with self.database.write as connection:
            removed = 0
            for statement in (
                self._sql.remove_messages_of_garbage,
                self._sql.remove_claims_of_garbage,
                self._sql.remove_set_aside_of_garbage,
            ):
                if removed < limit:
                    part = {"segment": segment, "limit": limit - removed}
                    removed += connection.execute(statement, part).rowcount
            if removed < limit:
                removed += self._forget_segment(connection, segment)
        return removed

    def _forget_segment(self, connection: Connection, segment: int) -> int:
        removed = connection.execute(self._sql.forget_garbage, {"segment": segment}).rowcount
        connection.execute(self._sql.forget_segment, {"segment": segment})
        return removed


def tombstone_of(queue_uid: str, subscription_id: str, now: float, until: float) -> dict[str, Any]:
    """A tombstone for the deliveries of one subscription, or with '' for all of a queue; it lasts ``until``."""
    return {"uid": queue_uid, "subscription": subscription_id, "now": now, "until": until}
