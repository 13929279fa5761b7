# SPDX-License-Identifier: Apache-2.0
"""Messages of queues on PostgreSQL, each operation in one statement if that is possible."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from zaqar.errors import ClaimOver, SealedMessages, StoreUnavailable
from zaqar.model import Draft, Message, Queue
from zaqar.storage.base import pack_posted
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.core import FAR, json_array
from zaqar.storage.sqlalchemy.message_rows import messages_of
from zaqar.storage.sqlalchemy.messages import TIDY_EVERY, MessageQueries, SqlMessages, page_of
from zaqar.storage.sqlalchemy.postgresql.core import FENCE_COLUMNS, PostgresqlCore, key_of_claim
from zaqar.storage.sqlalchemy.states import DELAYED, READY


class PostgresqlMessageQueries(MessageQueries, file="messages", dialects=["postgresql"]):
    delete_held: str
    delete_many: str
    delete_unclaimed: str
    pop_waiting: str
    post: str
    post_and_note: str


class PostgresqlMessages(SqlMessages):
    _core: PostgresqlCore
    _sql: PostgresqlMessageQueries

    def __init__(self, core: PostgresqlCore) -> None:
        super().__init__(core, PostgresqlMessageQueries.of("postgresql"))

    @retry_on_conflict
    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        count = len(drafts)
        states = [DELAYED if draft.delay > 0 else READY for draft in drafts]
        delayed = states.count(DELAYED)
        traces = [draft.trace for draft in drafts]
        values = {
            "count": count,
            "more_ready": count - delayed,
            "more_delayed": delayed,
            "now": now,
            "client_id": client_id,
            "each_state": states,
            "each_due": [now + draft.delay if draft.delay > 0 else None for draft in drafts],
            "each_expires": [now + draft.ttl for draft in drafts],
            "each_checksum": [draft.checksum for draft in drafts],
            "each_body": [draft.body for draft in drafts],
            # PERF: a null is cheaper than an array of nulls, here and on the server.
            "each_trace": traces if any(traces) else None,
        }
        statement = self._sql.post
        if queue.notify:
            statement, values["content"] = self._sql.post_and_note, pack_posted(drafts, client_id, now, request_id)
        ((segment, end),) = self._core.run(statement, queue, values)
        self._core.wake_waiting(queue)
        rounds = end // TIDY_EVERY - (end - count) // TIDY_EVERY
        if rounds:
            with suppress(StoreUnavailable):  # the post is committed and must not fail or be repeated
                self._core.remove_expired_in([(queue.uid, segment)], now, 2 * TIDY_EVERY * rounds)
        return range(end - count, end)

    @retry_on_conflict
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
        fence, rows = self._core.run_in_order(statement, queue, page, now)
        listed = messages_of(queue.uid, rows)
        first = listed[0].sequence if listed else fence.next_sequence
        if after < fence.ready_from < first - FAR:
            self._core.move_ready_from(queue, now)
        return listed

    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        rows = self._core.run(self._sql.get_messages, queue, {"sequences": json_array(sequences), "now": now})
        return messages_of(queue.uid, (row[FENCE_COLUMNS:] for row in rows if row[FENCE_COLUMNS] is not None))

    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        claim_id = None if claim_id is None else key_of_claim(claim_id)
        if not self._delete_at_once(queue, sequence, claim_id, now):
            # Absent, or not to be deleted by this caller: examine it under a lock, and say which.
            super().delete(queue=queue, sequence=sequence, claim_id=claim_id, now=now)

    @retry_on_conflict
    def _delete_at_once(self, queue: Queue, sequence: int, claim_id: str | None, now: float) -> bool:
        """Delete the message in one statement if the caller may; return whether it is deleted."""
        statement = self._sql.delete_unclaimed if claim_id is None else self._sql.delete_held
        values = {"sequence": sequence, "claim_id": claim_id, "now": now}
        ((_, is_done),) = self._core.run(statement, queue, values)
        return bool(is_done)

    @retry_on_conflict
    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        ids = None if claim_ids is None else [key_of_claim(claim_id) for claim_id in claim_ids]
        values = {"sequences": json_array(sequences), "claim_ids": ids, "now": now}
        ((_, is_refused),) = self._core.run(self._sql.delete_many, queue, values)
        if is_refused:
            raise ClaimOver("A message is not held by one of the claims.")

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        first = {"limit": limit, "now": now}
        popped, is_sealed = self._core.take_first_free(self._sql.pop, self._sql.pop_waiting, queue, first, now)
        if is_sealed:
            raise SealedMessages(queue.uid)
        return popped
