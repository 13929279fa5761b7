# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps the processes with WebSocket connections.

A WebSocket process adds itself and renews its lease. Notifiers read the addresses to push to. They condemn and remove
the nodes of dead processes, with their subscriptions.
"""

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
    """Nodes, each with a lease, and notes of the subscriptions of their connections.

    ::

        add --> live --renew--> live --condemn (lease expired)--> condemned --remove--> absent

    A condemned node can never be renewed. So after ``condemn`` the caller may remove the subscriptions of the node. If
    the process was only slow, its ``renew`` returns False, and the process begins again as a new node.

    A process notes a subscription here before it stores it, and forgets the note after it has removed the subscription.
    So a crash in between leaves a note, which a notifier reads when the node is dead. It never leaves a subscription of
    a dead connection without a note.

    A fail-over may lose the last acknowledged steps. If it loses a condemnation, ``list_expired`` lists the node again
    and it is condemned again. To remove its subscriptions a second time is harmless.
    """

    @abstractmethod
    def add(self, *, node: Node) -> None:
        """Insert a node. If the store has a node with this id, condemned or not, nothing changes."""

    @abstractmethod
    def get(self, *, node_id: str) -> Node | None:
        """The node, even if its lease has expired; None if it is absent or condemned."""

    @abstractmethod
    def renew(self, *, node_id: str, expires: float) -> bool:
        """Set the end of the lease, in seconds since the epoch. False if the node is absent or condemned."""

    @abstractmethod
    def condemn(self, *, node_id: str, now: float) -> bool:
        """Condemn the node if its lease has expired at ``now``, in one atomic step. False if it has not expired.

        Also True if the node is condemned already or is absent. After True no ``renew`` and no ``note`` succeeds,
        and ``list_subscriptions`` has every note that was made before.
        """

    @abstractmethod
    def list_expired(self, *, now: float, limit: int) -> list[str]:
        """Ids of at most ``limit`` nodes: first condemned nodes, then nodes whose lease has expired at ``now``.

        Nodes with an expired lease are sorted by its end.
        """

    def condemn_forgotten(self) -> None:
        """Make ``list_expired`` list absent nodes for which there are notes. A crash during ``remove`` may leave notes.

        If a store changes a node and its notes in one atomic step, it has no such notes, and this does nothing.
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
