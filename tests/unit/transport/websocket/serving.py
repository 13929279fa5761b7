# SPDX-License-Identifier: Apache-2.0
"""The WebSocket API with its real sessions on a free port, and clients of it, in one event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
from oslo_config import cfg
from websockets.asyncio.client import ClientConnection, connect

from zaqar import app, conf
from zaqar.app import Parts
from zaqar.clock import Clock, system_clock
from zaqar.context import Context
from zaqar.model import QUEUE, QueueName
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.connection import Connection
from zaqar.transport.websocket.server import WebSocketServer
from zaqar.transport.websocket.session import Sessions
from zaqar.transport.websocket.settings import Settings

PATIENCE = 30.0

_clients = itertools.count(1)


class Peer:
    """One client. It keeps frames that are no replies in ``frames`` until a test asks for them."""

    def __init__(self, library: ClientConnection, *, project: str, packs: bool) -> None:
        self.library = library
        self.project = project
        self.packs = packs
        self.client_id = f"3381af92-2b9e-11e3-b191-{next(_clients):012d}"
        self.frames: deque[Any] = deque()

    async def send(self, action: str, headers: Mapping[str, Any] | None = None, **body: Any) -> None:
        named = {"Client-ID": self.client_id, "X-Project-ID": self.project, **(headers or {})}
        document = {"action": action, "headers": named, "body": body}
        await self.library.send(msgpack.packb(document) if self.packs else json.dumps(document))

    async def request(self, action: str, headers: Mapping[str, Any] | None = None, **body: Any) -> tuple[int, Any]:
        """The status and the body of the reply."""
        await self.send(action, headers, **body)
        return await self.reply()

    async def reply(self) -> tuple[int, Any]:
        reply = await self.whole_reply()
        return reply["headers"]["status"], reply["body"]

    async def whole_reply(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            while "request" not in (frame := await self._receive()):
                self.frames.append(frame)
        return frame

    async def frame(self) -> Any:
        """The next frame that is not a reply, such as a frame of a stream."""
        if self.frames:
            return self.frames.popleft()
        async with asyncio.timeout(PATIENCE):
            frame = await self._receive()
        assert "request" not in frame, frame
        return frame

    async def is_quiet(self, seconds: float = 0.1) -> bool:
        """Whether no frame arrives in this time."""
        if self.frames:
            return False
        try:
            async with asyncio.timeout(seconds):
                self.frames.append(await self._receive())
        except TimeoutError:
            return True
        return False

    async def _receive(self) -> Any:
        frame = await self.library.recv()
        return json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)


@dataclass
class Service:
    parts: Parts
    server: WebSocketServer
    port: int

    @asynccontextmanager
    async def client(self, *, project: str = "p", packs: bool = False, **options: Any) -> AsyncIterator[Peer]:
        async with connect(f"ws://127.0.0.1:{self.port}/", proxy=None, compression=None, **options) as library:
            yield Peer(library, project=project, packs=packs)

    @property
    def connections(self) -> list[Connection]:
        return list(self.server.connections)

    def waiting(self) -> int:
        """Waiters of any kind."""
        return self.parts.hub.registry.waiting

    async def post(self, *bodies: Any, queue: str = "q") -> None:
        """Post without a connection."""
        document = {"messages": [{"body": body, "ttl": 300} for body in bodies]}
        caller, queue_name = Context("p", "poster"), QueueName("p", QUEUE, queue)
        await asyncio.to_thread(self.parts.messages.post, caller, queue_name, json.dumps(document).encode())

    async def until_waiting(self, count: int) -> None:
        await wait_until(lambda: self.waiting() == count)


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


def make_parts(folder: Path, *, store: str = "memory", clock: Clock = system_clock, **options: Any) -> Parts:
    """The service on a store. Options are named ``group__option``, or ``option`` in [DEFAULT]."""
    loaded = _configure({"state_dir": str(folder), **options})
    if store == "memory":
        return app.build(loaded, clock=clock, management=MemoryManagementStore(), messages=MemoryMessageStore())
    return app.build(loaded, clock=clock)


def reload_parts(before: Parts, **options: Any) -> Parts:
    """New parts with other options, made in the way of a reload."""
    (store_ref,) = before.placement.all_stores()
    loaded = _configure({"state_dir": before.conf.state_dir, **options})
    parts = app.build(loaded, clock=before.clock, management=before.management, messages=store_ref.store)
    parts.hub.adopt(before.hub)
    return parts


def _configure(options: Mapping[str, Any]) -> cfg.ConfigOpts:
    loaded = conf.load([], default_config_files=[])
    for name, value in options.items():
        group, _, option = name.rpartition("__")
        loaded.set_override(option, value, group or None)
    return loaded


def run(
    script: Callable[[Service], Coroutine[Any, Any, None]],
    parts: Parts,
    *,
    end_subscriptions: Callable[[str], None] | None = None,
    **settings: Any,
) -> None:
    """Serve while the script runs. ``settings`` are fields of :class:`Settings`. In the end no client may wait."""

    async def play() -> None:
        sessions = Sessions(end_subscriptions=end_subscriptions)
        configured = replace(Settings.from_conf(parts.conf), **settings)
        server = WebSocketServer(parts, configured, make_session=sessions.open)
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            service = Service(parts, server, listener.getsockname()[1])
            await server.start(listener)
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await script(service)
            finally:
                await server.stop()
        assert service.waiting() == 0
        assert server._memory.replies.total == 0

    try:
        asyncio.run(play())
    finally:
        parts.close()
