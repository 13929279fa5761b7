# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps the processes that hold WebSocket connections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Node:
    """One running process that holds WebSocket connections, and the addresses by which notifiers reach it.

    ``id`` is new for each start. ``host`` and ``port`` are its TCP address for notifications; port 0 means none.
    ``socket`` is the path of its Unix socket, which only processes on the host ``machine`` can open; "" means none.
    ``expires`` is the end of its lease, in seconds since the epoch.

    ``key`` is the secret by which notifiers and this process authenticate each other. The store keeps it unencrypted: a
    reader of the store can push to the connections of the node. Each start of the process makes a new key.
    """

    id: str
    machine: str
    host: str
    port: int
    socket: str
    expires: float
    key: bytes = field(repr=False)


class NodeSubscription(NamedTuple):
    """A subscription that belongs to a connection of a node."""

    queue_uid: str
    subscription_id: str


class NodeStore(ABC):
    """Nodes, each with a lease, and the subscriptions of their connections.

    ::

        add --> live --renew--> live --condemn (lease over)--> condemned --remove--> absent

    A condemned node can never be renewed. So after ``condemn`` the caller may remove the subscriptions of the node. If
    the process was only slow, ``renew`` returns False and it begins again as another node.

    A subscription is noted here before it is stored, and forgotten after it is removed. So a crash in between leaves a
    note, which a notifier looks at when the node is dead, and never a subscription of a dead connection without a note.

    If a fail-over loses steps that were acknowledged, it loses the last ones. A node whose condemnation was lost is
    listed by ``list_expired``, and condemned again; removing its subscriptions once more is harmless.
    """

    @abstractmethod
    def add(self, *, node: Node) -> None:
        """Insert a node. If the store has one with this id already, condemned or not, nothing changes."""

    @abstractmethod
    def get(self, *, node_id: str) -> Node | None:
        """The node, even if its lease is over; None if it is absent or condemned."""

    @abstractmethod
    def renew(self, *, node_id: str, expires: float) -> bool:
        """Set the end of the lease, in seconds since the epoch. False if the node is absent or condemned."""

    @abstractmethod
    def condemn(self, *, node_id: str, now: float) -> bool:
        """Condemn the node if its lease is over at ``now``, in one atomic step. False if the lease is not over.

        True as well if the node was condemned before or is absent. After True no ``renew`` and no ``note`` succeeds,
        and ``list_subscriptions`` has every note that was made before.
        """

    @abstractmethod
    def list_expired(self, *, now: float, limit: int) -> list[str]:
        """Ids of at most ``limit`` nodes: first condemned ones, then those whose lease is over at ``now``.

        The latter are sorted by the end of their leases.
        """

    def condemn_forgotten(self) -> None:
        """Make ``list_expired`` list absent nodes that have notes of subscriptions, which a crash may have left.

        A store that changes a node and its notes in one atomic step has no such notes and does nothing.
        """
        return

    @abstractmethod
    def remove(self, *, node_id: str) -> None:
        """Remove the node, condemned or not, and all notes of its subscriptions. An absent node is no error."""

    @abstractmethod
    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        """Note that the subscription belongs to a connection of the node. Idempotent.

        False, and nothing is stored, if the node is absent or condemned.
        """

    @abstractmethod
    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        """At most ``limit`` (1 or more) noted subscriptions of the node, condemned or not, in any order."""

    @abstractmethod
    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        """Remove the notes of at most 500 subscriptions. Absent notes are no error."""
