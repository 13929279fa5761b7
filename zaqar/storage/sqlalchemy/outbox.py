# SPDX-License-Identifier: Apache-2.0
"""The outbox on an SQL database: posts whose deliveries are not made yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from zaqar.model import NOT_EXPANDED, Delivery, Posted, PostPosition
from zaqar.storage.base import OutboxStore, unpack_posted
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import StoreCore, json_array
from zaqar.storage.sqlalchemy.delivery_rows import row_of
from zaqar.storage.sqlalchemy.fair_shares import Round, take_fair_shares
from zaqar.storage.sqlalchemy.queries import Queries


class OutboxQueries(Queries, file="outbox"):
    forget_post: str
    get_position: str
    insert_delivery: str
    lease_post: str
    move_position: str
    posts_of_queues: str
    queues_with_posts: str


class SqlOutbox(OutboxStore):
    def __init__(self, core: StoreCore) -> None:
        self._core = core
        self._sql = OutboxQueries.of(core.database.dialect)
        self._queues = Round(core.database, self._sql.queues_with_posts)

    @retry_on_conflict
    def take(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        uids = self._queues.next_backlogs({"now": now, "limit": limit})
        if not uids:
            return []
        with self._core.database.write as connection:
            lease = partial(self._lease, connection, now, until)
            rows = take_fair_shares(uids, limit, limit, lease, backlog_of=itemgetter(0))
        return [
            unpack_posted(content, queue_uid=uid, first=first, position=_position_of(expanded))
            for uid, first, content, expanded in rows
        ]

    def _lease(
        self, connection: Connection, now: float, until: float, uids: Sequence[str], each: int
    ) -> list[tuple[Any, ...]]:
        """Lease up to ``each`` posts of each of these queues; return their rows in order."""
        # On PostgreSQL the first statement locks the posts it finds and passes over posts that others have locked. So
        # two notifiers never lease the same post, and the updates wait for no lock.
        page = {"uids": json_array(uids), "now": now, "limit": each}
        rows = sorted(connection.execute(self._sql.posts_of_queues, page).fetchall())
        if rows:
            leases = [{"uid": uid, "first": first, "until": until} for uid, first, *_ in rows]
            connection.executemany(self._sql.lease_post, leases)
        return rows

    @retry_on_conflict
    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        self._core.database.check_room(deliveries)
        this = {"uid": posted.queue_uid, "first": posted.first}
        with self._core.database.write as connection:
            # 1. Lock the post. If another notifier expands it at this moment, because this one's lease ended, wait for
            #    its commit and read the position that it left. A position other than the one that the caller began at
            #    means that these deliveries were made.
            stored = connection.execute(self._sql.get_position, this).fetchone()
            if stored is None or _position_of(stored[0]) != posted.position:
                return False
            # 2. Leave out what was dropped. A drop that commits after this read does not miss these deliveries: its
            #    tombstone hides them, and a sweep looks at it once more when it ends.
            reachable = self._core.reachable(connection, posted.queue_uid, deliveries)
            if reachable is None:
                return False
            # 3. Insert the deliveries and move on, in one commit. After a crash the post stands at the old position and
            #    the next notifier makes the same deliveries; those that are there, by their key, are left as they are.
            if reachable:
                connection.executemany(self._sql.insert_delivery, map(row_of, reachable))
            if position is None:
                connection.execute(self._sql.forget_post, this)
            else:
                moved = {**this, "until": until, "position": json.dumps(position)}
                connection.execute(self._sql.move_position, moved)
        return True


def _position_of(expanded: str | None) -> PostPosition:
    return NOT_EXPANDED if expanded is None else PostPosition(*json.loads(expanded))
