# SPDX-License-Identifier: Apache-2.0
"""Messages of queues on SQLite. A transaction that writes runs alone, so a statement does not lock what it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from zaqar.errors import ClaimOver, SealedMessages
from zaqar.model import Draft, Message, Queue, is_sealed
from zaqar.storage.base import pack_posted
from zaqar.storage.sqlalchemy.core import FAR, StoreCore, json_array
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.messages import TIDY_EVERY, MessageQueries, SqlMessages, page_of
from zaqar.storage.sqlalchemy.states import DELAYED, READY


class SqliteMessageQueries(MessageQueries, file="messages", dialects=["sqlite"]):
    examine_many: str
    insert_message: str
    insert_traced_message: str


class SqliteMessages(SqlMessages):
    _sql: SqliteMessageQueries

    def __init__(self, core: StoreCore) -> None:
        super().__init__(core, SqliteMessageQueries.of("sqlite"))

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        self._core.database.check_room(drafts)
        rows: list[dict[str, Any]] = []
        delayed = 0
        insert = self._sql.insert_message
        # Built before the transaction, in which all other writers wait.
        for draft in drafts:
            is_delayed = draft.delay > 0
            delayed += is_delayed
            row = {
                "state": DELAYED if is_delayed else READY,
                "due": now + draft.delay if is_delayed else None,
                "expires": now + draft.ttl,
                "now": now,
                "client_id": client_id,
                "checksum": draft.checksum,
                "body": draft.body,
            }
            rows.append(row)
            if draft.trace is not None:
                insert = self._sql.insert_traced_message
        count = len(rows)
        if insert is not self._sql.insert_message:
            for row, draft in zip(rows, drafts, strict=True):
                row["trace"] = draft.trace
        with self._core.database.write as connection:
            segment, first = self._core.append(connection, queue, ready=count - delayed, delayed=delayed)
            end = first + count
            for sequence, row in enumerate(rows, first):
                row["segment"] = segment
                row["sequence"] = sequence
            connection.executemany(insert, rows)
            if queue.notify:
                # In the same transaction: a crash leaves the messages and the note, or neither.
                note = {
                    "uid": queue.uid,
                    "first": first,
                    "content": pack_posted(drafts, client_id, now, request_id),
                    "now": now,
                }
                self._core.note_posts(connection, [note])
            rounds = end // TIDY_EVERY - first // TIDY_EVERY
            if rounds:
                self._core.remove_expired(connection, queue.uid, segment, now, limit=2 * TIDY_EVERY * rounds)
        return range(first, end)

    def list_after(
        self,
        *,
        queue: Queue,
        after: int,
        limit: int,
        now: float,
        exclude_client: str | None = None,
        include_claimed: bool = False,
        include_delayed: bool = False,
    ) -> list[Message]:
        statement = self._sql.list_all if include_claimed or include_delayed else self._sql.list_ready
        page = page_of(after, limit, now, exclude_client, claimed=include_claimed, delayed=include_delayed)
        while True:
            with self._core.database.read() as connection:
                fence = self._core.read_fence(connection, queue, now)
                if not fence.due:
                    page.update(segment=fence.segment, after_ready=max(after, fence.ready_from - 1))
                    listed = messages_of(queue.uid, connection.execute(statement, page).fetchall())
                    break
            # A message that is due belongs into the page but does not stand as READY yet. Promoting it needs a
            # transaction that writes, after which the page is read anew.
            self._core.promote_all_due(queue, now)
        first = listed[0].sequence if listed else fence.next_sequence
        if after < fence.ready_from < first - FAR:
            self._core.move_ready_from(queue, now)
        return listed

    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        with self._core.database.read() as connection:
            segment = self._core.check_fence(connection, queue)
            several = {"segment": segment, "sequences": json_array(sequences), "now": now}
            rows = connection.execute(self._sql.get_messages, several).fetchall()
        return messages_of(queue.uid, rows)

    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        with self._core.database.write as connection:
            segment = self._core.check_fence(connection, queue)
            several = {"segment": segment, "sequences": json_array(sequences), "now": now}
            rows = connection.execute(self._sql.examine_many, several).fetchall()
            if claim_ids is not None and any(holder is None or holder not in claim_ids for _, _, holder in rows):
                raise ClaimOver("A message is not held by one of the claims.")
            if rows:
                self._core.delete_rows(connection, [number for number, _, _ in rows])
                self._core.count_deleted(connection, queue.uid, Counter(state for _, state, _ in rows))

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        while True:
            with self._core.database.write as connection:
                fence = self._core.promote_due(connection, queue, now)
                if fence is None:
                    continue
                first = {"segment": fence.segment, "ready_from": fence.ready_from, "limit": limit, "now": now}
                rows = connection.execute(self._sql.pop, first).fetchall()
                popped = messages_of(queue.uid, rows)
                if any(is_sealed(message.body) for message in popped):
                    raise SealedMessages(queue.uid)  # which rolls the transaction back
                self._core.count_taken(connection, queue.uid, fence, popped, now)
                return popped
