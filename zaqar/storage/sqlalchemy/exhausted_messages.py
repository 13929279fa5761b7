# SPDX-License-Identifier: Apache-2.0
"""Moving exhausted messages to a dead letter queue of the same store, and finding them.

A message is exhausted if it was claimed as often as its queue allows. Claims move such messages out of their way, see
``claims``; for a dead letter queue in another store they are set aside, see ``dead_letters``. All methods run inside
the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zaqar.model import DeadLetters, Message, Queue, message_id
from zaqar.storage.base import pack_dead_letter
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import BATCH, Fence, StoreCore
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.queries import Queries


class ExhaustedQueries(Queries, file="exhausted_messages"):
    first_free: str
    move_message: str
    moved_messages: str


class FreeMessage(NamedTuple):
    """A free message as a claim that counts claims finds it. ``id`` is that of its row."""

    id: int
    sequence: int
    claim_count: int
    created: float
    expires: float


class ExhaustedMessages:
    def __init__(self, core: StoreCore) -> None:
        self._core = core
        self._sql = ExhaustedQueries.of(core.database.dialect)

    def lock_in_order(self, connection: Connection, queue: Queue, dead_letter_queue: Queue) -> None:
        """Lock the fence of the dead letter queue first if it has the lesser uid. The caller locks the other one next.

        All claims lock two fences in the order of their uids. Otherwise claims on two queues that are the dead letter
        queues of each other could deadlock. A sweep, which locks several fences in another order, still can; then the
        server rolls one of the two back, and that one runs again.
        """
        if self._core.is_concurrent and dead_letter_queue.uid < queue.uid:
            self._core.find_fence(connection, dead_letter_queue.uid)

    def sort_out(
        self, connection: Connection, fence: Fence, limit: int, now: float, max_claim_count: int
    ) -> tuple[list[int], list[FreeMessage]]:
        """Find the first ``limit`` messages that may be claimed, and exhausted ones among and before them.

        Returns the row ids of the former, and up to BATCH of the latter.
        """
        claimable: list[int] = []
        exhausted: list[FreeMessage] = []
        place = {
            "segment": fence.segment,
            "now": now,
            "ready_from": fence.ready_from,
            # A queue can be its own dead letter queue. A message that is moved to its end must not be found again.
            "end_of_queue": fence.next_sequence,
            "limit": limit + BATCH,
        }
        for row in connection.execute(self._sql.first_free, place).fetchall():
            if len(claimable) == limit or len(exhausted) == BATCH:
                break
            message = FreeMessage._make(row)
            if message.claim_count >= max_claim_count:
                exhausted.append(message)
            else:
                claimable.append(message.id)
        return claimable, exhausted

    def move_to_dead_letter_queue(
        self,
        connection: Connection,
        queue: Queue,
        exhausted: list[FreeMessage],
        now: float,
        rules: DeadLetters,
        dead_letter_queue: Queue,
    ) -> None:
        """Move messages to the end of the dead letter queue. Raises StaleQueue, which may be about that queue.

        A row keeps its place in the table and gets another segment and number, so each message moves exactly once: a
        crash before the commit leaves it where it was. Counters of both queues and the notes for the subscribers of the
        dead letter queue change in the same transaction.
        """
        segment, first = self._core.append(connection, dead_letter_queue, ready=len(exhausted))
        moves = [
            {
                "message": message.id,
                "new_segment": segment,
                "new_sequence": new_sequence,
                "new_created": message.created if rules.ttl is None else now,
                "new_expires": message.expires if rules.ttl is None else now + rules.ttl,
                "from_queue": queue.name,
                "from_id": message_id(queue.uid, message.sequence),
            }
            for new_sequence, message in enumerate(exhausted, first)
        ]
        connection.executemany(self._sql.move_message, moves)
        if dead_letter_queue.notify:
            moved = {"segment": segment, "first": first, "end": first + len(exhausted), "now": now}
            rows = connection.execute(self._sql.moved_messages, moved).fetchall()
            letters = {letter.sequence: letter for letter in messages_of(dead_letter_queue.uid, rows)}
            self.note(connection, dead_letter_queue, letters, now)
        self._core.add_to_counters(connection, queue.uid, ready=-len(exhausted))

    def note(self, connection: Connection, queue: Queue, letters: Mapping[int, Message], now: float) -> None:
        """Have the subscribers of the dead letter queue notified of each message, by its number there."""
        notes: list[dict[str, Any]] = [
            {"uid": queue.uid, "first": number, "content": pack_dead_letter(letter, now), "now": now}
            for number, letter in letters.items()
        ]
        self._core.note_posts(connection, notes)
