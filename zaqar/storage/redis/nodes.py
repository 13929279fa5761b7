# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections, on Redis.

All keys are in one slot, so each operation is one script, and scripts run one after the other. That is enough, because
nodes are few, and a subscription of a connection is written only when it is made and when it ends.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from zaqar.storage.base import Node, NodeStore, NodeSubscription
from zaqar.storage.redis.connection import Redis
from zaqar.storage.redis.keys import slot_of
from zaqar.storage.redis.scripts import Script, load
from zaqar.storage.redis.wire import Word

_ADD = load("node_add", again=True)
_GET = load("node_get", again=True, writes=False)
_RENEW = load("node_renew", again=True)
_CONDEMN = load("node_condemn", again=True)
_REMOVE = load("node_remove", again=True)
_NOTE = load("node_note", again=True)
_FORGET = load("node_forget", again=True)

_TAG: Final = b"nodes"
_SLOT = slot_of(_TAG)
_EXPIRES, _ROWS = b"zaqar:{nodes}:expires", b"zaqar:{nodes}:rows"

_Row = tuple[str, str, int, str, bytes]
"""Machine, host, port, socket, key."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


class RedisNodeStore(NodeStore):
    def __init__(self, server: Redis) -> None:
        self._redis = server

    def add(self, *, node: Node) -> None:
        row = _encode((node.machine, node.host, node.port, node.socket, node.key))
        self._run(_ADD, node.id, node.id, node.expires, row)

    def get(self, *, node_id: str) -> Node | None:
        found = self._run(_GET, node_id, node_id)
        if not found:
            return None
        row, expires = found
        machine, host, port, socket, key = _decode(row)
        return Node(node_id, machine, host, port, socket, float(expires), key)

    def renew(self, *, node_id: str, expires: float) -> bool:
        return bool(self._run(_RENEW, node_id, node_id, expires))

    def condemn(self, *, node_id: str, now: float) -> bool:
        return bool(self._run(_CONDEMN, node_id, node_id, now))

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        page = (b"ZRANGEBYSCORE", _EXPIRES, b"-inf", now, b"LIMIT", 0, limit)
        return [node_id.decode() for node_id in self._redis.command(*page, slot=_SLOT)]

    def remove(self, *, node_id: str) -> None:
        self._run(_REMOVE, node_id, node_id)

    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        return bool(self._run(_NOTE, node_id, node_id, _member_of(subscription)))

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        found = self._redis.command(b"ZRANGE", _subscriptions_of(node_id), 0, limit - 1, slot=_SLOT)
        return [NodeSubscription(*member.decode().split(" ")) for member in found]

    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        if subscriptions:
            self._run(_FORGET, node_id, *map(_member_of, subscriptions))

    def _run(self, script: Script, node_id: str, *words: Word) -> Any:
        return self._redis.run(script, (_EXPIRES, _ROWS, _subscriptions_of(node_id)), words, _SLOT)


def _subscriptions_of(node_id: str) -> bytes:
    return b"zaqar:{nodes}:of:" + node_id.encode()


def _member_of(subscription: NodeSubscription) -> bytes:
    return " ".join(subscription).encode()
