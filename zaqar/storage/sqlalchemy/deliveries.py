# SPDX-License-Identifier: Apache-2.0
"""The outbox on an SQL database: posts to be notified, and deliveries."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zaqar.model import DEAD, WAITING, Attempt, Delivery, DeliveryKey, Posted
from zaqar.storage.base import unpack_posted
from zaqar.storage.sqlalchemy.connection import Connection, Database
from zaqar.storage.sqlalchemy.delivery_statements import COLUMNS, delivery_statements_for
from zaqar.storage.sqlalchemy.fences import FenceStore
from zaqar.storage.sqlalchemy.sql import json_array
from zaqar.storage.sqlalchemy.tables import DELIVERY_STATES

STEPS = 200
"""Subscriptions, or queues, that one walk passes."""

_LAST = 2**62
"""A number that no delivery has."""


class OutboxStore(FenceStore):
    """The part of the message store that notifiers work with."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._outbox = delivery_statements_for(database.dialect)
        self._posts_from = ""
        """The uid after which the next look for posts begins, so that every queue gets its turn."""
        self._deliveries_from = ""

    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        uids, self._posts_from = self._look_for(self._outbox.queues_with_posts, self._posts_from, now, limit, ())
        if not uids:
            return []
        taken: list[Posted] = []
        with self._database.write as connection:
            for place, uid in enumerate(uids):
                share = -(-(limit - len(taken)) // (len(uids) - place))
                rows = connection.execute(
                    self._outbox.take_posted, {"uid": uid, "now": now, "until": until, "limit": share}
                ).fetchall()
                taken += (unpack_posted(content, queue_uid=uid, first=first) for first, content in sorted(rows))
        return taken

    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        statement = self._outbox.subscriptions_with_due
        taken: list[Delivery] = []
        found, self._deliveries_from = self._look_for(statement, self._deliveries_from, now, limit, without)
        if not found:
            return []
        with self._database.write as connection:
            for place, subscription in enumerate(found):
                share = min(most_of_one, limit - len(taken) - (len(found) - place - 1))
                due = {"subscription": subscription, "now": now, "limit": share}
                rows = connection.execute(self._outbox.find_due, due).fetchall()
                if rows:
                    lease = {"owner": owner, "until": until}
                    connection.execute(self._outbox.lease, {**lease, "ids": json_array(number for number, *_ in rows)})
                    taken += (replace(_delivery_of(row[1:]), owner=owner, due=until) for row in rows)
        return taken

    def _look_for(
        self, statement: str, start: str, now: float, limit: int, without: Collection[str]
    ) -> tuple[list[str], str]:
        """Up to ``limit`` of those that have something due, from ``start`` on and around, and where to begin next."""
        found: list[str] = []
        with self._database.read() as connection:
            for value, is_due in self._walk_around(connection, statement, start, now):
                if is_due and value not in without:
                    found.append(value)
                    if len(found) == limit:
                        return found, value
        return found, start

    def _walk_around(
        self, connection: Connection, statement: str, start: str, now: float
    ) -> Iterator[tuple[str, bool]]:
        """Every value once, beginning after ``start``."""
        for after, is_over in ((start, lambda _: False), ("", lambda value: value > start)):
            while True:
                page = {"after": after, "now": now, "limit": STEPS}
                rows = connection.execute(statement, page).fetchall()
                for value, is_due in rows:
                    if is_over(value):
                        return
                    yield value, is_due
                if len(rows) < STEPS:
                    break
                after = rows[-1][0]
            if not start:
                return

    def expand(self, *, posted: Posted, deliveries: Sequence[Delivery], last: bool) -> None:
        this = {"uid": posted.queue_uid, "first": posted.first}
        with self._database.write as connection:
            if connection.execute(self._outbox.is_noted, this).fetchone() is None:
                return
            if deliveries:
                connection.executemany(self._outbox.insert, map(_row_of, deliveries))
            if last:
                connection.execute(self._outbox.forget_posted, this)

    def put_delivery(self, *, delivery: Delivery) -> None:
        with self._database.write as connection:
            connection.execute(self._outbox.put, _row_of(delivery))

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        leases = [{**_key(key), "owner": owner, "until": until} for key in sorted(keys)]
        if leases:
            with self._database.write as connection:
                connection.executemany(self._outbox.extend, leases)

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        kept: list[Mapping[str, Any]] = []
        gone: list[Mapping[str, Any]] = []
        # Rows are locked in one order by all.
        for delivery in sorted(settled, key=lambda each: each.key):
            is_kept = delivery.state == WAITING or (delivery.keep_until is not None and delivery.keep_until > now)
            mine = {**_key(delivery.key), "owner": owner}
            if is_kept:
                kept.append({**mine, **_row_of(delivery)})
            else:
                gone.append(mine)
        with self._database.write as connection:
            if kept:
                connection.executemany(self._outbox.settle, kept)
            if gone:
                connection.executemany(self._outbox.remove, gone)

    # -- the log -----------------------------------------------------------------------------------------------------

    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        page: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "limit": limit}
        page["before"] = _LAST if before is None else before
        statement = self._outbox.list
        if state is not None:
            statement, page["state"] = self._outbox.list_state, DELIVERY_STATES.index(state)
        with self._database.read() as connection:
            return [_delivery_of(row) for row in connection.execute(statement, page).fetchall()]

    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None:
        with self._database.read() as connection:
            row = connection.execute(self._outbox.get, _key(key)).fetchone()
        return None if row is None else _delivery_of(row)

    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        with self._database.read() as connection:
            one = {"uid": queue_uid, "subscription": subscription_id}
            rows = connection.execute(self._outbox.count, one).fetchall()
        return {WAITING: 0, DEAD: 0, **{DELIVERY_STATES[state]: count for state, count in rows}}

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        one: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "now": now}
        with self._database.write as connection:
            if numbers is None:
                return connection.execute(self._outbox.resend_dead, {**one, "limit": limit}).rowcount
            return connection.execute(self._outbox.resend, {**one, "numbers": json_array(numbers)}).rowcount

    def _sweep_deliveries(self, now: float, limit: int) -> int:
        past = {"now": now, "limit": limit}
        with self._database.read() as connection:
            if connection.execute(self._outbox.past, {**past, "limit": 1}).fetchone() is None:
                return 0
        with self._database.write as connection:
            return connection.execute(self._outbox.sweep, past).rowcount


def _key(key: DeliveryKey) -> dict[str, Any]:
    return {"uid": key.queue_uid, "subscription": key.subscription_id, "number": key.number}


_FIELDS = [
    (f"new_{column.name}", {"uid": "queue_uid", "subscription": "subscription_id"}.get(column.name, column.name))
    for column in COLUMNS
]


def _row_of(delivery: Delivery) -> dict[str, Any]:
    row = {name: getattr(delivery, field) for name, field in _FIELDS}
    return row | {"new_state": DELIVERY_STATES.index(delivery.state), "new_attempts": json.dumps(delivery.attempts)}


def _delivery_of(row: tuple[Any, ...]) -> Delivery:
    uid, subscription, number, body, ttl, created, client_id, due, kind, owner, state, tries, attempts, keep = row
    made = tuple(Attempt(*attempt) for attempt in json.loads(attempts))
    settled = (DELIVERY_STATES[state], tries, made, keep)
    return Delivery(uid, subscription, number, body, ttl, created, client_id, due, kind, owner, *settled)
