# SPDX-License-Identifier: Apache-2.0
"""The record of a running WebSocket process in the management store, and its lease.

``zaqar-websocket`` makes and renews it. Notifiers find the process by it.
"""

from __future__ import annotations

import secrets
import socket

from zaqar.clock import Clock
from zaqar.storage.base import ManagementStore
from zaqar.storage.base.nodes import Node

__all__ = ["LEASE_SECONDS", "Node", "Nodes"]

LEASE_SECONDS = 20.0
"""If a node does not renew its lease within this time, notifiers condemn it and remove its subscriptions."""


class Nodes:
    """Begins, renews and ends nodes. Every method blocks, and raises StoreUnavailable."""

    def __init__(self, management: ManagementStore, clock: Clock) -> None:
        self._nodes = management.nodes
        self._clock = clock

    def begin(self, *, path: str, host: str, port: int) -> Node:
        """Add a node that listens on the Unix socket at ``path`` ("": none) and on the TCP ``port`` (0: none)."""
        node = Node(
            id=secrets.token_hex(12),
            machine=socket.gethostname(),
            host=host,
            port=port,
            socket=path,
            expires=self._clock() + LEASE_SECONDS,
            key=secrets.token_bytes(32),
        )
        self._nodes.add(node=node)
        return node

    def renew(self, node: Node) -> bool:
        """Renew the lease. Returns False if the node was condemned: then notifiers remove its subscriptions."""
        return self._nodes.renew(node_id=node.id, expires=self._clock() + LEASE_SECONDS)

    def end(self, node: Node) -> None:
        """End the lease now, so that notifiers remove the remaining subscriptions of the node."""
        self._nodes.renew(node_id=node.id, expires=self._clock())
