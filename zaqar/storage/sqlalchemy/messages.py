# SPDX-License-Identifier: Apache-2.0
"""The data plane on an SQL database: messages, and the queue as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NoReturn, Self, cast

from zaqar.errors import ClaimOver, Forbidden, SealedMessages, StaleQueue, StoreUnavailable
from zaqar.model import Draft, Message, Queue, QueuePosition, Stats, is_sealed
from zaqar.storage.base import pack_posted
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.fences import BATCH, FAR
from zaqar.storage.sqlalchemy.rows import messages_of
from zaqar.storage.sqlalchemy.schema import CLAIMED, DELAYED, READY
from zaqar.storage.sqlalchemy.sealed import SealedBodyStore
from zaqar.storage.sqlalchemy.sql import json_array

TIDY_EVERY = 64
"""A post that passes a multiple of this number removes twice as many expired messages.

So a queue that nobody reads takes bounded space without a sweep, and posts beside expired messages cost the same.
"""

BATCHES_AT_ONCE = 8
"""Batches of expired messages that statistics remove at most before they count the rest."""


class SqlMessageStore(SealedBodyStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD"})

    @classmethod
    def on(cls, database: Database) -> Self:
        if database.dialect != "postgresql":
            return cls(database)
        from zaqar.storage.sqlalchemy.postgresql_messages import PostgresqlMessageStore

        return cast("Self", PostgresqlMessageStore(cast("Any", database)))

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        self._database.check_room(drafts)
        sql = self._statements
        count = len(drafts)
        states = [DELAYED if draft.delay > 0 else READY for draft in drafts]
        delayed = states.count(DELAYED)
        key = {"uid": queue.uid, "generation": queue.generation}
        more = {"count": count, "more_ready": count - delayed, "more_delayed": delayed}
        with self._database.write as connection:
            # Commits come in the order of these numbers, as each transaction that takes some runs alone.
            taken = connection.execute(sql.fences.append, {**key, **more}).fetchall()
            if not taken:
                raise StaleQueue(queue.uid)
            ((segment, end),) = taken
            rows = [
                {
                    "segment": segment,
                    "sequence": sequence,
                    "state": state,
                    "due": now + draft.delay if state == DELAYED else None,
                    "expires": now + draft.ttl,
                    "now": now,
                    "client_id": client_id,
                    "checksum": draft.checksum,
                    "body": draft.body,
                }
                for sequence, state, draft in zip(range(end - count, end), states, drafts, strict=True)
            ]
            connection.executemany(sql.messages.insert, rows)
            if queue.notify:
                note = {"uid": queue.uid, "first": end - count, "content": pack_posted(drafts, client_id, now)}
                connection.execute(self._outbox.note, {**note, "now": now})
            rounds = end // TIDY_EVERY - (end - count) // TIDY_EVERY
            if rounds:
                self._expire(connection, queue.uid, segment, now, limit=2 * TIDY_EVERY * rounds)
        return range(end - count, end)

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
        statement = self._statements.messages.listing(
            claimed=include_claimed, delayed=include_delayed, excluding=exclude_client is not None
        )
        page = {"after": after, "limit": limit, "now": now, "exclude_client": exclude_client}
        while True:
            with self._database.read() as connection:
                fence = self._look(connection, queue, now)
                if not fence.due:
                    page.update(segment=fence.segment, after_ready=max(after, fence.ready_from - 1))
                    listed = messages_of(queue.uid, connection.execute(statement, page).fetchall())
                    break
            self._settle(queue, now)
        first = listed[0].sequence if listed else fence.next_sequence
        if after < fence.ready_from < first - FAR:
            self._move_ready_from(queue, now)
        return listed

    def _move_ready_from(self, queue: Queue, now: float) -> None:
        """After a listing that passed many numbers in vain, so that the next one does not."""
        with suppress(StoreUnavailable, StaleQueue):  # the listing is done; this only makes others faster
            with self._database.read() as connection:
                fence = self._look(connection, queue, now)
                first = self._first_free(connection, fence, now)
            if first > fence.ready_from + FAR:
                with self._database.write as connection:
                    first = self._first_free(connection, self._look(connection, queue, now), now)
                    self._count(connection, queue.uid, ready_from=first)

    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        with self._database.read() as connection:
            several = {"segment": self._segment(connection, queue), "sequences": json_array(sequences), "now": now}
            rows = connection.execute(self._statements.messages.get, several).fetchall()
        return messages_of(queue.uid, rows)

    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        sql = self._statements
        with self._database.write as connection:
            segment = self._segment(connection, queue)
            key = {"segment": segment, "sequence": sequence, "now": now}
            if claim_id is not None:
                held = {**key, "claim_id": claim_id}
                if connection.execute(sql.messages.delete_held, held).rowcount:
                    self._count(connection, queue.uid, claimed=-1)
                    return
            row = connection.execute(sql.messages.examine, key).fetchone()
            if row is None:
                return
            number, state, holder = row
            if claim_id is not None:
                self._refuse(connection, segment, claim_id, holder, now)
            if holder is not None:
                raise Forbidden("The message is claimed.")
            connection.execute(sql.messages.delete, {"id": number})
            self._count_deleted(connection, queue.uid, Counter((state,)))

    def _refuse(self, connection: Connection, segment: int, claim_id: str, holder: str | None, now: float) -> NoReturn:
        """Say why a claim id cannot delete the message that ``holder`` has."""
        key = {"segment": segment, "claim": claim_id, "now": now}
        live = connection.execute(self._statements.claims.live, key).fetchone() is not None
        if not live or holder is None:
            raise ClaimOver("The claim is over, or the message is not claimed.")
        raise Forbidden("The message is held by another claim.")

    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        sql = self._statements.messages
        with self._database.write as connection:
            several = {"segment": self._segment(connection, queue), "sequences": json_array(sequences), "now": now}
            rows = connection.execute(sql.examine_several, several).fetchall()
            if claim_ids is not None and any(holder is None or holder not in claim_ids for _, _, holder in rows):
                raise ClaimOver("A message is not held by one of the claims.")
            if rows:
                connection.execute(sql.delete_several, {"ids": json_array(number for number, _, _ in rows)})
                self._count_deleted(connection, queue.uid, Counter(state for _, state, _ in rows))

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        while True:
            with self._database.write as connection:
                fence = self._settled(connection, queue, now)
                if fence is None:
                    continue
                first = {"segment": fence.segment, "ready_from": fence.ready_from, "limit": limit, "now": now}
                rows = connection.execute(self._statements.messages.pop, first).fetchall()
                popped = messages_of(queue.uid, rows)
                if any(is_sealed(message.body) for message in popped):
                    raise SealedMessages(queue.uid)  # which rolls the transaction back
                self._count_taken(connection, queue.uid, fence, popped, now)
                return popped

    def stats(self, *, queue: Queue, now: float) -> Stats:
        sql = self._statements
        every = sql.messages.listing(claimed=True, delayed=False, excluding=False)
        count = sql.fences.counts
        while True:
            with self._database.read() as connection:
                fence = self._look(connection, queue, now)
                if not fence.due:
                    (counted,) = connection.execute(count, {"uid": queue.uid, "now": now}).fetchall()
                    if counted[0] is not None:
                        end = {"segment": fence.segment, "after": 0, "after_ready": fence.ready_from - 1}
                        one = {**end, "limit": 1, "now": now}
                        oldest = connection.execute(every, one).fetchall()
                        newest = connection.execute(sql.messages.newest, one).fetchall()
                        break
            if fence.due:
                self._settle(queue, now)
            else:
                self._relieve(queue, fence.segment, now)
                count = sql.fences.patient_counts
        return Stats(*counted, *messages_of(queue.uid, oldest), *messages_of(queue.uid, newest))

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        with self._database.read_once() as connection:
            several = {"uids": json_array(uids), "now": now}
            rows = connection.execute(self._statements.fences.positions, several).fetchall()
        return {uid: QueuePosition(last, bool(free), next_due) for uid, last, free, next_due in rows}

    def _relieve(self, queue: Queue, segment: int, now: float) -> None:
        """Remove expired messages, no more than one caller can wait for; the next ones and the sweep go on."""
        for _ in range(BATCHES_AT_ONCE):
            if self._expire_in([(queue.uid, segment)], now, BATCH) < BATCH:
                break
        self._move_ready_from(queue, now)

    def _count_deleted(self, connection: Connection, uid: str, states: Counter[Any]) -> None:
        self._count(connection, uid, ready=-states[READY], claimed=-states[CLAIMED], delayed=-states[DELAYED])
