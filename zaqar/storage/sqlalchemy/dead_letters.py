# SPDX-License-Identifier: Apache-2.0
"""Dead letters on their way to another store: set aside here, received there, then forgotten here.

``exhausted_messages`` moves dead letters between two queues of one store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zaqar.model import Message, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME, DeadLetterStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.core import BATCH, StoreCore, json_array
from zaqar.storage.sqlalchemy.exhausted_messages import ExhaustedMessages
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.queries import Queries


class DeadLetterQueries(Queries, file="dead_letters"):
    forget_set_aside: str
    insert_received: str
    known_letters: str
    list_set_aside: str
    remember_received: str
    set_aside: str


class SqlDeadLetters(DeadLetterStore):
    def __init__(self, core: StoreCore, exhausted: ExhaustedMessages) -> None:
        self._core = core
        self._exhausted = exhausted
        self._sql = DeadLetterQueries.of(core.database.dialect)

    @retry_on_conflict
    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        while True:
            with self._core.database.write as connection:
                fence = self._core.promote_due(connection, queue, now)
                if fence is None:
                    continue
                # Messages that a killed process had set aside come first, so that none waits for ever.
                place = {"segment": fence.segment, "limit": BATCH}
                aside = connection.execute(self._sql.list_set_aside, place).fetchall()
                if len(aside) < BATCH:
                    _, found = self._exhausted.sort_out(connection, fence, limit, now, max_claim_count)
                    if found:
                        ids = [message.id for message in found]
                        # Copy and delete in one transaction: a message is always in exactly one of the two tables.
                        connection.execute(self._sql.set_aside, {"ids": json_array(ids)})
                        self._core.delete_rows(connection, ids)
                        self._core.add_to_counters(connection, queue.uid, ready=-len(found))
                        aside = connection.execute(self._sql.list_set_aside, place).fetchall()
                return messages_of(queue.uid, aside)

    @retry_on_conflict
    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        by_id: dict[str, Message] = {}
        for letter in messages:
            if letter.origin is None:
                raise ValueError("a dead letter without an origin")
            by_id.setdefault(letter.origin.message_id, letter)
        with self._core.database.write as connection:
            self._core.check_fence(connection, queue)
            # The step before may be repeated after a crash, so this one leaves out what it stored before. It remembers
            # that in the same transaction, longer than any repetition comes.
            known = {"uid": queue.uid, "letters": json_array(by_id)}
            for (letter_id,) in connection.execute(self._sql.known_letters, known).fetchall():
                del by_id[letter_id]
            if not by_id:
                return
            segment, first = self._core.append(connection, queue, ready=len(by_id))
            letters = dict(enumerate(by_id.values(), first))
            rows = [_row_of(segment, number, letter) for number, letter in letters.items()]
            connection.executemany(self._sql.insert_received, rows)
            if queue.notify:
                self._exhausted.note(connection, queue, letters, now)
            until = now + TOMBSTONE_LIFETIME
            memory = [{"uid": queue.uid, "letter": letter_id, "forget_at": until} for letter_id in by_id]
            connection.executemany(self._sql.remember_received, memory)
        self._core.wake_waiting(queue)

    @retry_on_conflict
    def forget(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        with self._core.database.write as connection:
            segment = self._core.check_fence(connection, queue)
            several = {"segment": segment, "sequences": json_array(sequences)}
            connection.execute(self._sql.forget_set_aside, several)


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
        "trace": letter.trace,
    }
