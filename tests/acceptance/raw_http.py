# SPDX-License-Identifier: Apache-2.0
"""HTTP over a plain socket, for requests that no client library would send."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.acceptance.server import Server

HANG_SECONDS = 60.0
SILENCE_SECONDS = 0.3
_CLIENT = str(uuid.uuid4()).encode()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Conversation:
    """The replies on one connection, and whether the server closed it."""

    replies: list[Reply]
    closed: bool

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]


def request(
    method: str,
    target: str | bytes,
    *headers: bytes,
    project: str = "hostile",
    body: bytes | None = None,
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """A request with the headers that every request needs, the given ones, and a Content-Length if there is a body."""
    target = target.encode() if isinstance(target, str) else target
    lines = [
        b"%s %s %s" % (method.encode(), target, version),
        b"Host: localhost",
        b"Client-ID: " + _CLIENT,
        b"X-Project-ID: " + project.encode(),
        *headers,
    ]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=HANG_SECONDS)


def talk(server: Server, *raw: bytes, half_close: bool = False, replies: int | None = 1) -> Conversation:
    """Send everything, then :func:`listen`."""
    with connect(server) as sock:
        # A server may refuse, and close, before it has read everything.
        with contextlib.suppress(ConnectionError):
            for part in raw:
                sock.sendall(part)
        if half_close:
            _stop_sending(sock)
        return listen(sock, replies=replies)


def _stop_sending(sock: socket.socket) -> None:
    # The server may have closed already.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def listen(sock: socket.socket, *, replies: int | None = 1) -> Conversation:
    """Read until the server closes, or is silent after so many complete replies. A hang is an AssertionError.

    Without ``replies`` it has to close.
    """
    received = b""
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        complete, rest = parse(received)
        final = [reply for reply in complete if reply.status >= 200]
        is_enough = replies is not None and len(final) >= replies
        idle = SILENCE_SECONDS if is_enough and not rest else deadline - time.monotonic()
        if idle <= 0 or not select.select([sock], [], [], idle)[0]:
            assert is_enough, f"the server hangs; so far it sent {received!r}"
            return Conversation(final, closed=False)
        try:
            part = sock.recv(65536)
        except ConnectionError:
            part = b""
        if not part:
            return Conversation(final, closed=True)
        received += part


def parse(data: bytes) -> tuple[list[Reply], bytes]:
    """The complete replies in the data, and the bytes that follow them."""
    replies = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            break
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split(" ", 2)[1])
        length = int(headers.get("content-length", 0)) if status not in (100, 204) else 0
        if len(rest) < length:
            break
        replies.append(Reply(status, headers, rest[:length]))
        data = rest[length:]
    return replies, data


def ask(server: Server, method: str, target: str, *, project: str, document: Any = None) -> Reply:
    """Send one valid request."""
    body = None if document is None else json.dumps(document).encode()
    (reply,) = talk(server, request(method, target, b"Connection: close", project=project, body=body)).replies
    return reply


def bodies(server: Server, project: str, queue: str = "q") -> list[Any]:
    """The bodies of the first page of a queue."""
    reply = ask(server, "GET", f"/v2/queues/{queue}/messages?echo=true&limit=20", project=project)
    return [message["body"] for message in reply.json["messages"]]


def join(lines: Iterable[bytes]) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"
