# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps the processes that hold WebSocket connections."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import islice
from threading import Lock

from zaqar.storage.base import Node, NodeStore, NodeSubscription


@dataclass
class _StoredNode:
    node: Node
    condemned: bool = False
    subscriptions: dict[NodeSubscription, None] = field(default_factory=dict)


class MemoryNodes(NodeStore):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._nodes: dict[str, _StoredNode] = {}

    def add(self, *, node: Node) -> None:
        with self._lock:
            self._nodes.setdefault(node.id, _StoredNode(node))

    def get(self, *, node_id: str) -> Node | None:
        with self._lock:
            stored = self._live(node_id)
            return None if stored is None else stored.node

    def renew(self, *, node_id: str, expires: float) -> bool:
        with self._lock:
            stored = self._live(node_id)
            if stored is None:
                return False
            stored.node = replace(stored.node, expires=expires)
            return True

    def condemn(self, *, node_id: str, now: float) -> bool:
        with self._lock:
            stored = self._live(node_id)
            if stored is not None:
                stored.condemned = stored.node.expires <= now
            return stored is None or stored.condemned

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        with self._lock:
            expired = [each for each in self._nodes.values() if each.condemned or each.node.expires <= now]
            expired.sort(key=lambda each: (not each.condemned, each.node.expires))
            return [each.node.id for each in expired[:limit]]

    def remove(self, *, node_id: str) -> None:
        with self._lock:
            self._nodes.pop(node_id, None)

    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        with self._lock:
            stored = self._live(node_id)
            if stored is None:
                return False
            stored.subscriptions[subscription] = None
            return True

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        with self._lock:
            stored = self._nodes.get(node_id)
            return [] if stored is None else list(islice(stored.subscriptions, limit))

    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        with self._lock:
            stored = self._nodes.get(node_id)
            if stored is not None:
                for subscription in subscriptions:
                    stored.subscriptions.pop(subscription, None)

    def _live(self, node_id: str) -> _StoredNode | None:
        stored = self._nodes.get(node_id)
        return None if stored is None or stored.condemned else stored
