# SPDX-License-Identifier: Apache-2.0
"""Subscriptions on Redis.

Those of a queue lie under its uid as their hash tag, so each operation is one script in one slot. Across queues there
are only indexes by the time when each expires: one of all subscriptions, and one for each project. Their entries are
written before the subscription and say what was to be written. So an entry may be about a subscription that is gone, or
that expires later: ``list_expired`` and ``count_of_project`` compare each one with its subscription. After a crash an
index may have too many entries, and never too few.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

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
_COUNT = load("subscriptions/count", idempotent=True, durable=False)
_LIST_OF_PROJECT = load("subscriptions/list_of_project", idempotent=True, durable=False)
_LIST = load("subscriptions/list", idempotent=True, durable=False)
_REPLACE = load("subscriptions/replace")
_DELETE = load("subscriptions/delete", idempotent=True)
_DELETE_MANY = load("subscriptions/delete_many", idempotent=True)
_DELETE_ALL = load("subscriptions/delete_all", idempotent=True)
_TAKE_PAUSES = load("subscriptions/take_pauses")

_EXPIRY = b"zaqar:subscriptions:expiry"
_INDEXED = b"zaqar:subscriptions:indexed"
"""It exists if each subscription has an entry in the index of its project. Versions without it have only _EXPIRY."""

_PAUSES = b"zaqar:pauses"
_ENTRIES_AT_ONCE = 1000
_ABSENT, _OTHER_SUBSCRIBER = 0, -1


class RedisSubscriptions(SubscriptionStore):
    """Subscriptions, by the queue's uid."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._has_project_indexes = False

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

    def count(self, *, queue_uid: str, now: float, most: int) -> int:
        counted = 0
        after: list[Argument] = [b""]
        # A script reads a bounded number of records. Expired ones count for that number and not for the result, so the
        # walk is no longer than the queue has subscriptions that are not removed yet.
        while after and counted < most:
            more, *after = self._run(_COUNT, queue_uid, *after, now, most - counted)
            counted += more
        return counted

    def count_of_project(self, *, project: str, now: float, most: int) -> int:
        """Count by the index of the project, and read the subscription of each entry; see the top of this module."""
        if not self._has_project_indexes:
            self._complete_project_indexes()
        key = _project_key(project)
        counted = start = 0
        while counted < most:
            size = min(most - counted, _ENTRIES_AT_ONCE)
            entries = self._client.run(_LIST_OF_PROJECT, (key,), (now, start, size), slot_of(key))
            counted += len(self._rows_of(entries))
            if len(entries) < size:
                break
            start += size
        return counted

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
        """Add the entry to both indexes: in one script on one server, in one for each slot in a Cluster."""
        keys = _EXPIRY, _project_key(subscription.project)
        arguments = subscription.expires, _entry_of(subscription)
        for some in [(key,) for key in keys] if self._client.is_cluster else [keys]:
            self._client.run(_INDEX, some, arguments, slot_of(some[0]))

    def _unindex(self, gone: list[Subscription]) -> None:
        """Remove entries. If a crash prevents it, ``list_expired`` and ``count_of_project`` do so when they are due."""
        entries: dict[bytes, list[bytes]] = defaultdict(list)
        for each in gone:
            for key in (_EXPIRY, _project_key(each.project)):
                entries[key].append(_entry_of(each))
        removals = [
            (b"ZREM", key, *some[start : start + _ENTRIES_AT_ONCE])
            for key, some in entries.items()
            for start in range(0, len(some), _ENTRIES_AT_ONCE)
        ]
        self._client.command_in_each_slot([slot_of(key) for _, key, *_ in removals], removals)

    def _rows_of(self, entries: Sequence[bytes]) -> list[bytes]:
        """The subscriptions of those entries that are true: it is there, and expires when the entry says."""
        parts = [entry.split(b"/") for entry in entries]
        reads = [(b"HGET", _keys(uid.decode())[1], id_) for uid, id_, _ in parts]
        rows = self._client.command_in_each_slot([slot_of(uid) for uid, _, _ in parts], reads)
        return [
            row for row, (_, _, expires) in zip(rows, parts, strict=True) if row and row.split(b" ", 2)[1] == expires
        ]

    def _complete_project_indexes(self) -> None:
        """Add the subscriptions of versions that had no index of projects, once for each store.

        To add an entry twice changes nothing. So if this process crashes, or another one does the same, the result is
        the same. A subscription that is removed meanwhile may leave an entry that is not true.
        """
        if not self._client.command(b"EXISTS", _INDEXED, slot=slot_of(_INDEXED)):
            cursor = b"0"
            while True:
                page = (b"ZSCAN", _EXPIRY, cursor, b"COUNT", _ENTRIES_AT_ONCE)
                cursor, entries = self._client.command(*page, slot=slot_of(_EXPIRY))
                for row in self._rows_of(entries[::2]):
                    self._index(_subscription_of(row))
                if cursor == b"0":
                    break
            self._client.command(b"SET", _INDEXED, 1, slot=slot_of(_INDEXED))
        self._has_project_indexes = True

    def _read(self, uid: str, subscription_id: str) -> Subscription | None:
        row = self._client.command(b"HGET", _keys(uid)[1], subscription_id, slot=slot_of(uid.encode()))
        return None if row is None else _subscription_of(row)

    def _run(self, script: Script, uid: str, *arguments: Argument) -> Any:
        return self._client.run(script, _keys(uid), arguments, slot_of(uid.encode()))


def _keys(uid: str) -> tuple[bytes, bytes, bytes]:
    prefix = b"zaqar:{%b}:" % uid.encode()
    return prefix + b"subscriptions", prefix + b"subscription_records", prefix + b"subscribers"


def _project_key(project: str) -> bytes:
    """The index of a project. The project is percent-encoded, because it may contain braces."""
    return f"zaqar:subscriptions:project:{quote(project, safe='')}".encode()


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
