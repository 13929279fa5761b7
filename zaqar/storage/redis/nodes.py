# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections, on Redis.

All keys lie in one slot, so each operation is one script. One slot is enough, because nodes are few, and the note of a
subscription is written only when the subscription is made and when it ends.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from zaqar.storage.base import Node, NodeStore, NodeSubscription
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import Script, load
from zaqar.storage.redis.keys import slot_of

_ADD = load("nodes/add", idempotent=True)
_GET = load("nodes/get", idempotent=True, durable=False)
_RENEW = load("nodes/renew", idempotent=True)
_CONDEMN = load("nodes/condemn", idempotent=True)
_REMOVE = load("nodes/remove", idempotent=True)
_NOTE = load("nodes/note", idempotent=True)
_FORGET = load("nodes/forget", idempotent=True)

_TAG: Final = b"nodes"
_SLOT = slot_of(_TAG)
_EXPIRES, _RECORDS = b"zaqar:{nodes}:expires", b"zaqar:{nodes}:records"

_Row = tuple[str, str, int, str, bytes]
"""Machine, host, port, socket, key."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


class RedisNodes(NodeStore):
    """Nodes, each with a lease, and the notes of their subscriptions."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

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
        return [node_id.decode() for node_id in self._client.command(*page, slot=_SLOT)]

    def remove(self, *, node_id: str) -> None:
        self._run(_REMOVE, node_id, node_id)

    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        return bool(self._run(_NOTE, node_id, node_id, _member_of(subscription)))

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        found = self._client.command(b"ZRANGE", _subscriptions_of(node_id), 0, limit - 1, slot=_SLOT)
        return [NodeSubscription(*member.decode().split(" ")) for member in found]

    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        if subscriptions:
            self._run(_FORGET, node_id, *map(_member_of, subscriptions))

    def _run(self, script: Script, node_id: str, *arguments: Argument) -> Any:
        return self._client.run(script, (_EXPIRES, _RECORDS, _subscriptions_of(node_id)), arguments, _SLOT)


def _subscriptions_of(node_id: str) -> bytes:
    return b"zaqar:{nodes}:subscriptions:" + node_id.encode()


def _member_of(subscription: NodeSubscription) -> bytes:
    return " ".join(subscription).encode()
