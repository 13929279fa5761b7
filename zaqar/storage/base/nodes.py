# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the control plane that knows which processes hold WebSocket connections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Node:
    """One running process that holds WebSocket connections, and how a notifier reaches it.

    ``id`` is new for each start. ``host`` and ``port`` are where it takes notifications over TCP, port 0 if it does
    not; ``socket`` is the path of its Unix socket, which only processes on ``machine`` can open. ``key`` is the secret
    with which notifiers and this process authenticate each other. The lease of the node is over at ``expires``.
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

    A node that is condemned can never be renewed. So after ``condemn`` the caller may remove the subscriptions of the
    node. If the process was only slow, it learns from ``renew`` that it has to begin anew.
    A subscription is noted here before it is stored, and forgotten after it is removed. So a crash in between leaves a
    note, which a notifier looks at when the node is dead, and never a subscription of a dead connection without a note.

    If a fail-over loses steps that were acknowledged, it loses the last ones. A node whose condemnation was lost is
    listed by ``list_over``, and condemned again; removing its subscriptions once more is harmless.
    """

    @abstractmethod
    def add(self, *, node: Node) -> None:
        """Insert a node whose id is new. A node that exists already, condemned or not, is left as it is."""

    @abstractmethod
    def get(self, *, node_id: str) -> Node | None:
        """The node, also if its lease is over; None if it is absent or condemned."""

    @abstractmethod
    def renew(self, *, node_id: str, expires: float) -> bool:
        """Move the end of the lease; False, and nothing changes, if the node is absent or condemned."""

    @abstractmethod
    def condemn(self, *, node_id: str, now: float) -> bool:
        """Condemn the node if its lease is over at ``now``, in one atomic step; False if it is not over.

        True for a node that is condemned already, or absent. From then on no ``renew`` and no ``note`` succeeds, and
        ``list_subscriptions`` has every note that was made before.
        """

    @abstractmethod
    def list_over(self, *, now: float, limit: int) -> list[str]:
        """Ids of at most ``limit`` nodes: first the condemned ones, then those whose lease is over at ``now``.

        Those with a lease come in the order in which their leases ended.
        """

    def condemn_forgotten(self) -> None:
        """Have ``list_over`` list nodes that are absent although notes of their subscriptions were left by a crash.

        Most stores change a node and its notes in one atomic step, so there are none.
        """
        return

    @abstractmethod
    def remove(self, *, node_id: str) -> None:
        """Remove the node, condemned or not, and all notes of its subscriptions; an absent one is fine."""

    @abstractmethod
    def note(self, *, node_id: str, subscription: NodeSubscription) -> bool:
        """Note that the subscription belongs to a connection of the node; once more is fine.

        False, and nothing is stored, if the node is absent or condemned.
        """

    @abstractmethod
    def list_subscriptions(self, *, node_id: str, limit: int) -> list[NodeSubscription]:
        """At most ``limit`` (1 or more) noted subscriptions of the node, condemned or not, in any order."""

    @abstractmethod
    def forget(self, *, node_id: str, subscriptions: Collection[NodeSubscription]) -> None:
        """Remove the notes of at most 500 subscriptions; absent ones are fine."""
