# SPDX-License-Identifier: Apache-2.0
"""A server on a free port with scripted sessions: the transport alone, without the API."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from zaqar import app, conf
from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import StoreUnavailable
from zaqar.model import QueueName
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.action import Pending
from zaqar.transport.websocket.connection import Connection
from zaqar.transport.websocket.server import WebSocketServer
from zaqar.transport.websocket.settings import Settings
from zaqar.transport.websocket.stream_table import StreamTable

PATIENCE = 20.0
PLAYED = 4
STALL_SECONDS = 0.05

UPGRADE = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"


@dataclass
class Request:
    """A frame of JSON: an object with any of these members."""

    id: str = "req-1"
    action: str | None = None
    operation: object | None = None
    project: str | None = "p"
    queue_name: QueueName | None = None
    text: str = ""
    sleep: float = 0.0
    large: int = 0
    expires_in: float | None = None
    status: int = 200
    close: list[Any] | None = None
    asks_others: bool = False
    expires: float | None = None
    reply: Reply | None = None


@dataclass
class Reply:
    frame: str | bytes
    status: int = 200
    close: tuple[int, str] | None = None
    is_outage: bool = False
    undo: Callable[[], None] | None = None
    pending: Pending[Any] | None = None


@dataclass
class ScriptedSession:
    """Answers ``text`` after ``sleep`` seconds. ``authenticate`` gives the connection the identity of ``project``."""

    parts: Parts
    connection: str
    identity: Identity | None = None
    expires: float | None = None
    valid: bool = True
    answered: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    streams: StreamTable = field(default_factory=StreamTable)

    def asks_keystone(self, request: Request) -> bool:
        return request.action == "authenticate"

    def read(self, frame: str | bytes) -> Request:
        request = Request(**json.loads(frame))
        request.queue_name = request.queue_name and QueueName(*request.queue_name)
        if request.action == "malformed":
            request.reply = Reply(request.text, 400)
        return request

    def answer(self, request: Request, version: int | None = None) -> Reply:
        if request.action == "authenticate":
            expires = time.time() + (3600.0 if request.expires_in is None else request.expires_in)
            self.identity = Identity(request.project, "user", frozenset(), None, expires)
            self.expires = expires
        if request.action == "block":
            self.release.wait(PATIENCE)
        time.sleep(request.sleep)
        self.answered.append(request.text)
        text = request.text + "x" * request.large
        return Reply(text, request.status, None if request.close is None else (request.close[0], request.close[1]))

    def refuse(self, request: Request, error: StoreUnavailable) -> Reply:
        return Reply(f"refused: {error}", 503)

    def revalidate(self) -> bool:
        return self.valid

    def use(self, parts: Parts) -> None:
        self.parts = parts


@dataclass
class Harness:
    """The server, and the sessions of the connections that were made."""

    server: WebSocketServer
    port: int
    sessions: list[ScriptedSession]

    def connect(self, **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/", proxy=None, **options)

    async def connection(self, number: int = 0) -> Connection:
        """The server's side of the connection with this number, in the order of opening."""
        found = None
        while found is None:
            if len(self.sessions) > number:
                found = self.server.connections.find(self.sessions[number].connection)
            await asyncio.sleep(0.001)
        return found


async def ask(client: ClientConnection, **request: Any) -> str | bytes:
    """One request and its reply."""
    await client.send(json.dumps(request))
    return await client.recv()


async def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and reason of the close frame that comes next."""
    with pytest.raises(ConnectionClosed) as caught:
        await client.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def make_parts(folder: Path, options: str = "") -> Parts:
    file = folder / "zaqar.conf"
    file.write_text(options)
    loaded = conf.load([f"--config-file={file}"])
    return app.build(loaded, management=MemoryManagementStore(), messages=MemoryMessageStore())


def run(
    script: Callable[[Harness], Coroutine[Any, Any, None]],
    folder: Path,
    options: str = "",
    *,
    authenticates: bool = False,
    **settings: Any,
) -> None:
    """Serve while the script runs. ``settings`` are fields of :class:`Settings`.

    Scripts rely on times of tenths of a second. If one fails while the machine stood still for that long, it is run
    again.
    """

    async def play(delay: Delay) -> None:
        parts = make_parts(folder, options)
        sessions: list[ScriptedSession] = []

        def make_session(parts: Parts, connection: str) -> ScriptedSession:
            sessions.append(ScriptedSession(parts, connection))
            return sessions[-1]

        configured = replace(Settings.from_conf(parts.conf), **settings)
        server = WebSocketServer(parts, configured, make_session=make_session)
        if authenticates:
            server._context = replace(server._context, authenticates=True, revalidation_seconds=0.2)
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            port = listener.getsockname()[1]
            await server.start(listener)
            harness = Harness(server, port, sessions)
            watching = asyncio.create_task(delay.watch())
            try:
                async with asyncio.timeout(60):
                    await script(harness)
            finally:
                watching.cancel()
                for session in sessions:
                    session.release.set()
                await server.stop()
        parts.close()

    for left in reversed(range(PLAYED)):
        delay = Delay()
        try:
            asyncio.run(play(delay))
        except (Exception, pytest.fail.Exception):
            if not left or delay.longest < STALL_SECONDS:
                raise
        else:
            return


class Delay:
    """The longest delay of the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - due)
