# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections, on an SQL database."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.storage.base import Node, NodeStore, NodeSubscription
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.schema import node_subscriptions, nodes
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param

_FIELDS = [field.name for field in fields(Node)]


class NodeStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        n, s = nodes.c, node_subscriptions.c
        values = {n[name]: param(f"new_{name}", n[name].type) for name in _FIELDS}
        self.add = self._text(
            insert(nodes).inline().values({**values, n.condemned: sa.false()}).on_conflict_do_nothing()
        )
        live = sa.and_(n.id == param("node_id"), n.condemned.is_(sa.false()))
        self.get = self._text(sa.select(*(n[name] for name in _FIELDS)).where(live))
        self.renew = self._text(sa.update(nodes).where(live).values({n.expires: param("expires")}))
        self.condemn = self._text(
            sa.update(nodes).where(live, n.expires <= now).values({n.condemned: sa.true(), n.expires: NOTHING})
        )
        is_live = sa.select(n.id).where(live)
        self.is_live = self._text(is_live)
        # A shared lock until the end of the transaction. Other notes go on, and a condemnation waits. A note that waits
        # for a condemnation reads the row again and finds it condemned.
        self.keep_live = self._text(is_live.with_for_update(read=True) if self.is_concurrent else is_live)
        self.list_expired = self._text(
            sa.select(n.id).where(n.expires <= now).order_by(n.expires).limit(limit).offset(NOTHING)
        )
        self.remove = self._text(sa.delete(nodes).where(n.id == param("node_id")))
        note = {column: param(f"new_{column.name}", column.type) for column in s}
        self.note = self._text(insert(node_subscriptions).inline().values(note).on_conflict_do_nothing())
        of_node = s.node_id == param("node_id")
        self.list_subscriptions = self._text(
            sa.select(s.queue_uid, s.subscription_id).where(of_node).limit(limit).offset(NOTHING)
        )
        this = sa.and_(of_node, s.queue_uid == param("queue_uid"), s.subscription_id == param("subscription_id"))
        self.forget = self._text(sa.delete(node_subscriptions).where(this))
        self.forget_all = self._text(sa.delete(node_subscriptions).where(of_node))


@lru_cache
def node_statements_for(dialect: str) -> NodeStatements:
    return NodeStatements(dialect)


class SqlNodeStore(NodeStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = node_statements_for(database.dialect)

    @retry_on_conflict
    def add(self, *, node: Node) -> None:
        row = {f"new_{name}": getattr(node, name) for name in _FIELDS}
        with self._database.write as connection:
            connection.execute(self._statements.add, row)

    def get(self, *, node_id: str) -> Node | None:
        with self._database.read() as connection:
            row = connection.execute(self._statements.get, {"node_id": node_id}).fetchone()
        return None if row is None else Node(**dict(zip(_FIELDS, row, strict=True)))

    @retry_on_conflict
    def renew(self, *, node_id: str, expires: float) -> bool:
        with self._database.write as connection:
            row = {"node_id": node_id, "expires": expires}
            return connection.execute(self._statements.renew, row).rowcount == 1

    @retry_on_conflict
    def condemn(self, *, node_id: str, now: float) -> bool:
        with self._database.write as connection:
            # The first statement decides. If it changes nothing, the node is condemned or absent, or its lease was not
            # over, and the second statement tells which. A renewal in between does no harm.
            if connection.execute(self._statements.condemn, {"node_id": node_id, "now": now}).rowcount == 1:
                return True
            return connection.execute(self._statements.is_live, {"node_id": node_id}).fetchone() is None

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        with self._database.read() as connection:
            rows = connection.execute(self._statements.list_expired, {"now": now, "limit": limit}).fetchall()
        return [node_id for (node_id,) in rows]

    @retry_on_conflict
    def remove(self, *, node_id: str) -> None:
        with self._database.write as connection:
            # Delete the node first. That waits for notes that are being made, so none is added after the second step.
            connection.execute(self._statements.remove, {"node_id": node_id})
            connection.execute(self._statements.forget_all, {"node_id": node_id})

    @retry_on_conflict
    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        with self._database.write as connection:
            if connection.execute(self._statements.keep_live, {"node_id": node_id}).fetchone() is None:
                return False
            row = {f"new_{name}": value for name, value in subscription._asdict().items()}
            connection.execute(self._statements.note, {"new_node_id": node_id, **row})
        return True

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        with self._database.read() as connection:
            page = {"node_id": node_id, "limit": limit}
            rows = connection.execute(self._statements.list_subscriptions, page).fetchall()
        return [NodeSubscription(*row) for row in rows]

    @retry_on_conflict
    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        # Sorted, so that all transactions lock rows in the same order and none deadlock.
        rows = [{"node_id": node_id, **each._asdict()} for each in sorted(set(subscriptions))]
        if rows:
            with self._database.write as connection:
                connection.executemany(self._statements.forget, rows)
