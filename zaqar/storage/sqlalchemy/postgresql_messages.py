# SPDX-License-Identifier: Apache-2.0
"""The message store on PostgreSQL: the warm operations in one round trip, the others as on any SQL database.

What is inherited locks the fence, then the messages that it read; the warm operations lock only messages, but for
``post``. docs/decisions/0008 says why they may meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from zaqar.errors import ClaimOver, NotFound, SealedMessages, StaleQueue, StoreUnavailable
from zaqar.model import Claim, DeadLetters, Draft, Message, Queue, Stats
from zaqar.storage.base import Wakeups, pack_posted
from zaqar.storage.sqlalchemy.fences import FAR, Fence
from zaqar.storage.sqlalchemy.messages import TIDY_EVERY, SqlMessageStore
from zaqar.storage.sqlalchemy.postgresql_database import PostgresqlDatabase
from zaqar.storage.sqlalchemy.postgresql_statements import warm_statements
from zaqar.storage.sqlalchemy.rows import message_of, messages_of
from zaqar.storage.sqlalchemy.sql import json_array
from zaqar.storage.sqlalchemy.tables import DELAYED, READY
from zaqar.storage.sqlalchemy.undone import repeated

_NEVER: Final = 2**31 - 1
"""No message is claimed that often."""

_FENCE: Final = 4
"""The first columns of a warm operation are those of ``Fence``."""


class PostgresqlMessageStore(SqlMessageStore):
    _database: PostgresqlDatabase

    def __init__(self, database: PostgresqlDatabase) -> None:
        super().__init__(database)
        self._warm = warm_statements()

    def _run(self, statement: str, queue: Queue, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a warm operation, which are none where the queue is stale."""
        with self._database.alone() as connection:
            key = {"uid": queue.uid, "generation": queue.generation, **values}
            rows = connection.execute(statement, key).fetchall()
        if not rows:
            raise StaleQueue(queue.uid)
        return rows

    # -- messages ----------------------------------------------------------------------------------------------------

    @repeated
    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        count = len(drafts)
        states = [DELAYED if draft.delay > 0 else READY for draft in drafts]
        delayed = states.count(DELAYED)
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
        }
        statement = self._warm.post
        if queue.notify:
            statement, values["content"] = self._warm.post_and_note, pack_posted(drafts, client_id, now)
        ((segment, end),) = self._run(statement, queue, values)
        self._tell(queue)
        rounds = end // TIDY_EVERY - (end - count) // TIDY_EVERY
        if rounds:
            self._tidy(queue.uid, segment, now, limit=2 * TIDY_EVERY * rounds)
        return range(end - count, end)

    def _tell(self, queue: Queue) -> None:
        """Wake those that wait for the queue, in a transaction of its own after that which they wait for.

        In the same one it would hold the server's lock of notifications while the disk writes, so that the posts to all
        queues would be written one by one. If this fails, waiting clients find out within a second by themselves; the
        operation before is done and must not be repeated.
        """
        if self._database.listen:
            with suppress(StoreUnavailable), self._database.alone() as connection:
                connection.execute(self._warm.tell, {"uid": queue.uid})

    def wakeups(self) -> Wakeups | None:
        return self._database.wakeups() if self._database.listen else None

    def _tidy(self, uid: str, segment: int, now: float, *, limit: int) -> None:
        with suppress(StoreUnavailable):  # the post is done
            self._expire_in([(uid, segment)], now, limit)

    @repeated
    def list_messages(
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
        statement = self._warm.listing(
            claimed=include_claimed, delayed=include_delayed, excluding=exclude_client is not None
        )
        page = {"after": after, "limit": limit, "now": now, "exclude_client": exclude_client}
        fence, rows = self._settled_rows(statement, queue, page, now)
        listed = messages_of(queue.uid, rows)
        first = listed[0].sequence if listed else fence.next_sequence
        if after < fence.ready_from < first - FAR:
            self._move_ready_from(queue, now)
        return listed

    def _settled_rows(
        self, statement: str, queue: Queue, values: Mapping[str, Any], now: float
    ) -> tuple[Fence, list[tuple[Any, ...]]]:
        """The fence and what was found, when nothing is due any more."""
        while True:
            rows = self._run(statement, queue, values)
            fence = Fence._make(rows[0][:_FENCE])
            if not fence.due:
                return fence, [row[_FENCE:] for row in rows if row[_FENCE] is not None]
            self._settle(queue, now)

    def _move_ready_from(self, queue: Queue, now: float) -> None:
        # What is not committed yet counts as free here, and who frees a message before this place waits for the fence.
        with suppress(StoreUnavailable, StaleQueue), self._database.write as connection:
            fence = self._look(connection, queue, now)
            first = self._first_free(connection, fence, now)
            if first > fence.ready_from:
                self._count(connection, queue.uid, ready_from=first)

    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        rows = self._run(self._warm.get, queue, {"sequences": json_array(sequences), "now": now})
        return messages_of(queue.uid, (row[_FENCE:] for row in rows if row[_FENCE] is not None))

    @repeated
    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        sql = self._warm
        claim_id = None if claim_id is None else _claim_key(claim_id)
        values = {"sequence": sequence, "claim_id": claim_id, "now": now}
        statement = sql.delete_unclaimed if claim_id is None else sql.delete_held
        ((_, done),) = self._run(statement, queue, values)
        if not done:
            super().delete_message(queue=queue, sequence=sequence, claim_id=claim_id, now=now)

    @repeated
    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        ids = None if claim_ids is None else [_claim_key(claim_id) for claim_id in claim_ids]
        values = {"sequences": json_array(sequences), "claim_ids": ids, "now": now}
        ((_, refused),) = self._run(self._warm.delete_several, queue, values)
        if refused:
            raise ClaimOver("A message is not held by one of the claims.")

    @repeated
    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        popped, is_sealed = self._take(self._warm.pop, self._warm.pop_waiting, queue, {"limit": limit, "now": now}, now)
        if is_sealed:
            raise SealedMessages(queue.uid)
        return popped

    def _take(
        self, statement: str, waiting: str, queue: Queue, values: Mapping[str, Any], now: float
    ) -> tuple[list[Message], bool]:
        """The messages that were taken, and whether none was because one of them is worn out, or for a pop sealed.

        Who passes over what others have locked finds nothing where they have all there is; they may yet let it go. So
        that is looked at once more, and waited for, before the answer is that nothing is free.
        """
        fence, rows = self._settled_rows(statement, queue, values, now)
        worn, left = rows[0][:2]
        if left and not worn:
            fence, rows = self._settled_rows(waiting, queue, values, now)
            worn = rows[0][0]
        taken = messages_of(queue.uid, (row[2:] for row in rows if row[2] is not None))
        first = taken[0].sequence if taken else fence.next_sequence
        if first - fence.ready_from > FAR and not worn:
            self._move_ready_from(queue, now)
        return taken, worn

    @repeated
    def stats(self, *, queue: Queue, now: float) -> Stats:
        fence, rows = self._settled_rows(self._warm.stats, queue, {"now": now}, now)
        if not rows:  # too many have expired to count them each time
            self._relieve(queue, fence.segment, now)
            _, rows = self._settled_rows(self._warm.patient_stats, queue, {"now": now}, now)
        ((free, claimed, *ends),) = rows
        half = len(ends) // 2
        oldest, newest = (
            None if end[0] is None else message_of(queue.uid, tuple(end)) for end in (ends[:half], ends[half:])
        )
        return Stats(free, claimed, oldest, newest)

    # -- claims ------------------------------------------------------------------------------------------------------

    @repeated
    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        sql = self._warm
        passing_over = dead_letters is not None and dead_letters.queue is None
        values = {
            "now": now,
            "new_claim_id": claim.id,
            "ttl": claim.ttl,
            "grace": claim.grace,
            "end": claim.expires,
            "life": claim.expires + claim.grace,
            "limit": limit,
            "max_claim_count": _NEVER if dead_letters is None else dead_letters.max_claim_count,
        }
        texts = (sql.take_fresh, sql.take_fresh_waiting) if passing_over else (sql.take, sql.take_waiting)
        taken, worn = self._take(*texts, queue, values, now)
        if worn:
            taken = super().claim(queue=queue, claim=claim, limit=limit, now=now, dead_letters=dead_letters)
            if dead_letters is not None and dead_letters.queue is not None:
                self._tell(dead_letters.queue)
        return taken

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        rows = self._run(self._warm.get_claim, queue, {"claim": _claim_key(claim_id), "now": now})
        ttl, grace, started = rows[0][_FENCE : _FENCE + 3]
        if ttl is None:
            raise NotFound("There is no such claim.")
        held = (row[_FENCE + 3 :] for row in rows if row[_FENCE + 3] is not None)
        return Claim(claim_id, ttl, grace, started), messages_of(queue.uid, held)

    @repeated
    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        super().renew_claim(queue=queue, claim_id=_claim_key(claim_id), ttl=ttl, grace=grace, now=now)

    @repeated
    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        super().release_claim(queue=queue, claim_id=_claim_key(claim_id), now=now)
        self._tell(queue)

    @repeated
    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        super().receive(queue=queue, messages=messages, now=now)
        self._tell(queue)

    # -- as on any SQL database, but begun anew where two were in each other's way -------------------------------------

    open_queue = repeated(SqlMessageStore.open_queue)
    drop_queue = repeated(SqlMessageStore.drop_queue)
    set_aside = repeated(SqlMessageStore.set_aside)
    forget_set_aside = repeated(SqlMessageStore.forget_set_aside)
    purge = repeated(SqlMessageStore.purge)
    sweep = repeated(SqlMessageStore.sweep)
    take_posted = repeated(SqlMessageStore.take_posted)
    expand = repeated(SqlMessageStore.expand)
    drop_deliveries = repeated(SqlMessageStore.drop_deliveries)
    put_delivery = repeated(SqlMessageStore.put_delivery)
    take_deliveries = repeated(SqlMessageStore.take_deliveries)
    extend_leases = repeated(SqlMessageStore.extend_leases)
    advance_deliveries = repeated(SqlMessageStore.advance_deliveries)
    settle = repeated(SqlMessageStore.settle)
    resend = repeated(SqlMessageStore.resend)
    replace_bodies = repeated(SqlMessageStore.replace_bodies)


def _claim_key(claim_id: str) -> str:
    """The id, or one that no claim has where it is guessed and PostgreSQL could not even be asked for it."""
    return "" if "\0" in claim_id or not claim_id.isascii() else claim_id
