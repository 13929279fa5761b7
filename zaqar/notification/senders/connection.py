# SPDX-License-Identifier: Apache-2.0
"""The sender for WebSocket connections: it passes a notification to the process that holds the connection.

That process, a *node*, may be on any host. The target of an attempt is the connection. If the connection is closed the
outcome is ``gone``, which ends the subscription.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Self

from oslo_config import cfg

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.ipc.push_protocol import Push, Status
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload
from zaqar.notification.executors import StoreExecutor
from zaqar.notification.senders.base import Outcome, Sender
from zaqar.notification.senders.node_connection import NodeConnection, TooLarge, Unreachable
from zaqar.schemas.subscribers import connection_of
from zaqar.storage.base.nodes import Node, NodeStore

_log = logging.getLogger(__name__)

SEND_SECONDS = 10.0
"""How long a notification may take, from the opening of a stream to the answer."""

KNOWN_SECONDS = 1.0
"""How long the row of a node is cached."""

MAX_STREAMS = 1024
"""Streams to nodes that are kept. If there are more, the idle ones that were used longest ago are closed."""

_PAUSE_SECONDS = 1.0
_TRIES = 300
"""Seconds between two attempts, and how many there are, if a node lives and cannot be reached."""

_THREADS = 2

_OUTCOMES = {
    Status.PUSHED: Outcome(True, None, ""),
    Status.GONE: Outcome(False, None, "the connection is closed", gone=True),
    # Counts as if the node had not answered, so that connections that keep many waiting take few of the slots.
    Status.WAIT: Outcome(False, None, "waits for its turn", waits=True, reached=False),
}


class ConnectionSender(Sender):
    """Sends to connections, in one event loop. ``zaqar.app`` makes it: an entry point could not pass it a store."""

    delays = (_PAUSE_SECONDS,) * _TRIES

    def __init__(self, nodes: NodeStore, *, machine: str = "") -> None:
        """``machine`` is the name of this host; "" to ask the system."""
        self._nodes = nodes
        self._machine = machine or socket.gethostname()
        self._calls = StoreExecutor("nodes", _THREADS)
        self._known: dict[str, tuple[float, asyncio.Task[Node | None]]] = {}
        self._streams: OrderedDict[str, NodeConnection] = OrderedDict()
        self._texts: tuple[tuple[str, int, bytes], bytes] = (("", 0, b""), b"")
        """The last message and its notification. Deliveries of one message to many subscribers follow each other."""

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        raise StartupError("The sender of WebSocket connections is not one that an entry point may name.")

    def target(self, subscription: Subscription) -> str:
        return subscription.subscriber

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        if delivery.kind != NOTIFICATION:
            return Outcome(True, None, "a connection confirms nothing")
        node_id, connection = connection_of(subscription.subscriber)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                node = await self._find(node_id)
                if node is None:
                    self._drop_stream(node_id)
                    return Outcome(False, None, "the process that held the connection has ended", gone=True)
                status = await self._stream_to(node).send(partial(self._make_push, delivery, subscription, connection))
        except StoreUnavailable:
            return Outcome(False, None, "the node cannot be looked up", waits=True, reached=None)
        except TimeoutError:
            return Outcome(False, None, "no answer in time", reached=False, failure="timeout")
        except TooLarge:
            return Outcome(False, None, "the message is too large to be pushed", reached=None, final=True)
        except Unreachable as exc:
            return Outcome(False, None, str(exc), reached=False)
        return _OUTCOMES[status]

    def _make_push(self, delivery: Delivery, subscription: Subscription, connection: str, call: int) -> Push:
        key = delivery.id, delivery.ttl, delivery.body
        if self._texts[0] != key:
            self._texts = key, payload.notification(delivery, subscription)
        return Push(
            call,
            connection,
            delivery.queue_uid,
            delivery.subscription_id,
            delivery.number,
            len(delivery.attempts),
            self._texts[1],
        )

    # -- nodes -------------------------------------------------------------------------------------------------------

    async def _find(self, node_id: str) -> Node | None:
        """The node as it was at most KNOWN_SECONDS ago. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        at, reading = self._known.get(node_id, (float("-inf"), None))
        if reading is None or now > at + KNOWN_SECONDS:
            self._known = {each: known for each, known in self._known.items() if now <= known[0] + KNOWN_SECONDS}
            reading = asyncio.create_task(self._read(node_id))
            self._known[node_id] = now, reading
        # A caller that is cancelled must not cancel the reading for the others.
        return await asyncio.shield(reading)

    async def _read(self, node_id: str) -> Node | None:
        find: Callable[[], Node | None] = partial(self._nodes.get, node_id=node_id)
        return await self._calls.run(find)

    def _stream_to(self, node: Node) -> NodeConnection:
        stream = self._streams.get(node.id)
        if stream is None:
            stream = self._streams[node.id] = NodeConnection(node, machine=self._machine)
            for each in [each for each in self._streams.values() if each.is_idle][: len(self._streams) - MAX_STREAMS]:
                self._drop_stream(each.node.id)
        self._streams.move_to_end(node.id)
        return stream

    def _drop_stream(self, node_id: str) -> None:
        stream = self._streams.pop(node_id, None)
        if stream is not None:
            stream.close()

    async def close(self) -> None:
        for node_id in list(self._streams):
            self._drop_stream(node_id)
        self._calls.close()
