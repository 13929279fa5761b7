# SPDX-License-Identifier: Apache-2.0
"""Deliveries on an SQL database: notifiers take them under a lease, and settle them.

All methods lock the rows of deliveries in the order of their keys, so that two transactions never wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

from zaqar.model import WAITING, Delivery, DeliveryKey
from zaqar.storage.base import DeliveryStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import StoreCore, json_array
from zaqar.storage.sqlalchemy.delivery_rows import delivery_of, key_of, row_of
from zaqar.storage.sqlalchemy.fair_shares import Round, take_fair_shares
from zaqar.storage.sqlalchemy.queries import Queries

ROUNDS = 3
"""Attempts to find deliveries if other notifiers are faster to take those that were found."""


class DeliveryQueries(Queries, file="deliveries"):
    due_of_subscriptions: str
    extend_lease: str
    has_undelivered_before: str
    lease: str
    make_due_earlier: str
    put_delivery: str
    remove: str
    settle: str
    subscriptions_with_due: str


class SqlDeliveries(DeliveryStore):
    def __init__(self, core: StoreCore) -> None:
        self._core = core
        self._sql = DeliveryQueries.of(core.database.dialect)
        self._subscriptions = Round(core.database, self._sql.subscriptions_with_due)

    @retry_on_conflict
    def put(self, *, delivery: Delivery) -> None:
        with self._core.database.write as connection:
            for reachable in self._core.reachable(connection, delivery.queue_uid, [delivery]) or ():
                connection.execute(self._sql.put_delivery, row_of(reachable))

    @retry_on_conflict
    def take(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        page = {"now": now, "limit": limit, "without": json_array(without)}
        for _ in range(ROUNDS):
            subscriptions = self._subscriptions.next_backlogs(page)
            if not subscriptions:
                break
            with self._core.database.write as connection:
                lease = partial(self._lease, connection, owner, until, now)
                found = take_fair_shares(
                    subscriptions, limit, most_of_one, lease, backlog_of=attrgetter("subscription_id")
                )
            if found:
                return [replace(delivery, owner=owner, due=until) for delivery in found]
        return []

    def _lease(
        self, connection: Connection, owner: str, until: float, now: float, subscriptions: Sequence[str], each: int
    ) -> list[Delivery]:
        """Lease up to ``each`` deliveries of each of these subscriptions; return them as they were, in order."""
        page = {"subscriptions": json_array(subscriptions), "now": now, "limit": each}
        # Two statements, because RETURNING would yield the rows of an UPDATE in no defined order. On PostgreSQL the
        # first one locks the rows that it finds and passes over rows that other notifiers have locked.
        rows = connection.execute(self._sql.due_of_subscriptions, page).fetchall()
        if rows:
            lease = {"owner": owner, "until": until, "ids": json_array(number for number, *_ in rows)}
            connection.execute(self._sql.lease, lease)
        return sorted((delivery_of(row[1:]) for row in rows), key=lambda found: (found.due, found.number))

    @retry_on_conflict
    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        leases = [{**key_of(key), "owner": owner, "until": until} for key in sorted(keys)]
        if leases:
            with self._core.database.write as connection:
                connection.executemany(self._sql.extend_lease, leases)

    @retry_on_conflict
    def make_due_earlier(self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]) -> int:
        changes = [
            {"uid": queue_uid, "subscription": subscription_id, "number": number, "before": before, "until": due}
            for number, (before, due) in sorted(dues.items())
        ]
        with self._core.database.write as connection:
            return sum(connection.execute(self._sql.make_due_earlier, change).rowcount for change in changes)

    @retry_on_conflict
    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        changes: list[tuple[str, Mapping[str, Any]]] = []
        # In the order of their keys, those that stay and those that go: an extension of leases locks both kinds in this
        # order too.
        for delivery in sorted(settled, key=lambda each: each.key):
            is_kept = delivery.state == WAITING or (delivery.keep_until is not None and delivery.keep_until > now)
            mine = {**key_of(delivery.key), "owner": owner}
            if is_kept:
                changes.append((self._sql.settle, {**mine, **row_of(delivery)}))
            else:
                changes.append((self._sql.remove, mine))
        with self._core.database.write as connection:
            # Each statement changes a row only while this owner has its lease. So a notifier whose lease ended, and
            # that settles late, does not change the work of the next owner.
            for statement, alike in groupby(changes, key=itemgetter(0)):
                connection.executemany(statement, [values for _, values in alike])

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        # One statement, which sees one moment on both databases.
        this: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "number": number}
        this["due_before"] = math.inf if due_before is None else due_before
        with self._core.database.read() as connection:
            return bool(connection.execute(self._sql.has_undelivered_before, this).fetchone()[0])
