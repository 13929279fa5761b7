# SPDX-License-Identifier: Apache-2.0
"""A receiver of webhooks that answers with the bytes that a test gives."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    """Names in lower case. A header that comes twice is no part of any test but fails it."""
    body: bytes


@dataclass
class Sink:
    url: str = ""
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection is over from the other side."""


def saying(answer: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return write


def answer_of(status: int, headers: str = "", body: bytes = b"") -> Answer:
    lines = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return saying(lines.encode() + body)


@asynccontextmanager
async def receiving(
    answer: Answer, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Sink]:
    sink = Sink()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(task := asyncio.create_task(answer_all(reader, writer)))
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sink.connections += 1
        try:
            while request := await _read(reader):
                sink.requests.append(request)
                await answer(writer)
        except (ConnectionError, ssl.SSLError):
            return
        finally:
            sink.closed.set()
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    sink.port = server.sockets[0].getsockname()[1]
    sink.url = f"{'https' if tls else 'http'}://{host}:{sink.port}/hook"
    try:
        yield sink
    finally:
        server.close()
        # Some answers never end, and from Python 3.12 on the server waits for its connections.
        for task in serving:
            task.cancel()
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    pairs = [each.partition(":") for each in fields]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    assert len(headers) == len(pairs)
    return Request(line, headers, await reader.readexactly(int(headers.get("content-length", 0))))
