# SPDX-License-Identifier: Apache-2.0
"""The statements of the management store, as text for one dialect; see ``statements``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.model import QueueName
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, param, ping_of, uid
from zaqar.storage.sqlalchemy.tables import catalog, queues


class QueueStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        q = queues.c
        columns = (q.uid, q.project, q.kind, q.name, q.metadata, q.pool, q.generation, q.notify)
        within = sa.and_(q.project == param("project"), q.kind == param("kind"))
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        values = {column: param(f"new_{column.name}", column.type) for column in columns}
        self.insert = self._text(
            insert(queues).values(values).on_conflict_do_nothing(index_elements=["project", "kind", "name"])
        )
        self.get = self._text(sa.select(*columns).where(within, q.name == param("name")))
        wanted, names = _wanted(dialect)
        found = sa.and_(*(q[name] == value for name, value in names.items()))
        self.find = self._text(sa.select(*columns).select_from(wanted.join(queues, found)))
        self.list = self._text(
            sa.select(*columns).where(within, q.name > param("after")).order_by(q.name).limit(limit).offset(NOTHING)
        )
        self.list_names = self._text(
            sa.select(q.name).where(within, q.name > param("after")).order_by(q.name).limit(limit).offset(NOTHING)
        )
        self.count = self._text(sa.select(sa.func.count()).select_from(queues).where(within))
        self.replace = self._text(
            sa.update(queues)
            .where(q.uid == uid, q.generation == param("replaces", q.generation.type))
            .values({column: values[column] for column in (q.metadata, q.pool, q.generation, q.notify)})
        )
        self.delete = self._text(sa.delete(queues).where(q.uid == uid))
        self.on_pool = self._text(
            sa.select(q.uid).where(q.pool == param("pool")).limit(sa.literal_column("1")).offset(NOTHING)
        )
        self._define_catalog(insert)
        self.ping = self._text(ping_of(queues))

    def _define_catalog(self, insert: Any) -> None:
        c = catalog.c
        only: Any = sa.literal_column("1", sa.SmallInteger)
        values = {c.version: param("new_version"), c.content: param("new_content")}
        self.get_catalog = self._text(sa.select(c.version, c.content).where(c.id == only))
        self.replace_catalog = self._text(
            sa.update(catalog)
            .where(c.id == only, c.version == param("new_version") - sa.literal_column("1"))
            .values(values)
        )
        self.insert_catalog = self._text(
            insert(catalog).inline().values({c.id: only, **values}).on_conflict_do_nothing(index_elements=["id"])
        )


def _wanted(dialect: str) -> tuple[Any, dict[str, Any]]:
    """The names in the parameter ``addresses``, an array of arrays in JSON, as rows; and the parts of each."""
    given = param("addresses", sa.Text)
    if dialect == "sqlite":
        rows: Any = sa.func.json_each(given).table_valued(sa.column("value", sa.Text), name="wanted")
        parts = [sa.func.json_extract(rows.c.value, sa.literal_column(f"'$[{n}]'")) for n in range(3)]
    else:
        each: Any = sa.func.json_array_elements(sa.cast(given, sa.JSON))
        rows = each.table_valued(sa.column("value", sa.Text), name="wanted")
        parts = [rows.c.value.op("->>")(sa.literal_column(str(n))) for n in range(3)]
    return rows, dict(zip(QueueName._fields, parts, strict=True))


@lru_cache
def queue_statements_for(dialect: str) -> QueueStatements:
    return QueueStatements(dialect)
