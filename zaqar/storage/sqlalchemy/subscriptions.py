# SPDX-License-Identifier: Apache-2.0
"""The part of the control plane on an SQL database that is about subscriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base.uncut import UncutManagementStore
from zaqar.storage.sqlalchemy.connection import Connection, Database
from zaqar.storage.sqlalchemy.subscription_statements import COLUMNS, subscription_statements_for
from zaqar.storage.sqlalchemy.undone import repeated

_MOST_REMOVED = 100
"""Pauses that are over and removed by whoever begins one."""


class SubscriptionStore(UncutManagementStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions = subscription_statements_for(database.dialect)

    @repeated
    def create_subscription(self, *, subscription: Subscription, now: float) -> Subscription:
        with self._database.write as connection:
            self._make_way(connection, subscription, now)
            made = connection.execute(self._subscriptions.insert, _row_of(subscription)).rowcount
            there = None
            if not made:
                there = self._with_subscriber(connection, subscription.queue_uid, subscription.subscriber)
        if made:
            return subscription
        # None: it was deleted after it had been in the way.
        return there or self.create_subscription(subscription=subscription, now=now)

    def get_subscription(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        if not _may_be_an_id(subscription_id):
            return None
        key = {"queue_uid": queue_uid, "id": subscription_id, "now": now}
        with self._database.read() as connection:
            row = connection.execute(self._subscriptions.get, key).fetchone()
        return None if row is None else _subscription_of(row)

    def find_subscription(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        with self._database.read() as connection:
            found = self._with_subscriber(connection, queue_uid, subscriber)
        return found if found is not None and now < found.expires else None

    def list_subscriptions(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        page = {"queue_uid": queue_uid, "after": after, "limit": limit, "now": now}
        with self._database.read() as connection:
            rows = connection.execute(self._subscriptions.list, page).fetchall()
        return [_subscription_of(row) for row in rows]

    @repeated
    def replace_subscription(self, *, subscription: Subscription, now: float) -> bool:
        key = {"queue_uid": subscription.queue_uid, "id": subscription.id, "now": now}
        with self._database.write as connection:
            old = connection.execute(self._subscriptions.get, key).fetchone()
            if old is None or _subscription_of(old).version != subscription.version - 1:
                return False
            self._make_way(connection, subscription, now)
            other = self._with_subscriber(connection, subscription.queue_uid, subscription.subscriber)
            if other is not None and other.id != subscription.id:
                raise Conflict("The queue has another subscription with this subscriber.")
            # One that is made at this moment is refused by the index, and met here when this is done again.
            return connection.execute(self._subscriptions.replace, {**key, **_row_of(subscription)}).rowcount == 1

    def _make_way(self, connection: Connection, subscription: Subscription, now: float) -> None:
        """Remove one that has expired and has the same subscriber."""
        same = {"queue_uid": subscription.queue_uid, "subscriber": subscription.subscriber, "now": now}
        connection.execute(self._subscriptions.delete_expired, same)

    def _with_subscriber(self, connection: Connection, queue_uid: str, subscriber: str) -> Subscription | None:
        same = {"queue_uid": queue_uid, "subscriber": subscriber}
        row = connection.execute(self._subscriptions.with_subscriber, same).fetchone()
        return None if row is None else _subscription_of(row)

    @repeated
    def delete_subscription(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        if not _may_be_an_id(subscription_id):
            return False
        sql = self._subscriptions
        statement = sql.delete if version is None else sql.delete_version
        with self._database.write as connection:
            done = connection.execute(statement, {"queue_uid": queue_uid, "id": subscription_id, "version": version})
            return bool(done.rowcount)

    @repeated
    def remove_subscriptions(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        sql = self._subscriptions
        gone = []
        with self._database.write as connection:
            # All callers lock rows in one order, so that two of them cannot each wait for a row of the other.
            for each in sorted(subscriptions, key=lambda each: (each.queue_uid, each.id)):
                this = {"queue_uid": each.queue_uid, "id": each.id, "subscriber": each.subscriber}
                removed = connection.execute(sql.delete_with_subscriber, this).rowcount
                if removed or connection.execute(sql.exists, this).fetchone() is None:
                    gone.append(each)
        return gone

    @repeated
    def delete_subscriptions(self, *, queue_uid: str) -> None:
        with self._database.write as connection:
            connection.execute(self._subscriptions.delete_all, {"queue_uid": queue_uid})

    def expired_subscriptions(self, *, now: float, limit: int) -> list[Subscription]:
        with self._database.read() as connection:
            rows = connection.execute(self._subscriptions.expired, {"now": now, "limit": limit}).fetchall()
        return [_subscription_of(row) for row in rows]

    @repeated
    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        sql = self._subscriptions
        try:
            with self._database.write as connection:
                # In one order, so that two callers cannot each wait for a row of the other.
                for key, ends in sorted(pauses.items()):
                    self._begin_pause(connection, key, ends, now)
                connection.execute(sql.delete_pauses, {"now": now, "limit": _MOST_REMOVED})
        except _Paused:
            # What was written so far is undone.
            return self._end_of(pauses, now)
        return None

    def _begin_pause(self, connection: Connection, key: str, ends: float, now: float) -> None:
        begun = connection.execute(self._subscriptions.begin_pause, {"key": key, "ends": ends, "now": now})
        if not begun.rowcount:
            raise _Paused

    def _end_of(self, pauses: Mapping[str, float], now: float) -> float:
        with self._database.read() as connection:
            rows = [connection.execute(self._subscriptions.pause, {"key": key}).fetchone() for key in pauses]
        # One that was in the way may have gone by now.
        return max([now, *(float(row[0]) for row in rows if row is not None)])


class _Paused(Exception):
    """A pause is not over."""


def _may_be_an_id(text: str) -> bool:
    """False for one that is guessed and that PostgreSQL could not even be asked for."""
    return text.isascii() and "\0" not in text


def _row_of(subscription: Subscription) -> dict[str, Any]:
    row = {f"new_{column.name}": getattr(subscription, column.name) for column in COLUMNS}
    return row | {
        "new_options": json.dumps(dict(subscription.options)),
        "new_secrets": json.dumps(subscription.secrets),
    }


def _subscription_of(row: Any) -> Subscription:
    fields = dict(zip((column.name for column in COLUMNS), row, strict=True))
    secrets = tuple(Secret(*secret) for secret in json.loads(fields["secrets"]))
    return Subscription(**{**fields, "options": json.loads(fields["options"]), "secrets": secrets})
