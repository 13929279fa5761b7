# SPDX-License-Identifier: Apache-2.0
"""Subscriptions on an SQL database; see ``sql/subscriptions.sql``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base import SubscriptionStore
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.queries import Queries

_FIELDS: Final = [field.name for field in fields(Subscription)]

_MOST_PAUSES_REMOVED: Final = 100
"""Pauses that are over and that one call of ``take_pauses`` removes."""


class SubscriptionQueries(Queries, file="subscriptions"):
    create: str
    get: str
    exists: str
    find: str
    list_after: str
    count_of_queue: str
    count_of_project: str
    list_expired: str
    replace: str
    delete: str
    delete_version: str
    delete_with_subscriber: str
    delete_expired: str
    delete_all: str
    begin_pause: str
    get_pause: str
    delete_pauses: str


class SqlSubscriptions(SubscriptionStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = SubscriptionQueries.of(database.dialect)

    @retry_on_conflict
    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        with self._database.write as connection:
            self._delete_expired(connection, subscription, now)
            created = connection.execute(self._queries.create, _row_of(subscription)).rowcount
            found = None
            if not created:
                found = self._find(connection, subscription.queue_uid, subscription.subscriber)
        if created:
            return subscription
        # If none was found, another caller deleted the one that was in the way in between. Begin again.
        return found or self.create(subscription=subscription, now=now)

    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        if not _may_be_an_id(subscription_id):
            return None
        key = {"queue_uid": queue_uid, "id": subscription_id, "now": now}
        with self._database.read() as connection:
            row = connection.execute(self._queries.get, key).fetchone()
        return None if row is None else _subscription_of(row)

    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        with self._database.read() as connection:
            found = self._find(connection, queue_uid, subscriber)
        return found if found is not None and now < found.expires else None

    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        page = {"queue_uid": queue_uid, "after": after, "limit": limit, "now": now}
        with self._database.read() as connection:
            rows = connection.execute(self._queries.list_after, page).fetchall()
        return [_subscription_of(row) for row in rows]

    def count(self, *, queue_uid: str, now: float, most: int) -> int:
        return self._count(self._queries.count_of_queue, {"queue_uid": queue_uid, "now": now, "most": most})

    def count_of_project(self, *, project: str, now: float, most: int) -> int:
        return self._count(self._queries.count_of_project, {"project": project, "now": now, "most": most})

    def _count(self, statement: str, these: Mapping[str, Any]) -> int:
        with self._database.read_once() as connection:
            (count,) = connection.execute(statement, these).fetchone()
        return int(count)

    @retry_on_conflict
    def replace(self, *, subscription: Subscription, now: float) -> bool:
        row = {**_row_of(subscription), "now": now}
        with self._database.write as connection:
            old = connection.execute(self._queries.get, row).fetchone()
            if old is None or _subscription_of(old).version != subscription.version - 1:
                return False
            self._delete_expired(connection, subscription, now)
            other = self._find(connection, subscription.queue_uid, subscription.subscriber)
            if other is not None and other.id != subscription.id:
                raise Conflict("The queue has another subscription with this subscriber.")
            # Another transaction may create one with this subscriber at this moment. The unique key then refuses this
            # update, which is a conflict of transactions: the retry finds the other one above.
            return connection.execute(self._queries.replace, row).rowcount == 1

    def _delete_expired(self, connection: Connection, subscription: Subscription, now: float) -> None:
        """Delete an expired subscription that has the same subscriber: the unique key allows it once."""
        same = {"queue_uid": subscription.queue_uid, "subscriber": subscription.subscriber, "now": now}
        connection.execute(self._queries.delete_expired, same)

    def _find(self, connection: Connection, queue_uid: str, subscriber: str) -> Subscription | None:
        key = {"queue_uid": queue_uid, "subscriber": subscriber}
        row = connection.execute(self._queries.find, key).fetchone()
        return None if row is None else _subscription_of(row)

    @retry_on_conflict
    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        if not _may_be_an_id(subscription_id):
            return False
        statement = self._queries.delete if version is None else self._queries.delete_version
        key = {"queue_uid": queue_uid, "id": subscription_id, "version": version}
        with self._database.write as connection:
            return bool(connection.execute(statement, key).rowcount)

    @retry_on_conflict
    def delete_many(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        gone = []
        with self._database.write as connection:
            # All callers lock rows in the same order, so that no two of them wait for each other.
            for each in sorted(subscriptions, key=lambda each: (each.queue_uid, each.id)):
                key = {"queue_uid": each.queue_uid, "id": each.id, "subscriber": each.subscriber}
                removed = connection.execute(self._queries.delete_with_subscriber, key).rowcount
                if removed or connection.execute(self._queries.exists, key).fetchone() is None:
                    gone.append(each)
        return gone

    @retry_on_conflict
    def delete_all(self, *, queue_uid: str) -> None:
        with self._database.write as connection:
            connection.execute(self._queries.delete_all, {"queue_uid": queue_uid})

    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        with self._database.read() as connection:
            rows = connection.execute(self._queries.list_expired, {"now": now, "limit": limit}).fetchall()
        return [_subscription_of(row) for row in rows]

    @retry_on_conflict
    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        try:
            with self._database.write as connection:
                # All callers lock rows in the same order, so that no two of them wait for each other.
                for key, ends in sorted(pauses.items()):
                    self._begin_pause(connection, key, ends, now)
                connection.execute(self._queries.delete_pauses, {"now": now, "limit": _MOST_PAUSES_REMOVED})
        except _Paused:
            # The error has rolled back the transaction, and with it the pauses that had begun.
            return self._end_of(pauses, now)
        return None

    def _begin_pause(self, connection: Connection, key: str, ends: float, now: float) -> None:
        begun = connection.execute(self._queries.begin_pause, {"key": key, "ends": ends, "now": now})
        if not begun.rowcount:
            raise _Paused

    def _end_of(self, pauses: Mapping[str, float], now: float) -> float:
        """When the last of these pauses ends; ``now`` if they ended or were removed in between."""
        with self._database.read() as connection:
            rows = [connection.execute(self._queries.get_pause, {"key": key}).fetchone() for key in pauses]
        return max([now, *(float(row[0]) for row in rows if row is not None)])


class _Paused(Exception):
    """One of the pauses is not over."""


def _may_be_an_id(text: str) -> bool:
    """Whether it can be the id of a subscription. A client may send any text, and PostgreSQL rejects the NUL in one."""
    return text.isascii() and "\0" not in text


def _row_of(subscription: Subscription) -> dict[str, Any]:
    row = {name: getattr(subscription, name) for name in _FIELDS}
    return row | {"options": json.dumps(dict(subscription.options)), "secrets": json.dumps(subscription.secrets)}


def _subscription_of(row: Any) -> Subscription:
    values = dict(zip(_FIELDS, row, strict=True))
    secrets = tuple(Secret(*secret) for secret in json.loads(values["secrets"]))
    return Subscription(**{**values, "options": json.loads(values["options"]), "secrets": secrets})
