# SPDX-License-Identifier: Apache-2.0
"""Messages of queues on an SQL database: what SQLite and PostgreSQL share.

Most operations differ: see ``sqlite.messages`` and ``postgresql.messages``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NoReturn

from zaqar.errors import ClaimOver, Forbidden
from zaqar.model import Queue
from zaqar.storage.base import QueuedMessageStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.queries import Queries

TIDY_EVERY: Final = 64
"""A post that passes a multiple of this number removes twice as many expired messages.

So a queue that nobody reads takes bounded space without a sweep, and posts beside expired messages cost the same.
"""

AFTER_ALL: Final = 2**62
"""A number that no message has. A state that is not asked for is listed from here on."""


class MessageQueries(Queries):
    delete_claimed: str
    delete_row: str
    examine: str
    get_messages: str
    is_live_claim: str
    list_all: str
    list_ready: str
    pop: str


class SqlMessages(QueuedMessageStore):
    def __init__(self, core: StoreCore, queries: MessageQueries) -> None:
        self._core = core
        self._sql: MessageQueries = queries

    @retry_on_conflict
    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        sql = self._sql
        with self._core.database.write as connection:
            segment = self._core.check_fence(connection, queue)
            key = {"segment": segment, "sequence": sequence, "now": now}
            # One statement in the usual case, without reading the row first.
            if claim_id is not None and connection.execute(sql.delete_claimed, {**key, "claim_id": claim_id}).rowcount:
                self._core.add_to_counters(connection, queue.uid, claimed=-1)
                return
            row = connection.execute(sql.examine, key).fetchone()
            if row is None:
                return
            number, state, holder = row
            if claim_id is not None:
                self._refuse(connection, segment, claim_id, holder, now)
            if holder is not None:
                raise Forbidden("The message is claimed.")
            # The row was locked when it was read, so it is as it was examined.
            connection.execute(sql.delete_row, {"id": number})
            self._core.count_deleted(connection, queue.uid, Counter((state,)))

    def _refuse(self, connection: Connection, segment: int, claim_id: str, holder: str | None, now: float) -> NoReturn:
        """Say why a claim id cannot delete the message that ``holder`` has."""
        key = {"segment": segment, "claim": claim_id, "now": now}
        live = connection.execute(self._sql.is_live_claim, key).fetchone() is not None
        if not live or holder is None:
            raise ClaimOver("The claim is over, or the message is not claimed.")
        raise Forbidden("The message is held by another claim.")


def page_of(
    after: int, limit: int, now: float, exclude_client: str | None, *, claimed: bool, delayed: bool
) -> dict[str, Any]:
    """The parameters of a listing. A state that is not asked for has no messages after its number."""
    return {
        "after": after,
        "after_claimed": after if claimed else AFTER_ALL,
        "after_delayed": after if delayed else AFTER_ALL,
        "limit": limit,
        "now": now,
        "exclude_client": exclude_client,
    }
