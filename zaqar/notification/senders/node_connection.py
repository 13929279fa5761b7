# SPDX-License-Identifier: Apache-2.0
"""One stream from this notifier to a node. Any number of notifications may be under way on it. ``connection`` uses it.

The stream is opened for the first notification. If it is lost, it is opened again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from zaqar.ipc import push_protocol, socket_files
from zaqar.ipc.keep_alive import keep_alive
from zaqar.ipc.push_protocol import HANDSHAKE_SECONDS, MOST_TEXT_BYTES, NotifierPeer, ProtocolError, Push, Status
from zaqar.storage.base.nodes import Node

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0

FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 5.0
"""Pause before a stream that could not be opened is tried again: at first, doubled each time, and at most."""

_MAX_ANSWER_BYTES = 1024 * 1024

_MAX_UNSENT_BYTES = 32 * 1024 * 1024
"""Bytes of notifications that a node may leave unread. If there are more, further ones fail until it has read some."""


class Unreachable(Exception):
    """The node cannot be reached now, or the stream to it was lost before it answered. The text says why."""


class TooLarge(Exception):
    """The notification is larger than a node takes."""


class NodeConnection:
    """The stream to one node, opened when it is needed. For one event loop."""

    def __init__(self, node: Node, *, machine: str) -> None:
        """``machine`` is the name of this host. On the host of the node its Unix socket is tried first."""
        self.node = node
        self._is_local = bool(node.socket) and node.machine == machine
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[_Stream] | None = None
        self._pause = 0.0
        self._try_after = float("-inf")
        self._reason = ""
        self._told = ""
        """Why the node cannot be reached, as the log has it; empty if it can."""

    @property
    def is_idle(self) -> bool:
        """Whether no notification waits for an answer."""
        return self._opening is None and (self._stream is None or not self._stream.waiting)

    async def send(self, make: Callable[[int], Push]) -> Status:
        """Have a notification pushed and return its status. Raises Unreachable and TooLarge.

        ``make`` makes the notification from the number of the call. If the caller is cancelled, the notification may be
        pushed all the same.
        """
        stream = self._stream
        if stream is None or stream.is_lost:
            stream = await self._open()
        return await stream.send(make)

    async def _open(self) -> _Stream:
        if self._opening is None:
            if asyncio.get_running_loop().time() < self._try_after:
                raise Unreachable(self._reason)
            self._opening = asyncio.create_task(self._try_to_open())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            # A caller that is cancelled must not cancel it for the others.
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                # ``close`` cancelled the opening. This caller was not cancelled.
                raise Unreachable("the process that holds the connection has ended") from None
            raise

    def _opened(self, opening: asyncio.Task[_Stream]) -> None:
        self._opening = None
        if opening.cancelled():
            return
        if (error := opening.exception()) is None:
            self._stream = opening.result()
            self._pause = 0.0
            if self._told:
                self._told = ""
                _log.warning("Node %s can be reached again.", self.node.id)
        else:
            self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), MOST_PAUSE_SECONDS)
            self._try_after = asyncio.get_running_loop().time() + self._pause
            self._reason = str(error)

    async def _try_to_open(self) -> _Stream:
        reasons = []
        ways = ([True] if self._is_local else []) + ([False] if self.node.port else [])
        for is_local in ways:
            where = "its socket" if is_local else f"port {self.node.port}"
            try:
                return await self._try_one(is_local)
            except TimeoutError:
                reasons.append(f"no answer at {where}")
            except ProtocolError as exc:
                reasons.append(f"{where}: {exc}")
            except OSError as exc:
                reasons.append(f"{where}: {exc.strerror or exc}")
        # Addresses and paths go to the log of the operator only: tenants see the log of deliveries.
        self._tell("; ".join(reasons))
        raise Unreachable("the process that holds the connection cannot be reached")

    def _tell(self, reason: str) -> None:
        """Log why the node cannot be reached, once: it is tried every few seconds while its lease goes on."""
        node = self.node
        _log.log(
            logging.DEBUG if reason == self._told else logging.WARNING,
            "Node %s at %s:%d cannot be reached: %s. Notifications to its connections are tried again.",
            node.id,
            node.host,
            node.port,
            reason,
        )
        self._told = reason

    async def _try_one(self, is_local: bool) -> _Stream:
        node, loop = self.node, asyncio.get_running_loop()
        stream = _Stream(NotifierPeer(node.key, node.id, most=_MAX_ANSWER_BYTES))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if is_local:
                    connected = await _connect_socket(Path(node.socket))
                    await loop.create_unix_connection(lambda: stream, sock=connected)
                else:
                    await loop.create_connection(lambda: stream, node.host, node.port)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await stream.opened
        except BaseException:
            stream.abort()
            raise
        return stream

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._stream is not None:
            self._stream.abort()


async def _connect_socket(path: Path) -> socket.socket:
    made = socket_files.make(socket.SOCK_STREAM)
    try:
        with socket_files.short_path(path.parent) as short:
            await asyncio.get_running_loop().sock_connect(made, os.path.join(short, path.name))  # noqa: PTH118
    except BaseException:
        made.close()
        raise
    return made


class _Stream(asyncio.Protocol):
    """An open stream. ``opened`` is done when the node has proved itself, and then notifications may be sent."""

    def __init__(self, peer: NotifierPeer) -> None:
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.waiting: dict[int, asyncio.Future[Status]] = {}
        self._outgoing: list[Push] = []
        self._unsent = 0
        """Bytes of these."""
        self._calls = 0
        self.is_lost = False

    async def send(self, make: Callable[[int], Push]) -> Status:
        if self.is_lost:
            raise Unreachable("the stream to the process that holds the connection was lost")
        if self._unsent + self._unread() > _MAX_UNSENT_BYTES:
            raise Unreachable("the process that holds the connection takes nothing at the moment")
        self._calls += 1
        number = self._calls
        push = make(number)
        if len(push.text) > MOST_TEXT_BYTES:
            raise TooLarge
        if not self._outgoing:
            # Notifications of one turn of the event loop share a frame.
            self._loop.call_soon(self._flush)
        self._outgoing.append(push)
        self._unsent += len(push.text)
        answer: asyncio.Future[Status] = self._loop.create_future()
        self.waiting[number] = answer
        try:
            return await answer
        finally:
            self.waiting.pop(number, None)

    def _unread(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        outgoing, self._outgoing, self._unsent = self._outgoing, [], 0
        if self._transport is None or self.is_lost:
            return
        for batch in push_protocol.batches(outgoing):
            self._transport.write(self._peer.seal(push_protocol.encode(batch)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_alive(self._transport)
        self._transport.write(self._peer.hello())

    def data_received(self, data: bytes) -> None:
        try:
            payloads, reply = self._peer.feed(data)
            if reply and self._transport is not None:
                self._transport.write(reply)
            if self._peer.is_open and not self.opened.done():
                self.opened.set_result(None)
            for payload in payloads:
                for answered in push_protocol.decode_answers(payload):
                    waiting = self.waiting.get(answered.call)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answered.status)
        except ProtocolError as exc:
            self._lose(exc)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc or ConnectionResetError("the stream was closed"))

    def _lose(self, error: Exception) -> None:
        self.is_lost = True
        if not self.opened.done():
            self.opened.set_exception(error)
            # Mark the exception as retrieved: the caller may have given up.
            self.opened.exception()
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_exception(Unreachable("the stream to the process that holds the connection was lost"))

    def abort(self) -> None:
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()
