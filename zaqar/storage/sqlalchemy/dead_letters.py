# SPDX-License-Identifier: Apache-2.0
"""Dead letters: moved to the end of another queue here, or set aside for one in another store and received there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zaqar.errors import StaleQueue
from zaqar.model import DeadLetters, Message, Queue, message_id
from zaqar.storage.base import TOMBSTONE_LIFETIME, pack_letter
from zaqar.storage.sqlalchemy.connection import Connection
from zaqar.storage.sqlalchemy.deliveries import OutboxStore
from zaqar.storage.sqlalchemy.fences import BATCH, Fence
from zaqar.storage.sqlalchemy.rows import messages_of
from zaqar.storage.sqlalchemy.sql import json_array


class DeadLetterStore(OutboxStore):
    """The part of the message store that is about dead letters."""

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        sql = self._statements.letters
        while True:
            with self._database.write as connection:
                fence = self._settled(connection, queue, now)
                if fence is None:
                    continue
                place = {"segment": fence.segment, "limit": BATCH}
                aside = connection.execute(sql.aside, place).fetchall()
                if len(aside) < BATCH:
                    _, dead = self._sort_out(connection, fence, limit, now, max_claim_count)
                    if dead:
                        ids = {"ids": json_array(number for number, *_ in dead)}
                        connection.execute(sql.set_aside, ids)
                        connection.execute(self._statements.messages.delete_several, ids)
                        self._count(connection, queue.uid, ready=-len(dead))
                        aside = connection.execute(sql.aside, place).fetchall()
                return messages_of(queue.uid, aside)

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        sql = self._statements.letters
        by_id: dict[str, Message] = {}
        for letter in messages:
            if letter.origin is None:
                raise ValueError("a dead letter without an origin")
            by_id.setdefault(letter.origin.message_id, letter)
        with self._database.write as connection:
            self._segment(connection, queue)
            known = {"uid": queue.uid, "letters": json_array(by_id)}
            for (letter_id,) in connection.execute(sql.known, known).fetchall():
                del by_id[letter_id]
            if not by_id:
                return
            segment, first = self._append(connection, queue, len(by_id))
            rows = [_row_of(segment, number, letter) for number, letter in enumerate(by_id.values(), first)]
            connection.executemany(sql.insert, rows)
            if queue.notify:
                self._note_letters(connection, queue, dict(enumerate(by_id.values(), first)), now)
            until = now + TOMBSTONE_LIFETIME
            memory = [{"uid": queue.uid, "letter": letter_id, "forget_at": until} for letter_id in by_id]
            connection.executemany(sql.remember, memory)

    def forget_set_aside(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        with self._database.write as connection:
            several = {"segment": self._segment(connection, queue), "sequences": json_array(sequences)}
            connection.execute(self._statements.letters.forget, several)

    # -- inside a transaction ----------------------------------------------------------------------------------------

    def _lock_in_order(self, connection: Connection, queue: Queue, grave: Queue) -> None:
        """Before the fence of the queue itself: that of a grave with a lesser uid.

        Else two queues that are each other's grave would wait for each other, until the server ends one of them.
        """
        if self._statements.letters.is_concurrent and grave.uid < queue.uid:
            connection.execute(self._statements.fences.find, {"uid": grave.uid}).fetchone()

    def _bury(
        self,
        connection: Connection,
        queue: Queue,
        fence: Fence,
        limit: int,
        now: float,
        rules: DeadLetters,
        grave: Queue,
    ) -> list[int] | None:
        """Move the worn out among the first free messages; the ids of the ``limit`` living ones before and after them.

        None where a batch was moved and there may be more: the caller commits it and begins again.
        """
        living, dead = self._sort_out(connection, fence, limit, now, rules.max_claim_count)
        if dead:
            self._move(connection, queue, dead, now, rules, grave)
        return None if len(dead) == BATCH and len(living) < limit else living

    def _sort_out(
        self, connection: Connection, fence: Fence, limit: int, now: float, max_claim_count: int
    ) -> tuple[list[int], list[tuple[Any, ...]]]:
        """The ids of the first ``limit`` living messages, and the rows of a batch of the worn out that come before."""
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
        rows = connection.execute(self._statements.letters.candidates, place).fetchall()
        for row in rows:
            if len(living) == limit or len(dead) == BATCH:
                break
            number, _, claim_count, _, _ = row
            if claim_count >= max_claim_count:
                dead.append(row)
            else:
                living.append(number)
        return living, dead

    def _move(
        self,
        connection: Connection,
        queue: Queue,
        dead: list[tuple[Any, ...]],
        now: float,
        rules: DeadLetters,
        grave: Queue,
    ) -> None:
        """Put messages at the end of the dead letter queue, whose fence is checked in the same statement."""
        segment, first = self._append(connection, grave, len(dead))
        moves = []
        for new_sequence, (number, sequence, _, created, expires) in enumerate(dead, first):
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
        connection.executemany(self._statements.letters.move, moves)
        if grave.notify:
            there = {"segment": segment, "sequences": json_array(range(first, first + len(dead))), "now": now}
            rows = connection.execute(self._statements.messages.get, there).fetchall()
            letters = {letter.sequence: letter for letter in messages_of(grave.uid, rows)}
            self._note_letters(connection, grave, letters, now)
        self._count(connection, queue.uid, ready=-len(dead))

    def _note_letters(self, connection: Connection, queue: Queue, letters: Mapping[int, Message], now: float) -> None:
        """Have the subscribers of the dead letter queue notified of each, by its number there."""
        notes = [
            {"uid": queue.uid, "first": number, "content": pack_letter(letter, now), "now": now}
            for number, letter in letters.items()
        ]
        connection.executemany(self._outbox.note, notes)

    def _append(self, connection: Connection, queue: Queue, count: int) -> tuple[int, int]:
        """Take numbers for READY messages at the end of a queue: its segment and the first of them."""
        key = {"uid": queue.uid, "generation": queue.generation}
        more = {"count": count, "more_ready": count, "more_delayed": 0}
        rows = connection.execute(self._statements.fences.append, {**key, **more}).fetchall()
        if not rows:
            raise StaleQueue(queue.uid)
        ((segment, end),) = rows
        return int(segment), int(end) - count


def _row_of(segment: int, sequence: int, letter: Message) -> dict[str, Any]:
    origin = letter.origin
    assert origin is not None
    return {
        "segment": segment,
        "sequence": sequence,
        "expires": letter.expires,
        "created": letter.created,
        "client_id": letter.client_id,
        "checksum": letter.checksum,
        "from_queue": origin.queue,
        "letter": origin.message_id,
        "from_claim_count": origin.claim_count,
        "body": letter.body,
    }
