# SPDX-License-Identifier: Apache-2.0
"""Subscriptions on Redis.

Those of a queue lie under its uid as their hash tag, so each operation is one script in one slot. Across queues there
is only an index by when each is over. An entry is added to it before the subscription is written, and says what was
written, so it may be about one that is gone or lives longer: what counts is asked of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zaqar.errors import Conflict
from zaqar.model import Secret, Subscription
from zaqar.storage.base.uncut import UncutManagementStore
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.keys import slot_of
from zaqar.storage.redis.nodes import RedisNodeStore
from zaqar.storage.redis.scripts import Script, load
from zaqar.storage.redis.trusts import RedisTrustStore
from zaqar.storage.redis.wire import Word

_INDEX = load("subscription_index", again=True)
_CREATE = load("subscription_create", again=True)
_FIND = load("subscription_find", again=True, writes=False)
_LIST = load("subscription_list", again=True, writes=False)
_REPLACE = load("subscription_replace")
_DELETE = load("subscription_delete", again=True)
_REMOVE = load("subscription_remove", again=True)
_DELETE_ALL = load("subscription_delete_all", again=True)
_TAKE_PAUSES = load("take_pauses")

_OVER = b"zaqar:subscriptions:over"
_PAUSES = b"zaqar:pauses"
_AT_ONCE = 1000
_ABSENT, _TAKEN = 0, -1


class SubscriptionStore(UncutManagementStore):
    """The part of the management store that is about subscriptions."""

    def __init__(self, server: Redis) -> None:
        self._redis = server
        self.trusts = RedisTrustStore(server)
        self.nodes = RedisNodeStore(server)

    def create_subscription(self, *, subscription: Subscription, now: float) -> Subscription:
        self._index(subscription)
        row = self._run_on(_CREATE, subscription.queue_uid, subscription.id, _row_of(subscription), now)
        there = _subscription_of(row)
        if there.id != subscription.id:
            self._unindex([subscription])
        return there

    def get_subscription(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None:
        found = self._read(queue_uid, subscription_id)
        return found if found is not None and now < found.expires else None

    def find_subscription(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        row = self._run_on(_FIND, queue_uid, subscriber, now)
        return None if row is None else _subscription_of(row)

    def list_subscriptions(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        return [_subscription_of(row) for row in self._run_on(_LIST, queue_uid, after, limit, now)]

    def replace_subscription(self, *, subscription: Subscription, now: float) -> bool:
        self._index(subscription)
        words = (subscription.id, _row_of(subscription), now, subscription.version - 1)
        reply = self._run_on(_REPLACE, subscription.queue_uid, *words)
        if reply == _TAKEN:
            raise Conflict("The queue has another subscription with this subscriber.")
        if reply == _ABSENT:
            return False
        before = replace(subscription, expires=float(reply))
        if before.expires != subscription.expires:
            self._unindex([before])
        return True

    def delete_subscription(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        row = self._run_on(_DELETE, queue_uid, subscription_id, b"" if version is None else version)
        if row is not None:
            self._unindex([_subscription_of(row)])
        return row is not None

    def remove_subscriptions(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        of_queue: dict[str, list[Subscription]] = {}
        for each in subscriptions:
            of_queue.setdefault(each.queue_uid, []).append(each)
        gone: list[Subscription] = []
        removed: list[Subscription] = []
        for uid, these in of_queue.items():
            words = [word for each in these for word in (each.id, each.subscriber)]
            rows = self._run_on(_REMOVE, uid, *words)
            removed += (_subscription_of(row) for row in rows if isinstance(row, bytes))
            gone += (each for each, row in zip(these, rows, strict=True) if row != _TAKEN)
        self._unindex(removed)
        return gone

    def delete_subscriptions(self, *, queue_uid: str) -> None:
        self._unindex([_subscription_of(row) for row in self._run_on(_DELETE_ALL, queue_uid)])

    def expired_subscriptions(self, *, now: float, limit: int) -> list[Subscription]:
        found: list[Subscription] = []
        start = 0
        while len(found) < limit:
            page = (b"ZRANGEBYSCORE", _OVER, b"-inf", now, b"LIMIT", start, min(limit, _AT_ONCE))
            entries = self._redis.command(*page, slot=slot_of(_OVER))
            if not entries:
                break
            for entry in entries:
                uid, name, _ = entry.decode().split("/")
                there = self._read(uid, name)
                if there is not None and _entry_of(there) == entry:
                    found.append(there)
                    start += 1
                else:  # gone, or of another time by now
                    self._redis.command(b"ZREM", _OVER, entry, slot=slot_of(_OVER))
        return found[:limit]

    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        words: list[Word] = [now, len(pauses)]
        for key, ends in pauses.items():
            words += [ends, key]
        reply = self._redis.run(_TAKE_PAUSES, (_PAUSES,), words, slot_of(_PAUSES))
        return None if reply is None else float(reply)

    def _index(self, subscription: Subscription) -> None:
        self._redis.run(_INDEX, (_OVER,), (subscription.expires, _entry_of(subscription)), slot_of(_OVER))

    def _unindex(self, gone: list[Subscription]) -> None:
        for start in range(0, len(gone), _AT_ONCE):
            entries = map(_entry_of, gone[start : start + _AT_ONCE])
            self._redis.command(b"ZREM", _OVER, *entries, slot=slot_of(_OVER))

    def _read(self, uid: str, subscription_id: str) -> Subscription | None:
        row = self._redis.command(b"HGET", _keys(uid)[1], subscription_id, slot=slot_of(uid.encode()))
        return None if row is None else _subscription_of(row)

    def _run_on(self, script: Script, uid: str, *words: Word) -> Any:
        return self._redis.run(script, _keys(uid), words, slot_of(uid.encode()))


def _keys(uid: str) -> tuple[bytes, bytes, bytes]:
    prefix = b"zaqar:{%b}:" % uid.encode()
    return prefix + b"subscriptions", prefix + b"rows", prefix + b"subscribers"


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
