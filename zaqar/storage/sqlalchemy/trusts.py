# SPDX-License-Identifier: Apache-2.0
"""Keystone trusts that are to be deleted one day, on an SQL database; see ``sql/trusts.sql``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from zaqar.model import Trust
from zaqar.storage.base import TrustStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries


class TrustQueries(Queries, file="trusts"):
    put: str
    get: str
    hasten_queue: str
    hasten_subscription: str
    list_due: str
    replace: str
    forget: str


class SqlTrusts(TrustStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = TrustQueries.of(database.dialect)

    @retry_on_conflict
    def put(self, *, trust: Trust) -> None:
        with self._database.write as connection:
            connection.execute(self._queries.put, asdict(trust))

    def get(self, *, trust_id: str) -> Trust | None:
        with self._database.read() as connection:
            row = connection.execute(self._queries.get, {"id": trust_id}).fetchone()
        return None if row is None else _trust_of(row)

    @retry_on_conflict
    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        statement = self._queries.hasten_queue if subscription_id is None else self._queries.hasten_subscription
        key = {"queue_uid": queue_uid, "subscription_id": subscription_id, "now": now}
        with self._database.write as connection:
            connection.execute(statement, key)

    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        with self._database.read() as connection:
            rows = connection.execute(self._queries.list_due, {"now": now, "limit": limit}).fetchall()
        return [_trust_of(row) for row in rows]

    @retry_on_conflict
    def replace(self, *, trust: Trust, was_due: float) -> bool:
        with self._database.write as connection:
            return connection.execute(self._queries.replace, {**asdict(trust), "was_due": was_due}).rowcount == 1

    @retry_on_conflict
    def forget(self, *, trust_id: str) -> None:
        with self._database.write as connection:
            connection.execute(self._queries.forget, {"id": trust_id})


def _trust_of(row: tuple[Any, ...]) -> Trust:
    trust = Trust(*row)
    # SQLite has no boolean type: it returns 0 or 1.
    return replace(trust, attached=bool(trust.attached))
