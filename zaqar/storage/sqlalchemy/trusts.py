# SPDX-License-Identifier: Apache-2.0
"""Which Keystone trusts are to be deleted, on an SQL database."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.model import Trust
from zaqar.storage.base import TrustStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.schema import trusts
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param

_COLUMNS = list(trusts.c)


class TrustStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        t = trusts.c
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        values = {column: param(f"new_{column.name}", column.type) for column in _COLUMNS}
        new = insert(trusts).inline().values(values)
        changes = {column.name: new.excluded[column.name] for column in _COLUMNS if column is not t.id}
        this = t.id == param("id")
        later = sa.and_(t.queue_uid == param("queue_uid"), t.attached.is_(sa.true()), t.due > now)
        self.put = self._text(new.on_conflict_do_update(index_elements=["id"], set_=changes))
        self.get = self._text(sa.select(*_COLUMNS).where(this))
        self.hasten_queue = self._text(sa.update(trusts).where(later).values({t.due: now}))
        self.hasten_subscription = self._text(
            sa.update(trusts).where(later, t.subscription_id == param("subscription_id")).values({t.due: now})
        )
        self.list_due = self._text(
            sa.select(*_COLUMNS).where(t.due <= now).order_by(t.due).limit(limit).offset(NOTHING)
        )
        self.replace = self._text(
            sa.update(trusts)
            .where(this, t.due == param("was_due", sa.Double))
            .values({column: value for column, value in values.items() if column is not t.id})
        )
        self.forget = self._text(sa.delete(trusts).where(this))


@lru_cache
def trust_statements_for(dialect: str) -> TrustStatements:
    return TrustStatements(dialect)


class SqlTrustStore(TrustStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = trust_statements_for(database.dialect)

    @retry_on_conflict
    def put(self, *, trust: Trust) -> None:
        with self._database.write as connection:
            connection.execute(self._statements.put, _row_of(trust))

    def get(self, *, trust_id: str) -> Trust | None:
        with self._database.read() as connection:
            row = connection.execute(self._statements.get, {"id": trust_id}).fetchone()
        return None if row is None else _trust_of(row)

    @retry_on_conflict
    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        sql = self._statements
        with self._database.write as connection:
            if subscription_id is None:
                connection.execute(sql.hasten_queue, {"queue_uid": queue_uid, "now": now})
            else:
                key = {"queue_uid": queue_uid, "subscription_id": subscription_id, "now": now}
                connection.execute(sql.hasten_subscription, key)

    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        with self._database.read() as connection:
            rows = connection.execute(self._statements.list_due, {"now": now, "limit": limit}).fetchall()
        return [_trust_of(row) for row in rows]

    @retry_on_conflict
    def replace(self, *, trust: Trust, was_due: float) -> bool:
        with self._database.write as connection:
            row = {**_row_of(trust), "id": trust.id, "was_due": was_due}
            return connection.execute(self._statements.replace, row).rowcount == 1

    @retry_on_conflict
    def forget(self, *, trust_id: str) -> None:
        with self._database.write as connection:
            connection.execute(self._statements.forget, {"id": trust_id})


def _row_of(trust: Trust) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in asdict(trust).items()}


def _trust_of(row: Any) -> Trust:
    fields = dict(zip((column.name for column in _COLUMNS), row, strict=True))
    # SQLite has no type for it.
    return Trust(**{**fields, "attached": bool(fields["attached"])})
