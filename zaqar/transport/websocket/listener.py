# SPDX-License-Identifier: Apache-2.0
"""The Unix socket and the TCP port at which notifiers deliver notifications for the connections of this process.

The protocol is in :mod:`zaqar.ipc.push_protocol`. A peer that does not prove in time that it has the key of this node
is dropped. Until then it costs a few hundred bytes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

from zaqar.errors import StartupError
from zaqar.ipc import push_protocol, socket_files
from zaqar.ipc.keep_alive import keep_alive
from zaqar.ipc.push_protocol import HANDSHAKE_SECONDS, Answered, NodePeer, ProtocolError, Push, Status

_log = logging.getLogger(__name__)

MAX_UNPROVEN_LINKS = 64
"""Links of peers that have not proved that they have the key. If there are more, the oldest link of the address with
the most such links is dropped. So an address that opens many links keeps no other address out.
"""

MAX_LINKS = 1024
"""Links of notifiers. Each running notifier has one."""

_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""Bytes of answers that a notifier may leave unread. If there are more, its link is dropped."""

Receive = Callable[[Push, Callable[[Status], None]], None]
"""Takes a notification, and a function that has to be called once with its status."""


class Listener:
    """For the event loop only. When :meth:`serve_as` changes node and key, all links are dropped."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        # A key that no other process has, so that every handshake fails until this process is a node.
        self._node_id, self._key = "", secrets.token_bytes(32)
        self._unproven: dict[_Link, str] = {}
        """Links without proof, each with the address of its peer, the oldest first."""
        self._links: set[_Link] = set()
        self._servers: list[asyncio.Server] = []
        self._socket: Path | None = None
        self.host = ""
        self.port = 0
        """The TCP port, 0 if there is none."""

    def serve_as(self, node_id: str, key: bytes) -> None:
        """Accept links for this node and key from now on. Drops all links to the former node."""
        self._node_id, self._key = node_id, key
        self.drop_links()

    async def start(self, *, folder: Path, host: str | None, port: int) -> Path | None:
        """Listen on a Unix socket in the folder, and on a TCP port, 0 for a free one; return the path of the socket.

        Returns None, with a warning, if the Unix socket cannot be made: then TCP is used on this host as well. A
        ``host`` of None stands for the name of this host. If that name is no address of the host and ``port`` is 0,
        the process does not listen on TCP, with a warning. Raises StartupError if a configured address or port cannot
        be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            bound, self._socket = socket_files.bind(folder, socket.SOCK_STREAM)
        except (OSError, StartupError) as exc:
            _log.warning("No socket in %s, so notifiers of this host come by TCP too: %s", folder, exc)
        else:
            self._servers.append(await loop.create_unix_server(self._make_link, sock=bound))
        try:
            self.host = host or socket.gethostname()
            server = await loop.create_server(self._make_link, self.host, port, reuse_address=True)
        except OSError as exc:
            if host is None and not port and self._socket is not None:
                _log.warning(
                    "Notifiers on other hosts cannot reach this process, as the name of this host, %s, is no address "
                    "of it (%s). [drivers:transport:websocket] notification_bind names another one.",
                    self.host,
                    _reason_of(exc),
                )
                return self._socket
            raise StartupError(
                "[drivers:transport:websocket] notification_bind, notification_port: cannot listen on "
                f"{self.host}:{port}: {_reason_of(exc)}."
            ) from exc
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        return self._socket

    def stop(self) -> None:
        """Close the sockets, and drop all links."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.drop_links()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def drop_links(self) -> None:
        for link in [*self._unproven, *self._links]:
            link.abort()

    def _make_link(self) -> asyncio.Protocol:
        return _Link(self, NodePeer(self._key, self._node_id, most=push_protocol.MAX_FRAME_BYTES), self._receive)

    # -- called by links ---------------------------------------------------------------------------------------------

    def add(self, link: _Link, address: str) -> None:
        """A link was opened from this address, "" for the Unix socket."""
        self._unproven[link] = address
        if len(self._unproven) > MAX_UNPROVEN_LINKS:
            ((most, _),) = Counter(self._unproven.values()).most_common(1)
            next(each for each, address in self._unproven.items() if address == most).abort()

    def admit(self, link: _Link) -> bool:
        """Count a link whose peer has the key; return False if there are too many."""
        self._unproven.pop(link, None)
        if len(self._links) >= MAX_LINKS:
            _log.warning("There are %d links of notifiers; one more is refused.", len(self._links))
            return False
        self._links.add(link)
        return True

    def remove(self, link: _Link) -> None:
        self._unproven.pop(link, None)
        self._links.discard(link)


def _reason_of(error: OSError) -> str:
    """The system's text of an error of listening. asyncio's own text would repeat the address."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    # asyncio of Python 3.13 raises an error without a number if no address of the host can be bound.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL)


class _Link(asyncio.Protocol):
    """The connection of a notifier, or of a peer that has not proved to be a notifier."""

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, listener: Listener, peer: NodePeer, receive: Receive) -> None:
        self._listener = listener
        self._peer = peer
        self._receive = receive
        self._answers: list[Answered] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self.abort)
        host_and_port = transport.get_extra_info("peername")
        self._listener.add(self, host_and_port[0] if isinstance(host_and_port, tuple) else "")

    def data_received(self, data: bytes) -> None:
        was_open = self._peer.is_open
        try:
            payloads, reply = self._peer.feed(data)
            if reply:
                self._transport.write(reply)
            if self._peer.is_open and not was_open:
                self._timer.cancel()
                keep_alive(self._transport)
                if not self._listener.admit(self):
                    self.abort()
                    return
            for payload in payloads:
                for push in push_protocol.decode_pushes(payload):
                    self._take(push)
        except ProtocolError as exc:
            # Port scanners connect to any open port, so bytes that break the protocol are no reason for a warning.
            _log.log(logging.WARNING if was_open else logging.DEBUG, "A link of a notifier is dropped: %s.", exc)
            self.abort()

    def _take(self, push: Push) -> None:
        self._receive(push, lambda status: self._answer(Answered(push.call, status)))

    def _answer(self, answered: Answered) -> None:
        # Answers of one turn of the event loop share a frame.
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(answered)

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if self._transport.is_closing():
            return
        self._transport.write(self._peer.seal(push_protocol.encode(answers)))
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            _log.warning("A link of a notifier that reads no answers is dropped.")
            self.abort()

    def abort(self) -> None:
        self._listener.remove(self)
        self._timer.cancel()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.remove(self)
        self._timer.cancel()
