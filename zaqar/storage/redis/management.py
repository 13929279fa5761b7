# SPDX-License-Identifier: Apache-2.0
"""The control plane on Redis.

Everything about the queues of one project and kind lies under one hash tag, so each operation is one script in one
slot: ``names`` in order, ``rows`` by name, and how many of them are on each of the ``pools``. Across projects there is
only a set for each pool, of those tags that ever had a queue on it. It is added to before the queue is, and never taken
from, so it may name too many: what counts is asked of each.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Self
from urllib.parse import quote

from zaqar.model import Catalog, Pool, Queue, QueueName
from zaqar.storage.redis import durability
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.keys import slot_of
from zaqar.storage.redis.scripts import Script, load
from zaqar.storage.redis.subscriptions import SubscriptionStore
from zaqar.storage.redis.wire import Word

_CREATE = load("queue_create", again=True)
_REPLACE = load("queue_replace")
_DELETE = load("queue_delete", again=True)
_LIST = load("queue_list", again=True, writes=False)
_NOTE_POOL = load("add_members", again=True)
_REPLACE_CATALOG = load("catalog_replace")

_CATALOG = b"zaqar:catalog"


class RedisManagementStore(SubscriptionStore):
    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        server = Redis.from_settings(settings)
        durability.look_at_start(server)
        return cls(server)

    # -- queues ------------------------------------------------------------------------------------------------------

    def create_queue(self, *, queue: Queue) -> Queue:
        self._note_pool(queue)
        row = self._run(_CREATE, queue.project, queue.kind, queue.name, _row_of(queue), _spell(queue.pool))
        return _queue_of(queue.project, queue.kind, row)

    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None:
        row = self._ask(_tag(project, kind), b"HGET", _keys(_tag(project, kind))[1], name)
        return None if row is None else _queue_of(project, kind, row)

    def find_queues(self, *, names: Collection[QueueName]) -> dict[QueueName, Queue]:
        tags = [_tag(address.project, address.kind) for address in names]
        asked = [(b"HGET", _keys(tag)[1], address.name) for tag, address in zip(tags, names, strict=True)]
        rows = self._redis.in_each([slot_of(tag) for tag in tags], asked)
        return {
            address: _queue_of(address.project, address.kind, row)
            for address, row in zip(names, rows, strict=True)
            if row is not None
        }

    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        return [_queue_of(project, kind, row) for row in self._run(_LIST, project, kind, after, limit)]

    def list_queue_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        tag = _tag(project, kind)
        page = (f"({after}", "+", "LIMIT", 0, limit)
        return [name.decode() for name in self._ask(tag, b"ZRANGEBYLEX", _keys(tag)[0], *page)]

    def count_queues(self, *, project: str, kind: str) -> int:
        return int(self._ask(_tag(project, kind), b"ZCARD", _keys(_tag(project, kind))[0]))

    def replace_queue(self, *, queue: Queue, replaces: int | None = None) -> bool:
        self._note_pool(queue)
        before = queue.generation - 1 if replaces is None else replaces
        place = (_spell(queue.pool) or b"-", queue.uid, before)
        return bool(self._run(_REPLACE, queue.project, queue.kind, queue.name, _row_of(queue), *place))

    def delete_queue(self, *, queue: Queue) -> None:
        self._run(_DELETE, queue.project, queue.kind, queue.name, queue.uid)

    def _run(self, script: Script, project: str, kind: str, *words: Word) -> Any:
        tag = _tag(project, kind)
        return self._redis.run(script, _keys(tag), words, slot_of(tag))

    def _ask(self, tag: bytes, *words: Word) -> Any:
        return self._redis.command(*words, slot=slot_of(tag))

    # -- pools -------------------------------------------------------------------------------------------------------

    def pool_has_queues(self, *, pool: str) -> bool:
        name = _spell(pool)
        key = _pool_key(name)
        tags = self._ask(key, b"SMEMBERS", key)
        return any(self._ask(tag, b"HEXISTS", _keys(tag)[2], name) for tag in tags)

    def _note_pool(self, queue: Queue) -> None:
        if queue.pool is not None:
            key = _pool_key(_spell(queue.pool))
            self._redis.run(_NOTE_POOL, (key,), (_tag(queue.project, queue.kind),), slot_of(key))

    def get_catalog(self) -> Catalog:
        text = self._ask(_CATALOG, b"HGET", _CATALOG, b"catalog")
        if text is None:
            return Catalog()
        written = json.loads(text)
        return Catalog(written["version"], tuple(Pool(**each) for each in written["pools"]), tuple(written["flavors"]))

    def replace_catalog(self, *, catalog: Catalog) -> bool:
        pools = [
            {"name": each.name, "uri": each.uri, "weight": each.weight, "options": dict(each.options)}
            | {"flavor": each.flavor}
            for each in catalog.pools
        ]
        text = json.dumps({"version": catalog.version, "pools": pools, "flavors": catalog.flavors})
        words = (catalog.version - 1, catalog.version, text)
        return bool(self._redis.run(_REPLACE_CATALOG, (_CATALOG,), words, slot_of(_CATALOG)))

    def ping(self) -> None:
        self._redis.ping()

    def close(self) -> None:
        self._redis.close()


def _tag(project: str, kind: str) -> bytes:
    """The hash tag of a project and kind; encoded, for a project may hold braces."""
    return f"{kind}/{quote(project, safe='')}".encode()


def _keys(tag: bytes) -> tuple[bytes, bytes, bytes]:
    return b"zaqar:{%b}:names" % tag, b"zaqar:{%b}:rows" % tag, b"zaqar:{%b}:pools" % tag


def _pool_key(name: bytes) -> bytes:
    return b"zaqar:pool:" + name


def _spell(pool: str | None) -> bytes:
    """A pool's name without blanks and line feeds; no pool is ''."""
    return b"" if pool is None else b"/" + quote(pool, safe="").encode()


def _row_of(queue: Queue) -> bytes:
    pool = _spell(queue.pool) or b"-"
    text = json.dumps([queue.name, dict(queue.metadata), queue.pool, queue.notify])
    return b"%b %d %b\n%b" % (queue.uid.encode(), queue.generation, pool, text.encode())


def _queue_of(project: str, kind: str, row: bytes) -> Queue:
    head, _, text = row.partition(b"\n")
    uid, generation, _ = head.split(b" ")
    name, metadata, pool, notify = json.loads(text)
    return Queue(uid.decode(), project, name, kind, metadata, pool, int(generation), notify)
