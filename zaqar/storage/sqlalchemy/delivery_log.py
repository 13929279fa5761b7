# SPDX-License-Identifier: Apache-2.0
"""The log of deliveries of one subscription on an SQL database, and dropping or resending them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from zaqar.model import DEAD, WAITING, Delivery, DeliveryKey
from zaqar.storage.base import DROPPED_LIFETIME, DeliveryLogStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.core import StoreCore, json_array, tombstone_of
from zaqar.storage.sqlalchemy.delivery_rows import delivery_of, key_of
from zaqar.storage.sqlalchemy.queries import Queries
from zaqar.storage.sqlalchemy.states import DELIVERY_STATES

_AFTER_ALL: Final = 2**62
"""A number that no delivery has."""


class DeliveryLogQueries(Queries, file="delivery_log"):
    count_deliveries: str
    get_delivery: str
    list_deliveries: str
    list_settled: str
    list_waiting: str
    resend: str
    resend_dead: str


class SqlDeliveryLog(DeliveryLogStore):
    def __init__(self, core: StoreCore) -> None:
        self._core = core
        self._sql = DeliveryLogQueries.of(core.database.dialect)

    def list_before(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        page: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "limit": limit}
        page["before"] = _AFTER_ALL if before is None else before
        statement = self._sql.list_deliveries
        if state == WAITING:
            statement = self._sql.list_waiting
        elif state is not None:
            statement, page["state"] = self._sql.list_settled, DELIVERY_STATES.index(state)
        with self._core.database.read() as connection:
            found = [delivery_of(row) for row in connection.execute(statement, page).fetchall()]
        return sorted(found, key=lambda each: each.number, reverse=True)

    def get(self, *, key: DeliveryKey) -> Delivery | None:
        with self._core.database.read() as connection:
            row = connection.execute(self._sql.get_delivery, key_of(key)).fetchone()
        return None if row is None else delivery_of(row)

    def count(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        with self._core.database.read() as connection:
            one = {"uid": queue_uid, "subscription": subscription_id}
            waiting, dead = connection.execute(self._sql.count_deliveries, one).fetchone()
        return {WAITING: waiting, DEAD: dead}

    @retry_on_conflict
    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        one: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "now": now}
        with self._core.database.write as connection:
            if numbers is None:
                return connection.execute(self._sql.resend_dead, {**one, "limit": limit}).rowcount
            return connection.execute(self._sql.resend, {**one, "numbers": json_array(numbers)}).rowcount

    @retry_on_conflict
    def drop(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        # All transactions lock tombstones in one order.
        tombstones = [tombstone_of(queue_uid, id_, now, now + DROPPED_LIFETIME) for id_ in sorted(subscription_ids)]
        if tombstones:
            with self._core.database.write as connection:
                self._core.hide_deliveries(connection, tombstones)
