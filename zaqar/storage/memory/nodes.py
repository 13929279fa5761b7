# SPDX-License-Identifier: Apache-2.0
"""The processes that hold WebSocket connections, in the memory of one process."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import islice
from threading import Lock

from zaqar.storage.base import Node, NodeStore, NodeSubscription


@dataclass
class _Entry:
    node: Node
    condemned: bool = False
    subscriptions: dict[NodeSubscription, None] = field(default_factory=dict)


class MemoryNodeStore(NodeStore):
    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: dict[str, _Entry] = {}

    def add(self, *, node: Node) -> None:
        with self._lock:
            self._entries.setdefault(node.id, _Entry(node))

    def get(self, *, node_id: str) -> Node | None:
        with self._lock:
            entry = self._live(node_id)
            return None if entry is None else entry.node

    def renew(self, *, node_id: str, expires: float) -> bool:
        with self._lock:
            entry = self._live(node_id)
            if entry is None:
                return False
            entry.node = replace(entry.node, expires=expires)
            return True

    def condemn(self, *, node_id: str, now: float) -> bool:
        with self._lock:
            entry = self._live(node_id)
            if entry is not None:
                entry.condemned = entry.node.expires <= now
            return entry is None or entry.condemned

    def list_expired(self, *, now: float, limit: int) -> list[str]:
        with self._lock:
            over = [each for each in self._entries.values() if each.condemned or each.node.expires <= now]
        over.sort(key=lambda each: (not each.condemned, each.node.expires))
        return [each.node.id for each in over[:limit]]

    def remove(self, *, node_id: str) -> None:
        with self._lock:
            self._entries.pop(node_id, None)

    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        with self._lock:
            entry = self._live(node_id)
            if entry is None:
                return False
            entry.subscriptions[subscription] = None
            return True

    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        with self._lock:
            entry = self._entries.get(node_id)
            return [] if entry is None else list(islice(entry.subscriptions, limit))

    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        with self._lock:
            entry = self._entries.get(node_id)
            if entry is not None:
                for subscription in subscriptions:
                    entry.subscriptions.pop(subscription, None)

    def _live(self, node_id: str) -> _Entry | None:
        entry = self._entries.get(node_id)
        return None if entry is None or entry.condemned else entry
