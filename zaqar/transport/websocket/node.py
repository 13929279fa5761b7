# SPDX-License-Identifier: Apache-2.0
"""This process as a node: its row in the management store, by which notifiers reach its connections.

The row has a lease that this process renews. If the lease expires, notifiers condemn the node and remove the
subscriptions of its connections. A process that was only slow, or was cut off from the store, learns that at its next
renewal. It then closes the connections that had subscriptions, and registers again as another node.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from zaqar.errors import StoreUnavailable
from zaqar.service.connection_subscriptions import ConnectionSubscriptions
from zaqar.service.nodes import Node, Nodes
from zaqar.transport.websocket.listener import Listener
from zaqar.transport.websocket.pushes import Pushes, Target

_log = logging.getLogger(__name__)

THREADS = "node"
"""The beginning of the names of the threads."""

RENEWAL_SECONDS = 5.0

RETRY_SECONDS = 1.0
"""Pause after the management store did not answer."""

STOP_SECONDS = 3.0
"""Time for the removal of the last subscriptions when the process ends. Notifiers remove the rest."""

_LAST_SECONDS = 1.0
"""How long to wait for the management store after that."""

_THREADS = 6
"""Four for questions to stores about the order, one for the lease, and one for ended subscriptions."""

_TIDY_SECONDS = 0.25
_LOOK_SECONDS = 5.0

T = TypeVar("T")


class NodeService:
    """Keeps the lease of this process, and carries notifications to its connections. For one event loop."""

    def __init__(
        self,
        nodes: Nodes,
        subscriptions: ConnectionSubscriptions,
        *,
        find: Callable[[str], Target | None],
        close: Callable[[str], None],
    ) -> None:
        """``find`` returns an open connection by its id; any thread may call it. ``close`` closes it with code 1012."""
        self._nodes = nodes
        self._subscriptions = subscriptions
        self._find = find
        self._close = close
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=THREADS)
        self._pushes = Pushes(subscriptions, find=find, call=self._call)
        self._listener = Listener(self._pushes.receive)
        self._node: Node | None = None
        self._address = ("", "", 0)
        """Path of the Unix socket, host and port."""
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._begun = asyncio.Event()

    async def wait_until_begun(self, seconds: float) -> None:
        """Return when this process is a node, or after so many seconds if the management store does not answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()

    async def start(self, *, folder: Path, host: str | None, port: int) -> None:
        """Listen for notifiers, and be a node as soon as the management store answers. Raises StartupError.

        ``host`` None stands for the name of this host.
        """
        path = await self._listener.start(folder=folder, host=host, port=port)
        self._address = (str(path or ""), self._listener.host, self._listener.port)
        self._tasks = [asyncio.create_task(self._keep_node()), asyncio.create_task(self._keep_tidy())]

    def use(self, subscriptions: ConnectionSubscriptions) -> None:
        """Use these subscriptions from now on. They include the former ones."""
        self._subscriptions = subscriptions
        self._pushes.use(subscriptions)

    def end(self, connection: str) -> None:
        """End the subscriptions of a connection that has closed or changed its project. Does not wait for a store."""
        self._subscriptions.end(connection)
        self._pushes.close(connection)
        self._ended.set()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Remove the subscriptions of the closed connections, and end the lease so that notifiers remove the rest."""
        for task in self._tasks:
            task.cancel()
        self._pushes.stop()
        self._listener.stop()
        if self._node is not None:
            await self._give_up(self._node, seconds)
        self._subscriptions.serve_as(None)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _give_up(self, node: Node, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while await self._call(self._subscriptions.remove_ended):
                    pass
        except (StoreUnavailable, TimeoutError):
            _log.info("Notifiers remove the subscriptions of closed connections that are left.")
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._call(partial(self._nodes.end, node))
        except (StoreUnavailable, TimeoutError):
            _log.warning("The subscriptions of closed connections end when the lease of this process is over.")

    # -- the lease ---------------------------------------------------------------------------------------------------

    async def _keep_node(self) -> None:
        while True:
            pause = RENEWAL_SECONDS
            try:
                if self._node is None:
                    await self._begin()
                elif not await self._call(partial(self._nodes.renew, self._node)):
                    self._begin_anew(self._node)
                    pause = 0.0
            except StoreUnavailable:
                # The driver of the store has logged the outage.
                pause = RETRY_SECONDS
            except Exception:  # noqa: BLE001, it is logged
                _log.exception("The lease of this process cannot be renewed.")
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _begin(self) -> None:
        path, host, port = self._address
        node = await self._call(partial(self._nodes.begin, path=path, host=host, port=port))
        self._node = node
        self._listener.serve_as(node.id, node.key)
        self._subscriptions.serve_as(node.id, lambda connection: self._find(connection) is not None)
        self._begun.set()
        ways = [f"{path} on this host"] if path else []
        ways += [f"{host}:{port}"] if port else []
        _log.info("This process is node %s; zaqar-notifier reaches it at %s.", node.id, " and at ".join(ways))

    def _begin_anew(self, node: Node) -> None:
        _log.warning("Node %s was given up, as it was too slow to renew its lease; this process begins anew.", node.id)
        self._node = None
        # Push nothing more before the connections close, so that no client sees a gap in its notifications.
        self._listener.serve_as("", secrets.token_bytes(32))
        subscribed = self._subscriptions.subscribed()
        self._subscriptions.serve_as(None)
        for connection in subscribed:
            self._pushes.close(connection)
            self._close(connection)

    async def _keep_tidy(self) -> None:
        """Remove ended subscriptions, many at a time."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                # A request may have left something to be removed.
                pass
            # Many connections may close at the same time.
            await asyncio.sleep(_TIDY_SECONDS)
            self._ended.clear()
            try:
                while await self._call(self._subscriptions.remove_ended):
                    pass
            except StoreUnavailable:
                self._ended.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # noqa: BLE001, it is logged
                _log.exception("Ended subscriptions of connections cannot be removed now.")
                self._ended.set()
                await asyncio.sleep(RETRY_SECONDS)

    def _call(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call)
