# SPDX-License-Identifier: Apache-2.0
"""Readers of streams that reconnect with the last marker they have seen, as a browser does, and record the events.

:func:`events_of` reads one stream; :class:`Readers` has many of them at a time, over HTTP and WebSocket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.acceptance.event_loop_thread import EventLoopThread
from tests.event_streams import Parser

CREDIT = 20
"""Messages that a WebSocket stream may send before the reader asks for more."""


class Event(NamedTuple):
    """One event. ``marker`` is where a browser would resume after it; ``kind`` is "beat" if it has no data."""

    kind: str
    marker: str
    data: Any


class Refused(Exception):
    """The answer is no stream. ``args`` are the status and the body."""


async def events_of(
    host: str, port: int, path: str, headers: dict[str, str], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Event]:
    """The events of one request, until the server ends it. Raises Refused, OSError and EOFError."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if status != 200 or "content-type: text/event-stream" not in head:
            raise Refused(status, head, (await reader.read(4096)).decode(errors="replace"))
        assert "transfer-encoding: chunked" in head, head
        parser = Parser()
        async for chunk in _chunks(reader):
            for event in parser.feed(chunk):
                if event.type in ("", ":"):
                    yield Event("beat", event.last_id, None)
                else:
                    yield Event(event.type, event.last_id, event.json)
    finally:
        # Without a closing handshake: the server has to notice it itself.
        writer.transport.abort()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


class Seen(NamedTuple):
    """A message that was sent: the marker with which to resume after it, its id and body, and the monotonic time."""

    marker: str
    id: str
    body: Any
    at: float


@dataclass(eq=False)
class Connection:
    """The messages sent on one connection. ``start`` is the marker with which it was opened."""

    start: str | None
    position: str | None = None
    """The position in the first event, ``open``."""
    seen: list[Seen] = field(default_factory=list)
    other: list[Event] = field(default_factory=list)
    """The other events, without heartbeats."""


@dataclass(eq=False)
class Reader:
    """One reader. ``marker`` is the position with which it resumes."""

    name: str
    is_websocket: bool
    from_start: bool
    marker: str | None = None
    connections: list[Connection] = field(default_factory=list)
    """All connections that it has opened."""
    ids: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    """Answers that no reader may get."""

    def note(self, connection: Connection, event: Event) -> None:
        if event.kind == "message":
            self.ids.add(event.data["id"])
            connection.seen.append(Seen(event.marker, event.data["id"], event.data["body"], time.monotonic()))
        elif event.kind != "beat":
            connection.other.append(event)
        if event.kind == "open":
            connection.position = event.data["position"]
            self.connections.append(connection)
        self.marker = event.marker or self.marker


class Readers:
    """``count`` readers of one queue. Every seventh one uses a WebSocket stream.

    Each connection is cut after up to ``most_seconds``, and again after each resumption, while ``is_cutting``.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        websocket_url: Callable[[], str] | None,
        project: str,
        queue: str,
        count: int,
        most_seconds: float,
    ) -> None:
        self._host, self._port = host, port
        self._websocket_url = websocket_url
        self._path = f"/v2/queues/{queue}/messages"
        self._queue = queue
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._most_seconds = most_seconds
        self.is_cutting = True
        self.all = [
            Reader(f"reader-{n}", websocket_url is not None and n % 7 == 6, from_start=n % 2 == 0) for n in range(count)
        ]
        self._loop = EventLoopThread()

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._loop.begin(self._read_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.__exit__(kind, error, trace)

    async def _read_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for reader in self.all:
                group.create_task(self._follow(reader))

    async def _follow(self, reader: Reader) -> None:
        while True:
            seconds = random.uniform(0.1, self._most_seconds) if self.is_cutting else None
            connection = Connection(reader.marker)
            try:
                async with asyncio.timeout(seconds):
                    await (self._read_websocket if reader.is_websocket else self._read)(reader, connection)
            except Refused as exc:
                if exc.args[0] != 503:
                    reader.faults.append(str(exc.args))
            except (OSError, EOFError, ConnectionClosed, InvalidHandshake):
                # The connection was cut, or the process is dead and not replaced yet. TimeoutError is an OSError.
                pass
            await asyncio.sleep(random.uniform(0.0, 0.2))

    async def _read(self, reader: Reader, connection: Connection) -> None:
        # Half of the readers send the marker as a browser does, the others in the query.
        headers, query = dict(self._headers), ""
        if reader.marker is None:
            query = "?from=oldest" if reader.from_start else ""
        elif reader.from_start:
            headers["Last-Event-ID"] = reader.marker
        else:
            query = f"?marker={reader.marker}"
        async for event in events_of(self._host, self._port, self._path + query, headers):
            reader.note(connection, event)

    async def _read_websocket(self, reader: Reader, connection: Connection) -> None:
        assert self._websocket_url is not None
        url = await asyncio.to_thread(self._websocket_url)
        async with connect(url, compression=None, ping_interval=None, max_size=None, proxy=None) as socket:
            begin = {"from": "oldest" if reader.from_start else "now"} if reader.marker is None else {}
            body = {"queue_name": self._queue, "credit": CREDIT, **begin}
            if reader.marker is not None:
                body["marker"] = reader.marker
            await socket.send(self._request("stream_open", body))
            reply = json.loads(await socket.recv())
            if reply["headers"]["status"] != 200:
                raise Refused(reply["headers"]["status"], reply["body"])
            position = reply["body"]["position"]
            reader.note(connection, Event("open", position, {"position": position}))
            numbers = itertools.count(1)
            async for text in socket:
                frame = json.loads(text)
                if frame.get("Message_Type") != "Stream":
                    assert frame["headers"]["status"] == 204, frame
                    continue
                reader.note(connection, Event(frame["event"], frame["id"], frame["data"]))
                if frame["event"] == "message" and next(numbers) % (CREDIT // 2) == 0:
                    grant = {"queue_name": self._queue, "credit": CREDIT // 2}
                    await socket.send(self._request("stream_credit", grant))

    def _request(self, action: str, body: dict[str, Any]) -> str:
        return json.dumps({"action": action, "headers": self._headers, "body": body})
