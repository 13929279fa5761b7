# SPDX-License-Identifier: Apache-2.0
"""Answers of receivers that may send anything: the first final status line decides.

HTTP clients for general use parse the whole head and the body before they return a status. A webhook needs the
opposite: once ``HTTP/1.1 204`` was read, the receiver has answered, whatever follows. So this module reads answers
itself. After the status it needs only ``Retry-After``, a few bytes to show to people, and whether the answer has ended,
so that the connection can be used again. It reads these within limits of time and size, and closes a connection if its
state is in doubt. ``http_client`` calls :func:`exchange` and :func:`rest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ANSWER_SECONDS = 1.0
"""Longest wait for the rest of an answer after its status."""

MOST_OF_A_HEAD = 65_536
"""Bytes of an answer up to the end of its headers, interim answers (1xx) included."""

MOST_INTERIM_ANSWERS = 16

MOST_READ = 65_536
"""Bytes of a body, framing included, that are read so that the connection can be used again."""

MOST_CHUNKS = 256
"""Most chunks of a body that are read: each costs time in the event loop, however small it is."""

MOST_SHOWN = 256
"""Bytes of a body that are kept. No more are read if the connection is going to be closed anyway."""

_MOST_OF_A_LINE = 4096
_STATUS = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?=[ \t\r\n]|\Z)")
_LENGTH_OF_A_STATUS = len(b"HTTP/1.1 200 ")
_END_OF_A_HEAD = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(
    rb"^(retry-after|content-length|transfer-encoding|connection):[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
_DOUBTFUL_FIELD = re.compile(rb"^(?:[ \t]|[^:\r\n]*[ \t]:)", re.MULTILINE)
"""A continued line, or a blank before the colon: two readers may see two different headers."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_SWITCHING_PROTOCOLS = 101
_WITHOUT_BODY = frozenset({204, 304})


class NoAnswer(Exception):
    """No final status was received. The text is one line that the owner of the subscription sees, without the URL."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``start`` is the beginning of the body; ``retry_after`` the value of that header, or empty."""

    status: int
    start: bytes
    retry_after: str


class _Ended(Exception):
    """The other side sends no more."""


class _TooLong(Exception):
    """There are more bytes than this module reads."""


@dataclass(frozen=True, slots=True)
class Status:
    code: int
    minor: int
    """Of the version: the last 1 of ``HTTP/1.1``."""


class Connection(asyncio.Protocol):
    """The bytes of one connection. One coroutine takes them out of :attr:`received`; if that is full, reading pauses.

    Received bytes stay readable after the connection was lost: a receiver may answer and reset the connection.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.taken = 0
        """Bytes that were taken out since the request was sent."""
        self._transport: asyncio.Transport
        self._ended = False
        self._more: asyncio.Future[None] | None = None
        self._disturbed: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= MOST_READ:
            self._transport.pause_reading()
        self._changed()

    def eof_received(self) -> None:
        self._ended = True
        self._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._changed()

    def _changed(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
        if self._disturbed is not None:
            self._disturbed()

    # -- during a request --------------------------------------------------------------------------------------------

    def send(self, request: bytes) -> None:
        """Begin to send a request, and return at once: an answer may come before all of it was sent."""
        self.taken = 0
        if not self._ended:
            self._transport.write(request)

    async def more(self) -> None:
        """Return when there are further bytes. Raises _Ended if there will be none."""
        if self._ended:
            raise _Ended
        self._transport.resume_reading()
        self._more = asyncio.get_running_loop().create_future()
        try:
            await self._more
        finally:
            self._more = None

    @property
    def ended(self) -> bool:
        return self._ended

    def take(self, size: int) -> bytes:
        """Take out up to this many bytes of those that are there."""
        taken = bytes(self.received[:size])
        del self.received[:size]
        self.taken += len(taken)
        return taken

    @property
    def reusable(self) -> bool:
        """Whether it is open, all of the request was sent, and no bytes are there that belong to no answer."""
        return not self._ended and not self.received and self._transport.get_write_buffer_size() == 0

    # -- between requests --------------------------------------------------------------------------------------------

    def watch(self, disturbed: Callable[[], None], *, seconds: float) -> None:
        """Call ``disturbed`` after this time, or before that if anything comes in or the connection ends.

        Bytes that belong to no answer would be taken for the answer to the next request.
        """
        self._disturbed = disturbed
        self._timer = asyncio.get_running_loop().call_later(seconds, disturbed)

    def unwatch(self) -> None:
        self._disturbed = None
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """Close it at once, whatever is under way."""
        self._transport.abort()

    def close(self) -> None:
        """Close it in order."""
        self._transport.close()


async def exchange(connection: Connection, request: bytes) -> Status | None:
    """Send a request and return the final status; None if the connection ended before any byte came back.

    If this fails or is cancelled the connection is closed.
    """
    try:
        connection.send(request)
        for _ in range(MOST_INTERIM_ANSWERS + 1):
            status = await _status(connection)
            if status is None or status.code >= 200 or status.code == _SWITCHING_PROTOCOLS:
                return status
            await _head(connection)
    except (_Ended, _TooLong):
        connection.abort()
    except BaseException:
        connection.abort()
        raise
    connection.abort()
    raise NoAnswer("the answer has no final status")


async def _status(connection: Connection) -> Status | None:
    """Read the status without taking it out. None if the connection ended before any byte."""
    while True:
        blank = len(connection.received) - len(connection.received.lstrip(b"\r\n"))
        connection.take(blank)
        if connection.ended or len(connection.received) >= _LENGTH_OF_A_STATUS:
            break
        if connection.taken > MOST_OF_A_HEAD:
            raise _TooLong
        await connection.more()
    if not connection.received:
        if not connection.taken:
            return None
        raise NoAnswer("the connection was closed without an answer")
    match = _STATUS.match(connection.received)
    if match is None:
        raise NoAnswer("the answer is not valid HTTP")
    return Status(int(match[2]), int(match[1]))


async def _head(connection: Connection) -> bytes:
    """Take out a status line and its headers. _TooLong if these and all before are more than MOST_OF_A_HEAD."""
    looked = 0
    while True:
        match = _END_OF_A_HEAD.search(connection.received, looked)
        size = match.end() if match else len(connection.received)
        if connection.taken + size > MOST_OF_A_HEAD:
            raise _TooLong
        if match:
            return connection.take(size)
        looked = max(0, size - 3)
        await connection.more()


async def rest(connection: Connection, status: Status) -> tuple[Answer, bool]:
    """Read the rest of the answer with this status, as far as it comes; return whether the connection is reusable.

    Nothing in here changes the outcome of the request.
    """
    retry_after, start, ended = "", bytearray(), False
    with contextlib.suppress(TimeoutError, _Ended, _TooLong):
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await _head(connection)
            fields: dict[bytes, list[bytes]] = {}
            for name, value in _FIELD.findall(head):
                fields.setdefault(name.lower(), []).append(value.strip())
            retry_after = fields.get(b"retry-after", [b""])[0].decode("latin-1")
            ended = await _read_body(connection, status, fields, start)
            ended = ended and status.minor >= 1 and _DOUBTFUL_FIELD.search(head) is None
            ended = ended and not any(b"close" in value.lower() for value in fields.get(b"connection", ()))
    return Answer(status.code, bytes(start), retry_after), ended and connection.reusable


async def _read_body(
    connection: Connection, status: Status, fields: Mapping[bytes, list[bytes]], start: bytearray
) -> bool:
    """Read a body, its beginning into ``start``. Return whether it ended as its headers say (RFC 9112, section 6.3)."""
    coding, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if status.code == _SWITCHING_PROTOCOLS:
        return False
    if status.code in _WITHOUT_BODY:
        # If there is a body all the same, it would be taken for the beginning of the next answer.
        return coding is None and lengths in (None, [b"0"])
    if coding is not None and len(coding) == 1 and coding[0].lower() == b"chunked":
        return await _read_chunks(connection, start) and lengths is None
    if coding is None and lengths is not None and len(set(lengths)) == 1 and _LENGTH.fullmatch(lengths[0]):
        size = int(lengths[0])
        if size <= MOST_READ:
            await _read(connection, size, start)
            return True
    # It ends with the connection, is too long, or is not valid. Read only what is shown.
    await _read(connection, MOST_SHOWN, start)
    return False


async def _read_chunks(connection: Connection, start: bytearray) -> bool:
    began = connection.taken
    for _ in range(MOST_CHUNKS):
        match = _CHUNK.fullmatch(await _line(connection))
        if match is None:
            return False
        size = int(match[1], 16)
        if size == 0:
            # No request asks for trailers, so none are expected.
            return not (await _line(connection)).strip(b"\r\n")
        if connection.taken - began + size > MOST_READ:
            await _read(connection, min(size, MOST_SHOWN), start)
            return False
        await _read(connection, size, start)
        if (await _line(connection)).strip(b"\r\n"):
            return False
    return False


async def _read(connection: Connection, size: int, start: bytearray) -> None:
    """Take out this many bytes; the first MOST_SHOWN of a body are kept in ``start``."""
    while True:
        taken = connection.take(size)
        start += taken[: MOST_SHOWN - len(start)]
        size -= len(taken)
        if not size:
            return
        await connection.more()


async def _line(connection: Connection) -> bytes:
    while (end := connection.received.find(b"\n", 0, _MOST_OF_A_LINE)) < 0:
        if len(connection.received) >= _MOST_OF_A_LINE:
            raise _TooLong
        await connection.more()
    return connection.take(end + 1)
