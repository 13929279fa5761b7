# SPDX-License-Identifier: Apache-2.0
"""The outbox on an SQL database: posts to be notified, and deliveries."""

from __future__ import annotations

import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from zaqar.model import DEAD, NOT_EXPANDED, WAITING, Attempt, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import DROPPED_LIFETIME, unpack_posted
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.delivery_statements import COLUMNS, delivery_statements_for
from zaqar.storage.sqlalchemy.fences import FenceStore, dropped_row
from zaqar.storage.sqlalchemy.schema import DELIVERY_STATES
from zaqar.storage.sqlalchemy.sql import json_array

T = TypeVar("T")

_LAST = 2**62
"""A number that no delivery has."""

_BEHIND_ALL = "\U0010ffff"
"""What no uid and no id of a subscription comes after."""

ROUNDS = 3
"""How often deliveries are looked for where others are faster to take those that were found."""

_Row = tuple[Any, ...]


class OutboxStore(FenceStore):
    """The part of the message store that notifiers work with.

    What is due stands in lanes, one for each queue or subscription. A take goes from lane to lane, beginning behind
    where the last one ended, and takes as many from each, so it costs the same whatever one lane holds.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._outbox = delivery_statements_for(database.dialect)
        # Uids and ids are random: so several processes begin at different places.
        self._posts_from = self._deliveries_from = secrets.token_hex(4)

    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        sql = self._outbox
        page = {"now": now, "limit": limit}
        uids = self._lanes_from(sql.queues_with_posts, self._posts_from, page)
        if not uids:
            return []
        self._posts_from = _next_start(uids, limit)

        def take(connection: Connection, some: Sequence[str], each: int) -> list[_Row]:
            lanes = {"lanes": json_array(some), "now": now, "limit": each}
            rows = connection.execute(sql.find_posted, lanes).fetchall()
            leases = [{"uid": uid, "first": first, "until": until} for uid, first, *_ in sorted(rows)]
            if leases:
                connection.executemany(sql.lease_posted, leases)
            return sorted(rows)

        with self._database.write as connection:
            rows = take_in_turns(uids, limit, limit, partial(take, connection), lane_of=itemgetter(0))
        return [
            unpack_posted(content, queue_uid=uid, first=first, position=_position_of(expanded))
            for uid, first, content, expanded in rows
        ]

    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        sql = self._outbox
        page = {"now": now, "limit": limit, "without": json_array(without)}
        lease = {"owner": owner, "until": until}

        def take(connection: Connection, some: Sequence[str], each: int) -> list[Delivery]:
            rows = connection.execute(sql.find_due, {"lanes": json_array(some), "now": now, "limit": each}).fetchall()
            if rows:
                connection.execute(sql.lease, {**lease, "ids": json_array(number for number, *_ in rows)})
            return sorted((_delivery_of(row[1:]) for row in rows), key=lambda found: (found.due, found.number))

        for _ in range(ROUNDS):
            lanes = self._lanes_from(sql.subscriptions_with_due, self._deliveries_from, page)
            if not lanes:
                break
            self._deliveries_from = _next_start(lanes, limit)
            with self._database.write as connection:
                found = take_in_turns(
                    lanes, limit, most_of_one, partial(take, connection), lane_of=attrgetter("subscription_id")
                )
            if found:
                return [replace(delivery, owner=owner, due=until) for delivery in found]
        return []

    def _lanes_from(self, statement: str, start: str, page: Mapping[str, Any]) -> list[str]:
        """Those in which something is due, from behind ``start`` on and around, each once."""
        with self._database.read() as connection:
            found = connection.execute(statement, {**page, "after": start, "last": _BEHIND_ALL}).fetchall()
            if len(found) < page["limit"]:
                rest = {**page, "after": "", "last": start, "limit": page["limit"] - len(found)}
                found += connection.execute(statement, rest).fetchall()
        return [lane for (lane,) in found]

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        self._database.check_room(deliveries)
        this = {"uid": posted.queue_uid, "first": posted.first}
        with self._database.write as connection:
            # Locked until the transaction ends: whoever expands the same post meanwhile waits, and sees what it became.
            stored = connection.execute(self._outbox.get_position, this).fetchone()
            if stored is None or _position_of(stored[0]) != posted.position:
                return False
            reachable = self._reachable(connection, posted.queue_uid, deliveries)
            if reachable is None:
                return False
            if reachable:
                connection.executemany(self._outbox.insert, map(_row_of, reachable))
            if position is None:
                connection.execute(self._outbox.forget_posted, this)
            else:
                moved = {**this, "until": until, "position": json.dumps(position)}
                connection.execute(self._outbox.move_position, moved)
        return True

    def put_delivery(self, *, delivery: Delivery) -> None:
        with self._database.write as connection:
            for reachable in self._reachable(connection, delivery.queue_uid, [delivery]) or ():
                connection.execute(self._outbox.put, _row_of(reachable))

    def _reachable(self, connection: Connection, uid: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery] | None:
        """Those of a queue that no tombstone hides; None if the whole queue was dropped."""
        ids = {delivery.subscription_id for delivery in deliveries}
        these = {"uid": uid, "subscriptions": json_array(["", *sorted(ids)])}
        dropped = {id_ for (id_,) in connection.execute(self._outbox.dropped_among, these).fetchall()}
        if "" in dropped:
            return None
        return [each for each in deliveries if each.subscription_id not in dropped] if dropped else deliveries

    def drop_deliveries(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        # Rows are locked in one order by all.
        rows = [dropped_row(queue_uid, id_, now, now + DROPPED_LIFETIME) for id_ in sorted(subscription_ids)]
        if rows:
            with self._database.write as connection:
                connection.executemany(self._statements.fences.drop_deliveries, rows)

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        leases = [{**_key(key), "owner": owner, "until": until} for key in sorted(keys)]
        if leases:
            with self._database.write as connection:
                connection.executemany(self._outbox.extend, leases)

    def advance_deliveries(
        self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]
    ) -> int:
        # Rows are locked in one order by all.
        changes = [
            {"uid": queue_uid, "subscription": subscription_id, "number": number, "before": before, "until": due}
            for number, (before, due) in sorted(dues.items())
        ]
        with self._database.write as connection:
            return sum(connection.execute(self._outbox.advance, change).rowcount for change in changes)

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        changes: list[tuple[str, Mapping[str, Any]]] = []
        # Rows are locked in one order by all, those that stay and those that go: or an extension of leases, which locks
        # them in that order too, and this would wait for each other.
        for delivery in sorted(settled, key=lambda each: each.key):
            is_kept = delivery.state == WAITING or (delivery.keep_until is not None and delivery.keep_until > now)
            mine = {**_key(delivery.key), "owner": owner}
            if is_kept:
                changes.append((self._outbox.settle, {**mine, **_row_of(delivery)}))
            else:
                changes.append((self._outbox.remove, mine))
        with self._database.write as connection:
            for statement, alike in groupby(changes, key=itemgetter(0)):
                connection.executemany(statement, [values for _, values in alike])

    # -- the log -----------------------------------------------------------------------------------------------------

    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        page: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "limit": limit}
        page["before"] = _LAST if before is None else before
        statement = self._outbox.list
        if state == WAITING:
            statement = self._outbox.list_waiting
        elif state is not None:
            statement, page["state"] = self._outbox.list_settled, DELIVERY_STATES.index(state)
        with self._database.read() as connection:
            found = [_delivery_of(row) for row in connection.execute(statement, page).fetchall()]
        return sorted(found, key=lambda each: each.number, reverse=True)

    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None:
        with self._database.read() as connection:
            row = connection.execute(self._outbox.get, _key(key)).fetchone()
        return None if row is None else _delivery_of(row)

    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        with self._database.read() as connection:
            one = {"uid": queue_uid, "subscription": subscription_id}
            waiting, dead = connection.execute(self._outbox.count, one).fetchone()
        return {WAITING: waiting, DEAD: dead}

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        one: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "now": now}
        with self._database.write as connection:
            if numbers is None:
                return connection.execute(self._outbox.resend_dead, {**one, "limit": limit}).rowcount
            return connection.execute(self._outbox.resend, {**one, "numbers": json_array(numbers)}).rowcount

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        # One statement, which sees one moment on both databases.
        this: dict[str, Any] = {"uid": queue_uid, "subscription": subscription_id, "number": number}
        this["due_before"] = math.inf if due_before is None else due_before
        with self._database.read() as connection:
            return bool(connection.execute(self._outbox.has_undelivered_before, this).fetchone()[0])

    def _sweep_deliveries(self, now: float, limit: int) -> int:
        with self._database.read() as connection:
            past = connection.execute(self._outbox.past, {"now": now, "limit": limit}).fetchall()
        if not past:
            return 0
        ids = json_array(number for (number,) in past)
        with self._database.write as connection:
            return connection.execute(self._outbox.sweep, {"now": now, "ids": ids}).rowcount


def take_in_turns(
    lanes: Sequence[str],
    limit: int,
    most_of_one: int,
    take: Callable[[Sequence[str], int], list[T]],
    *,
    lane_of: Callable[[T], str],
) -> list[T]:
    """Up to ``limit``, as many of each lane as of the others, and of those that have more what the others leave.

    ``take(lanes, each)`` takes up to so many of each; one that gives less has no more.
    """
    taken: list[T] = []
    left = dict.fromkeys(lanes, most_of_one)
    while left and len(taken) < limit:
        room = limit - len(taken)
        some = list(left)[:room]
        each = min(room // len(some), *(left[lane] for lane in some))
        found = take(some, each)
        got = Counter(map(lane_of, found))
        for lane in some:
            left[lane] -= each
            if got[lane] < each or not left[lane]:
                del left[lane]
        taken += found
    return taken


def _next_start(lanes: Sequence[str], limit: int) -> str:
    """Behind the last one of a part; another one goes first next time where they were all there are."""
    return lanes[-1] if len(lanes) >= limit else lanes[0]


def _position_of(expanded: str | None) -> PostPosition:
    return NOT_EXPANDED if expanded is None else PostPosition(*json.loads(expanded))


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
