# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections, on an SQL database; see ``sql/nodes.sql``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from zaqar.storage.base import Node, NodeStore, NodeSubscription
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries


class NodeQueries(Queries, file="nodes"):
    add: str
    get: str
    is_live: str
    keep_live: str
    renew: str
    condemn: str
    list_expired: str
    remove: str
    note: str
    list_subscriptions: str
    forget: str
    forget_all: str


class SqlNodes(NodeStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = NodeQueries.of(database.dialect)

    @retry_on_conflict
    def add(self, *, node: Node) -> None:
        with self._database.write as connection:
            connection.execute(self._queries.add, asdict(node))

    def get(self, *, node_id: str) -> Node | None:
        with self._database.read() as connection:
            row = connection.execute(self._queries.get, {"node_id": node_id}).fetchone()
        return None if row is None else Node(*row)

    @retry_on_conflict
    def renew(self, *, node_id: str, expires: float) -> bool:
        with self._database.write as connection:
            row = {"node_id": node_id, "expires": expires}
            return connection.execute(self._queries.renew, row).rowcount == 1

    @retry_on_conflict
    def condemn(self, *, node_id: str, now: float) -> bool:
        with self._database.write as connection:
            # The first statement decides. If it changes nothing, the node is condemned or absent, or its lease was not
            # over, and the second statement tells which. A renewal in between does no harm.
            if connection.execute(self._queries.condemn, {"node_id": node_id, "now": now}).rowcount == 1:
                return True
            return connection.execute(self._queries.is_live, {"node_id": node_id}).fetchone() is None

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        with self._database.read() as connection:
            rows = connection.execute(self._queries.list_expired, {"now": now, "limit": limit}).fetchall()
        return [node_id for (node_id,) in rows]

    @retry_on_conflict
    def remove(self, *, node_id: str) -> None:
        with self._database.write as connection:
            # Delete the node first. That waits for notes that are being made, so none is added after the second step.
            connection.execute(self._queries.remove, {"node_id": node_id})
            connection.execute(self._queries.forget_all, {"node_id": node_id})

    @retry_on_conflict
    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        with self._database.write as connection:
            if connection.execute(self._queries.keep_live, {"node_id": node_id}).fetchone() is None:
                return False
            connection.execute(self._queries.note, {"node_id": node_id, **subscription._asdict()})
        return True

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        with self._database.read() as connection:
            page = {"node_id": node_id, "limit": limit}
            rows = connection.execute(self._queries.list_subscriptions, page).fetchall()
        return [NodeSubscription(*row) for row in rows]

    @retry_on_conflict
    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        # Sorted, so that all transactions lock rows in the same order and none deadlock.
        rows = [{"node_id": node_id, **each._asdict()} for each in sorted(set(subscriptions))]
        if rows:
            with self._database.write as connection:
                connection.executemany(self._queries.forget, rows)
