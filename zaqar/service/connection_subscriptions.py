# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of WebSocket connections. They end when their connection closes. ``zaqar-websocket`` calls this module.

A client creates one by a frame without a subscriber. The WebSocket process keeps a list of the subscriptions of its
connections and removes them when a connection closes. Before a subscription is stored, a note of it is stored under the
node, which is one run of that process. So if the process is killed, notifiers find and remove the subscriptions of the
node when its lease expires.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import AlreadySubscribed, Conflict, Forbidden, StoreUnavailable
from zaqar.limits import Limits
from zaqar.model import CONFIRMED, Queue, QueueName, Subscription
from zaqar.schemas.subscribers import connection_subscriber, is_of_node
from zaqar.schemas.subscriptions import Wanted, check_end, parse_connection_creation
from zaqar.service.queues import TRIES, Queues
from zaqar.service.store_guard import StoreGuard
from zaqar.service.subscription_changes import new_subscription
from zaqar.service.subscriptions import Subscriptions
from zaqar.storage.base import ManagementStore
from zaqar.storage.base.nodes import NodeSubscription

MAX_PER_CONNECTION = 1000
"""Subscriptions that one connection may have."""

_LOOKED_AT = 10
"""If a connection has MAX_PER_CONNECTION subscriptions, a request checks whether this many of them were deleted."""

_BATCH = 500

_ROUND = 10_000
"""Subscriptions of a condemned node that are removed before their queues are updated; their ids take memory."""

_STEP_SECONDS = 0.5
"""Time after which a long removal yields to its caller."""

_OfQueues = dict[tuple[QueueName, str], list[str]]
"""Ids of removed subscriptions, by the name and the uid of their queue."""

QUESTIONS = 4
"""Maximum number of simultaneous calls of ``has_undelivered_before``. One store gets one call less than that, so that
it cannot block all threads.
"""

LATER_SECONDS = 15.0
"""A delivery that is due more than this time from now belongs to a message with a delay.

A leased delivery is due when its lease ends. So this time is longer than the leases of notifiers plus a clock skew of
some seconds.
"""


@dataclass(frozen=True, slots=True)
class _Node:
    """This run of the process. ``is_open``: whether the process holds a connection with this id."""

    id: str
    is_open: Callable[[str], bool]


@dataclass(slots=True)
class _State:
    """The node of a process and its subscriptions. Acquire the lock to read or change them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    node: _Node | None = None
    connections: dict[str, dict[str, Subscription]] = field(default_factory=dict)
    """The subscriptions by connection and by uid of the queue. A subscription is here before it is stored."""
    ended: dict[str, Subscription] = field(default_factory=dict)
    """Subscriptions that have to be removed from the stores, by id."""


class ConnectionSubscriptions:
    """The subscriptions of the connections of this process. Threads may share it."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        management: ManagementStore,
        queues: Queues,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._subscriptions = subscriptions
        self._management = management
        self._queues = queues
        self._limits = limits
        self._clock = clock
        self._state = _State()
        self._guard = StoreGuard(QUESTIONS - 1, time.monotonic)

    # -- the process -------------------------------------------------------------------------------------------------

    def serve_as(self, node_id: str | None, is_open: Callable[[str], bool] = lambda connection: True) -> None:
        """Create subscriptions for this node from now on. With None, refuse to create any.

        ``is_open`` says whether this process holds a connection with this id. It must return False before :meth:`end`
        is called for a closed connection. Subscriptions of an earlier node are dropped from memory: that node was
        condemned, so notifiers remove them.
        """
        with self._state.lock:
            self._state.node = None if node_id is None else _Node(node_id, is_open)
            self._state.connections.clear()
            self._state.ended.clear()

    def is_subscribed(self, connection: str, queue_uid: str, subscription_id: str) -> bool:
        """Whether the subscription belongs to this connection, by the memory of this process. It asks no store."""
        with self._state.lock:
            live = self._state.connections.get(connection, {}).get(queue_uid)
            return live is not None and live.id == subscription_id

    def has_any(self, connection: str) -> bool:
        """Whether the connection has subscriptions, by the memory of this process."""
        with self._state.lock:
            return bool(self._state.connections.get(connection))

    def adopt(self, before: ConnectionSubscriptions) -> None:
        """Take over the node and the connections of ``before`` after the process has reloaded its configuration.

        Both objects share them from now on, so requests that ``before`` still serves end as usual.
        """
        self._state = before._state

    def subscribed(self) -> list[str]:
        """Return the ids of all connections that have subscriptions."""
        with self._state.lock:
            return list(self._state.connections)

    def has_undelivered_before(self, connection: str, queue_uid: str, number: int) -> bool:
        """Whether the subscription has an undelivered message before ``number``. False if the subscription has ended.

        See ``DeliveryStore.has_undelivered_before``. A message with a delay does not block later messages unless its
        delay is about to end. Raises StoreUnavailable, at once if the store failed a moment ago, and StoreBusy if the
        store has the allowed number of such calls.
        """
        with self._state.lock:
            live = self._state.connections.get(connection, {}).get(queue_uid)
        if live is None:
            return False
        resolved = self._queues.find(QueueName(live.project, live.kind, live.source), create=False)
        if resolved is None or resolved.queue.uid != queue_uid:
            return False
        with self._guard.asking(resolved.store_ref):
            return resolved.store_ref.store.deliveries.has_undelivered_before(
                queue_uid=queue_uid,
                subscription_id=live.id,
                number=number,
                due_before=self._clock() + LATER_SECONDS,
            )

    # -- creation ----------------------------------------------------------------------------------------------------

    def create(self, context: Context, queue_name: QueueName, raw: bytes, connection: str) -> str:
        """Subscribe a connection of this process. Returns the id of the subscription, which is confirmed at once.

        ``raw`` is a request body without ``subscriber``. The queue is created if it is missing. Raises
        AlreadySubscribed if the connection has a subscription to this queue, Forbidden if it has MAX_PER_CONNECTION,
        Conflict if the connection has closed, and StoreUnavailable, also if this process has no node.
        """
        wanted = parse_connection_creation(raw, source=queue_name.name, project=queue_name.project, limits=self._limits)
        check_end(wanted.ttl, self._clock())
        return self._create(queue_name, wanted, connection)

    def _create(self, queue_name: QueueName, wanted: Wanted, connection: str) -> str:
        node = self._state.node
        if node is None:
            raise StoreUnavailable
        self._check_number(connection)
        named = replace(wanted, subscriber=connection_subscriber(node.id, connection))
        for _ in range(TRIES):
            row = self._queues.ensure_row(queue_name)
            if not self._subscriptions.mark(queue_name, row.uid, must_change=False):
                continue
            self._check_absent(connection, row)
            made = replace(new_subscription(row, named, self._limits, self._clock()), state=CONFIRMED)
            created = False
            try:
                created = self._store(node, connection, made) and self._subscriptions.mark(
                    queue_name, row.uid, must_change=True
                )
            finally:
                if not created:
                    self._abandon(node, connection, made)
            if created:
                return made.id
            # The queue was deleted meanwhile, or an ended subscription with this subscriber was still stored. Retry.
        raise StoreUnavailable

    def _check_number(self, connection: str) -> None:
        live = self._live(connection)
        if len(live) < MAX_PER_CONNECTION:
            return
        # Requests to other processes may have deleted some of them.
        for each in live[:_LOOKED_AT]:
            is_there = self._is_there(each)
            with self._state.lock:
                of_connection = self._state.connections.get(connection, {})
                if of_connection.get(each.queue_uid) is each:
                    del of_connection[each.queue_uid]
                    if is_there:
                        # Move it to the end, so that the next request checks other ones.
                        of_connection[each.queue_uid] = each
                    else:
                        self._state.ended[each.id] = each
        if len(self._live(connection)) >= MAX_PER_CONNECTION:
            raise Forbidden(f"This connection has {MAX_PER_CONNECTION} subscriptions; no more are allowed.")

    def _live(self, connection: str) -> list[Subscription]:
        with self._state.lock:
            return list(self._state.connections.get(connection, {}).values())

    def _check_absent(self, connection: str, row: Queue) -> None:
        """Raise AlreadySubscribed if the connection has a subscription to the queue that is still stored."""
        with self._state.lock:
            live = self._state.connections.get(connection, {}).get(row.uid)
        if live is not None and self._is_there(live):
            raise AlreadySubscribed(f"This connection has a subscription to the {row.kind} '{row.name}'.")

    def _is_there(self, subscription: Subscription) -> bool:
        there = self._management.subscriptions.get(
            queue_uid=subscription.queue_uid, subscription_id=subscription.id, now=self._clock()
        )
        return there is not None and there.subscriber == subscription.subscriber

    def _store(self, node: _Node, connection: str, made: Subscription) -> bool:
        """Store a subscription of an open connection.

        Returns False if the queue still had an ended subscription with this subscriber; that one is removed. The order
        is: note, memory, subscription, note again. If the process is killed after a step, the note is stored, so
        notifiers remove the subscription when the lease of the node expires.
        """
        note = NodeSubscription(made.queue_uid, made.id)
        if not self._management.nodes.note(node_id=node.id, subscription=note):
            raise StoreUnavailable
        self._remember(node, connection, made)
        placed = self._management.subscriptions.create(subscription=made, now=made.created)
        if placed.id != made.id:
            left: _OfQueues = {}
            self._delete([placed], left)
            next(self._release(left), None)
            return False
        # Note it again: a notifier may have condemned the node and read its notes before the subscription was stored.
        # Then this call fails, and the caller removes the subscription.
        if not self._management.nodes.note(node_id=node.id, subscription=note):
            raise StoreUnavailable
        if not self.is_subscribed(connection, made.queue_uid, made.id):
            raise Conflict("The connection was closed.")
        return True

    def _remember(self, node: _Node, connection: str, made: Subscription) -> None:
        """Accept notifications for this subscription from now on."""
        with self._state.lock:
            if self._state.node is not node:
                raise StoreUnavailable
            # If the connection closes after this check, end() finds the subscription in ``connections``.
            if not node.is_open(connection):
                raise Conflict("The connection is closed.")
            live = self._state.connections.setdefault(connection, {})
            before = live.get(made.queue_uid)
            if before is not None:
                # A request has deleted that subscription. Only its note is left and has to be removed.
                self._state.ended[before.id] = before
            live[made.queue_uid] = made

    def _abandon(self, node: _Node, connection: str, made: Subscription) -> None:
        """Schedule the removal of a subscription that could not be created, but may be stored or noted."""
        with self._state.lock:
            if self._state.node is not node:
                return
            self._state.ended[made.id] = made
            live = self._state.connections.get(connection, {})
            if live.get(made.queue_uid) is made:
                del live[made.queue_uid]

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, connection: str) -> None:
        """End all subscriptions of a connection that has closed, or that has a token of another project from now on.

        No notification is pushed after this call. It asks no store; :meth:`remove_ended` removes the subscriptions.
        """
        with self._state.lock:
            ended = self._state.connections.pop(connection, {})
            self._state.ended.update((each.id, each) for each in ended.values())

    def remove_ended(self) -> int:
        """Remove up to 500 ended subscriptions and their deliveries from the stores. Returns how many were chosen.

        It blocks for about a second at most if the stores answer. Subscriptions that it has no time for are moved to
        the end of the list for a later call. Raises StoreUnavailable; then a later call removes all of them.
        """
        with self._state.lock:
            node = self._state.node
            chosen = list(islice(self._state.ended.values(), _BATCH))
        if node is None or not chosen:
            return 0
        left: _OfQueues = {}
        self._delete(chosen, left)
        next(self._release(left), None)
        unreleased = {uid for _, uid in left}
        notes = [NodeSubscription(each.queue_uid, each.id) for each in chosen if each.queue_uid not in unreleased]
        self._management.nodes.forget(node_id=node.id, subscriptions=notes)
        with self._state.lock:
            if self._state.node is node:
                for each in chosen:
                    self._state.ended.pop(each.id, None)
                self._state.ended.update((each.id, each) for each in chosen if each.queue_uid in unreleased)
        return len(chosen)

    def remove_of_node(self, node_id: str) -> Iterator[int]:
        """Remove all subscriptions of a condemned node, step by step, with their deliveries and notes.

        Each step blocks for about a second at most if the stores answer, and yields how many subscriptions it removed.
        The subscriptions are removed first, in few steps, then their deliveries, then the notes. So if a step raises
        StoreUnavailable or the process is killed, the notes are still stored, and the method can be called again.
        """
        while notes := self._management.nodes.list_subscriptions(node_id=node_id, limit=_ROUND):
            batches = [notes[start : start + _BATCH] for start in range(0, len(notes), _BATCH)]
            left: _OfQueues = {}
            for batch in batches:
                yield self._delete(self._find_noted(node_id, batch), left)
            for _ in self._release(left):
                yield 0
            for batch in batches:
                self._management.nodes.forget(node_id=node_id, subscriptions=batch)
                yield 0

    def _find_noted(self, node_id: str, notes: Sequence[NodeSubscription]) -> list[Subscription]:
        found = (
            self._management.subscriptions.get(queue_uid=note.queue_uid, subscription_id=note.subscription_id, now=0.0)
            for note in notes
        )
        return [each for each in found if each is not None and is_of_node(each.subscriber, node_id)]

    def _delete(self, subscriptions: Sequence[Subscription], left: _OfQueues) -> int:
        """Remove subscriptions from the management store. Adds the removed ones to ``left``, and returns how many."""
        gone = self._management.subscriptions.delete_many(subscriptions=subscriptions) if subscriptions else []
        for each in gone:
            left.setdefault((QueueName(each.project, each.kind, each.source), each.queue_uid), []).append(each.id)
        return len(gone)

    def _release(self, left: _OfQueues) -> Iterator[None]:
        """Remove the deliveries of removed subscriptions, and update their queues. Yields every _STEP_SECONDS.

        A queue that is done is removed from ``left``.
        """
        began = time.monotonic()
        while left:
            (queue_name, uid), ids = next(iter(left.items()))
            self._queues.drop_deliveries(queue_name, uid, ids)
            self._queues.note_fewer_subscribers(queue_name, uid)
            del left[queue_name, uid]
            if time.monotonic() - began > _STEP_SECONDS:
                yield
                began = time.monotonic()
