# SPDX-License-Identifier: Apache-2.0
"""A minimal HTTP/1.1 client: requests are bytes that were encoded before, and are sent over one plain connection.

It uses no library, because the load generator shares the machine with the server that is measured.
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT = 60.0
"""Seconds that an answer may take. A server that needs longer counts as hanging, not as slow."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked")
_CLOSE = re.compile(rb"^http/1\.0 |\r\nconnection:[^\r]*close")
_BLOCK = 65536


class Answer(NamedTuple):
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The host and port of a server."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse ``http://host[:port]``. Raises ValueError for anything else, such as a path, which hrefs would lack."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"not a URL of the form http://host:port: {url!r}")
        return cls(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Connection:
    """One keep-alive connection. It is opened when needed, and again after the server has closed it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> Answer:
        """Send a request and read its answer. Raises OSError if that fails; the next call then connects again."""
        try:
            connected = self._socket or self._connect()
            connected.sendall(request)
            return self._read(connected)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._endpoint.host, self._endpoint.port), TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._endpoint.scheme == "https":
            plain = ssl.create_default_context().wrap_socket(plain, server_hostname=self._endpoint.host)
        self._socket = plain
        return plain

    def _read(self, connected: socket.socket) -> Answer:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += _receive(connected)
        head, rest = data[: end + 2].lower(), data[end + 4 :]
        status = int(head[9:12])
        if status in (204, 304):
            body = b""
        elif match := _LENGTH.search(head):
            body = _read_exactly(connected, rest, int(match[1]))
        elif _CHUNKED.search(head):
            body = _read_chunked(connected, rest)
        else:
            body = _read_to_end(connected, rest)
            self.close()
        if _CLOSE.search(head):
            self.close()
        return Answer(status, body)


def _receive(connected: socket.socket) -> bytes:
    block = connected.recv(_BLOCK)
    if not block:
        raise ConnectionResetError("the server closed the connection before its answer was complete")
    return block


def _read_exactly(connected: socket.socket, data: bytes, size: int) -> bytes:
    if len(data) >= size:
        return data
    blocks, missing = [data], size - len(data)
    while missing > 0:
        blocks.append(_receive(connected))
        missing -= len(blocks[-1])
    return b"".join(blocks)


def _read_chunked(connected: socket.socket, data: bytes) -> bytes:
    body = b""
    while True:
        while (end := data.find(b"\r\n")) < 0:
            data += _receive(connected)
        size = int(data[:end].partition(b";")[0], 16)
        data = _read_exactly(connected, data[end + 2 :], size + 2)
        if size == 0:
            return body
        body, data = body + data[:size], data[size + 2 :]


def _read_to_end(connected: socket.socket, data: bytes) -> bytes:
    while block := connected.recv(_BLOCK):
        data += block
    return data
