# SPDX-License-Identifier: Apache-2.0
"""Records of queues on Redis.

All records of one project and kind lie under one hash tag, so each operation is one script in one slot. They are three
keys: ``names`` in order, ``records`` by name, and ``pools``, how many of the queues are on each pool.

Across projects there is only a set for each pool, of the tags that ever had a queue on it. A tag is added to the set
before the queue is stored, and never removed. So the set may have too many tags, and the count of each tag decides.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from zaqar.model import Queue, QueueName
from zaqar.storage.base import QueueRecordStore
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import Script, load
from zaqar.storage.redis.keys import slot_of

_CREATE = load("queue_records/create", idempotent=True)
_REPLACE = load("queue_records/replace")
_DELETE = load("queue_records/delete", idempotent=True)
_LIST = load("queue_records/list", idempotent=True, durable=False)
_ADD_MEMBERS = load("common/add_members", idempotent=True)


class RedisQueueRecords(QueueRecordStore):
    """Records of queues, by project, kind and name."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def create(self, *, queue: Queue) -> Queue:
        self._record_pool(queue)
        arguments = (queue.name, _row_of(queue), _encode_pool(queue.pool))
        return _queue_of(queue.project, queue.kind, self._run(_CREATE, queue.project, queue.kind, *arguments))

    def get(self, *, project: str, kind: str, name: str) -> Queue | None:
        tag = _tag(project, kind)
        row = self._command(tag, b"HGET", _keys(tag)[1], name)
        return None if row is None else _queue_of(project, kind, row)

    def find(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        tags = [_tag(each.project, each.kind) for each in names]
        commands = [(b"HGET", _keys(tag)[1], each.name) for tag, each in zip(tags, names, strict=True)]
        rows = self._client.command_in_each_slot([slot_of(tag) for tag in tags], commands)
        return {
            each: _queue_of(each.project, each.kind, row)
            for each, row in zip(names, rows, strict=True)
            if row is not None
        }

    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        return [_queue_of(project, kind, row) for row in self._run(_LIST, project, kind, after, limit)]

    def list_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        tag = _tag(project, kind)
        page = (f"({after}", "+", "LIMIT", 0, limit)
        return [name.decode() for name in self._command(tag, b"ZRANGEBYLEX", _keys(tag)[0], *page)]

    def count(self, *, project: str, kind: str, most: int | None = None) -> int:
        tag = _tag(project, kind)
        count = int(self._command(tag, b"ZCARD", _keys(tag)[0]))
        return count if most is None else min(count, most)

    def replace(self, *, queue: Queue, replaces: int | None = None) -> bool:
        self._record_pool(queue)
        before = queue.generation - 1 if replaces is None else replaces
        arguments = (queue.name, _row_of(queue), _encode_pool(queue.pool) or b"-", queue.uid, before)
        return bool(self._run(_REPLACE, queue.project, queue.kind, *arguments))

    def delete(self, *, queue: Queue) -> None:
        self._run(_DELETE, queue.project, queue.kind, queue.name, queue.uid)

    def any_on_pool(self, *, pool: str) -> bool:
        name = _encode_pool(pool)
        key = _pool_key(name)
        tags = self._command(key, b"SMEMBERS", key)
        return any(self._command(tag, b"HEXISTS", _keys(tag)[2], name) for tag in tags)

    def _record_pool(self, queue: Queue) -> None:
        """Add the tag to the set of the pool, before the queue is stored: a crash in between is harmless."""
        if queue.pool is not None:
            key = _pool_key(_encode_pool(queue.pool))
            self._client.run(_ADD_MEMBERS, (key,), (_tag(queue.project, queue.kind),), slot_of(key))

    def _run(self, script: Script, project: str, kind: str, *arguments: Argument) -> Any:
        tag = _tag(project, kind)
        return self._client.run(script, _keys(tag), arguments, slot_of(tag))

    def _command(self, tag: bytes, *arguments: Argument) -> Any:
        return self._client.command(*arguments, slot=slot_of(tag))


def _tag(project: str, kind: str) -> bytes:
    """The hash tag of a project and kind. The project is percent-encoded, because it may contain braces."""
    return f"{kind}/{quote(project, safe='')}".encode()


def _keys(tag: bytes) -> tuple[bytes, bytes, bytes]:
    return b"zaqar:{%b}:names" % tag, b"zaqar:{%b}:records" % tag, b"zaqar:{%b}:pools" % tag


def _pool_key(name: bytes) -> bytes:
    return b"zaqar:pool:" + name


def _encode_pool(pool: str | None) -> bytes:
    """A pool's name without blanks and line feeds; b"" for no pool."""
    return b"" if pool is None else b"/" + quote(pool, safe="").encode()


def _row_of(queue: Queue) -> bytes:
    pool = _encode_pool(queue.pool) or b"-"
    text = json.dumps([queue.name, dict(queue.metadata), queue.pool, queue.notify])
    return b"%b %d %b\n%b" % (queue.uid.encode(), queue.generation, pool, text.encode())


def _queue_of(project: str, kind: str, row: bytes) -> Queue:
    head, _, text = row.partition(b"\n")
    uid, generation, _ = head.split(b" ")
    name, metadata, pool, notify = json.loads(text)
    return Queue(uid.decode(), project, name, kind, metadata, pool, int(generation), notify)
