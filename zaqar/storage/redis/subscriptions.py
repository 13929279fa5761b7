# SPDX-License-Identifier: Apache-2.0
"""Subscriptions on Redis.

Those of a queue lie under its uid as their hash tag, so each operation is one script in one slot. Across queues there
is only an index by the time when each expires. Its entries are written before the subscription and say what was to be
written. So an entry may be about a subscription that is gone, or that expires later: ``list_expired`` reads each one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base import SubscriptionStore
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import Script, load
from zaqar.storage.redis.keys import slot_of

_INDEX = load("subscriptions/index", idempotent=True)
_CREATE = load("subscriptions/create", idempotent=True)
_FIND = load("subscriptions/find", idempotent=True, durable=False)
_LIST = load("subscriptions/list", idempotent=True, durable=False)
_REPLACE = load("subscriptions/replace")
_DELETE = load("subscriptions/delete", idempotent=True)
_DELETE_MANY = load("subscriptions/delete_many", idempotent=True)
_DELETE_ALL = load("subscriptions/delete_all", idempotent=True)
_TAKE_PAUSES = load("subscriptions/take_pauses")

_EXPIRY = b"zaqar:subscriptions:expiry"
_PAUSES = b"zaqar:pauses"
_ENTRIES_AT_ONCE = 1000
_ABSENT, _OTHER_SUBSCRIBER = 0, -1


class RedisSubscriptions(SubscriptionStore):
    """Subscriptions, by the queue's uid."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def create(self, *, subscription: Subscription, now: float) -> Subscription:
        self._index(subscription)
        row = self._run(_CREATE, subscription.queue_uid, subscription.id, _row_of(subscription), now)
        there = _subscription_of(row)
        if there.id != subscription.id:
            self._unindex([subscription])
        return there

    def get(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        found = self._read(queue_uid, subscription_id)
        return found if found is not None and now < found.expires else None

    def find(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        row = self._run(_FIND, queue_uid, subscriber, now)
        return None if row is None else _subscription_of(row)

    def list_after(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        return [_subscription_of(row) for row in self._run(_LIST, queue_uid, after, limit, now)]

    def replace(self, *, subscription: Subscription, now: float) -> bool:
        self._index(subscription)
        arguments = (subscription.id, _row_of(subscription), now, subscription.version - 1)
        reply = self._run(_REPLACE, subscription.queue_uid, *arguments)
        if reply == _OTHER_SUBSCRIBER:
            raise Conflict("The queue has another subscription with this subscriber.")
        if reply == _ABSENT:
            return False
        before = replace(subscription, expires=float(reply))
        if before.expires != subscription.expires:
            self._unindex([before])
        return True

    def delete(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        row = self._run(_DELETE, queue_uid, subscription_id, b"" if version is None else version)
        if row is not None:
            self._unindex([_subscription_of(row)])
        return row is not None

    def delete_many(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        of_queue: dict[str, list[Subscription]] = {}
        for each in subscriptions:
            of_queue.setdefault(each.queue_uid, []).append(each)
        gone: list[Subscription] = []
        removed: list[Subscription] = []
        for uid, these in of_queue.items():
            arguments = [argument for each in these for argument in (each.id, each.subscriber)]
            rows = self._run(_DELETE_MANY, uid, *arguments)
            removed += (_subscription_of(row) for row in rows if isinstance(row, bytes))
            gone += (each for each, row in zip(these, rows, strict=True) if row != _OTHER_SUBSCRIBER)
        self._unindex(removed)
        return gone

    def delete_all(self, *, queue_uid: str) -> None:
        self._unindex([_subscription_of(row) for row in self._run(_DELETE_ALL, queue_uid)])

    def list_expired(self, *, now: float, limit: int) -> list[Subscription]:
        found: list[Subscription] = []
        start = 0
        while len(found) < limit:
            page = (b"ZRANGEBYSCORE", _EXPIRY, b"-inf", now, b"LIMIT", start, min(limit, _ENTRIES_AT_ONCE))
            entries = self._client.command(*page, slot=slot_of(_EXPIRY))
            if not entries:
                break
            for entry in entries:
                uid, subscription_id, _ = entry.decode().split("/")
                there = self._read(uid, subscription_id)
                if there is not None and _entry_of(there) == entry:
                    found.append(there)
                    start += 1
                else:
                    # The subscription is gone, or expires at another time, for which it has another entry.
                    self._client.command(b"ZREM", _EXPIRY, entry, slot=slot_of(_EXPIRY))
        return found[:limit]

    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        arguments: list[Argument] = [now, len(pauses)]
        for key, ends in pauses.items():
            arguments += [ends, key]
        reply = self._client.run(_TAKE_PAUSES, (_PAUSES,), arguments, slot_of(_PAUSES))
        return None if reply is None else float(reply)

    def _index(self, subscription: Subscription) -> None:
        self._client.run(_INDEX, (_EXPIRY,), (subscription.expires, _entry_of(subscription)), slot_of(_EXPIRY))

    def _unindex(self, gone: list[Subscription]) -> None:
        """Remove entries. If a crash prevents it, ``list_expired`` removes them when they are due."""
        for start in range(0, len(gone), _ENTRIES_AT_ONCE):
            entries = map(_entry_of, gone[start : start + _ENTRIES_AT_ONCE])
            self._client.command(b"ZREM", _EXPIRY, *entries, slot=slot_of(_EXPIRY))

    def _read(self, uid: str, subscription_id: str) -> Subscription | None:
        row = self._client.command(b"HGET", _keys(uid)[1], subscription_id, slot=slot_of(uid.encode()))
        return None if row is None else _subscription_of(row)

    def _run(self, script: Script, uid: str, *arguments: Argument) -> Any:
        return self._client.run(script, _keys(uid), arguments, slot_of(uid.encode()))


def _keys(uid: str) -> tuple[bytes, bytes, bytes]:
    prefix = b"zaqar:{%b}:" % uid.encode()
    return prefix + b"subscriptions", prefix + b"subscription_records", prefix + b"subscribers"


def _entry_of(subscription: Subscription) -> bytes:
    return f"{subscription.queue_uid}/{subscription.id}/{subscription.expires!r}".encode()


def _row_of(subscription: Subscription) -> bytes:
    subscriber = subscription.subscriber.encode()
    head = f"{subscription.version} {subscription.expires!r} {len(subscriber)}\n".encode()
    names = ("id", "queue_uid", "project", "kind", "source", "subscriber", "ttl", "created", "expires", "state")
    fields: dict[str, Any] = {name: getattr(subscription, name) for name in (*names, "version", "challenge")}
    fields["options"] = dict(subscription.options)
    fields["secrets"] = [(secret.value, secret.expires) for secret in subscription.secrets]
    return head + subscriber + json.dumps(fields).encode()


def _subscription_of(row: bytes) -> Subscription:
    head, _, rest = row.partition(b"\n")
    fields = json.loads(rest[int(head.rpartition(b" ")[2]) :])
    fields["secrets"] = tuple(Secret(*secret) for secret in fields["secrets"])
    return Subscription(**fields)
