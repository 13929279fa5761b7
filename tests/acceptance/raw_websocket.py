# SPDX-License-Identifier: Apache-2.0
"""WebSocket without a library (RFC 6455), for frames and handshakes that no client library would send."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from types import TracebackType
from typing import NamedTuple

from tests.acceptance import raw_http

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

HANG_SECONDS = 60.0
"""How long anything may take on a busy machine before it counts as a hang."""

_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


class Frame(NamedTuple):
    """A frame as the server sent it."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """The code of a close frame, None if it has none."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


def handshake(*headers: bytes, target: bytes = b"/", **changes: bytes | None) -> bytes:
    """The opening handshake of a client. ``changes`` replaces headers by name, with _ for -; None leaves one out."""
    named = {
        "Host": b"localhost",
        "Upgrade": b"websocket",
        "Connection": b"Upgrade",
        "Sec-WebSocket-Key": _KEY,
        "Sec-WebSocket-Version": b"13",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [b"%s: %s" % (name.encode(), value) for name, value in named.items() if value is not None]
    return raw_http.join([b"GET %s HTTP/1.1" % target, *lines, *headers])


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    announced: int | None = None,
    width: int | None = None,
) -> bytes:
    """A frame of a client.

    ``announced`` is the length in the header instead of that of the payload; ``width`` is of how many bytes the
    length is, 1, 2 or 8, instead of as few as suffice. ``rsv`` are the three reserved bits.
    """
    size = len(payload) if announced is None else announced
    width = width or (1 if size < 126 else 2 if size < 65536 else 8)
    first = fin << 7 | rsv << 4 | opcode
    short = size if width == 1 else 126 if width == 2 else 127
    head = bytes([first, masked << 7 | short]) + (size.to_bytes(width) if width > 1 else b"")
    if not masked:
        return head + payload
    # Most bytes of the mask are not zero, so that a server that does not unmask is noticed.
    mask = os.urandom(4)
    return head + mask + _mask(payload, mask)


def _mask(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


class RawConnection:
    """A TCP connection to the server. ``open`` does the opening handshake."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=HANG_SECONDS)
        self._received = b""

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def open(self, *headers: bytes, **changes: bytes | None) -> RawConnection:
        """Send the handshake of a client, and assert that the server accepts it."""
        self.send(handshake(*headers, **changes))
        head = self.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def send(self, *raw: bytes) -> None:
        """Send bytes; the server may have closed before it has read them all."""
        with contextlib.suppress(ConnectionError):
            for part in raw:
                self.sock.sendall(part)

    def head(self) -> bytes:
        """The status line and the headers of the answer to the handshake."""
        while b"\r\n\r\n" not in self._received:
            assert self._receive(), f"the server closed after {self._received!r}"
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def read(self, size: int | None = None) -> bytes:
        """Read so many bytes, or all that the server sends until it closes."""
        while size is None or len(self._received) < size:
            if not self._receive():
                assert size is None, f"the server closed after {self._received!r}"
                break
        found, self._received = self._received[:size], self._received[size or len(self._received) :]
        return found

    def frames(self, count: int | None = None) -> list[Frame]:
        """The next ``count`` frames; without it, all until the server closes the connection."""
        found: list[Frame] = []
        while count is None or len(found) < count:
            complete = self._take()
            if complete is not None:
                found.append(complete)
            elif not self._receive():
                assert count is None, f"the server closed after {found}"
                break
        return found

    def close_code(self) -> int | None:
        """Wait until the server closes. Returns the code of its close frame, None if it closed without one."""
        last = next((each for each in reversed(self.frames()) if each.opcode == CLOSE), None)
        return None if last is None else last.code

    def has_answer(self, *, seconds: float) -> bool:
        """Whether the server sends something, or closes, within this time."""
        # select() takes no descriptor beyond 1,023.
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def is_closed(self) -> bool:
        """Whether the server has closed by now. Reads all that it sent until then."""
        while self.has_answer(seconds=0):
            if not self._receive():
                return True
        return False

    def _take(self) -> Frame | None:
        data = self._received
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "a server must not mask"
        size, start = data[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start])
        if len(data) < start + size:
            return None
        self._received = data[start + size :]
        return Frame(data[0] & 0x0F, data[start : start + size])

    def _receive(self) -> bool:
        """Wait for more bytes. False after the end; AssertionError if the server is silent for too long."""
        try:
            part = self.sock.recv(65536)
        except ConnectionError:
            part = b""
        except TimeoutError as exc:
            raise AssertionError(f"the server hangs; so far it sent {self._received!r}") from exc
        self._received += part
        return bool(part)
