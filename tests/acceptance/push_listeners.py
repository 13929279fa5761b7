# SPDX-License-Identifier: Apache-2.0
"""Many WebSocket connections of one process that subscribe and record the messages that are pushed to them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.acceptance.event_loop_thread import EventLoopThread

SECONDS = 60.0
"""How long a subscription may take."""


@dataclass(eq=False)
class Connection:
    """One connection, from the moment at which it was subscribed."""

    subscription_id: str
    begun: int
    """The messages with this number and greater ones were posted after that moment."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The numbers of the messages by their ids, in the order in which they came first."""
    frames: int = 0
    code: int | None = None
    """The code with which it was closed; 1006 if the connection ended without a code."""
    closed_at: float = 0.0
    """On the monotonic clock."""

    @property
    def repetitions(self) -> int:
        """The number of frames with a message that had come before."""
        return self.frames - len(self.numbers)

    def note(self, frame: str | bytes) -> None:
        push = json.loads(frame)
        self.frames += 1
        self.numbers.setdefault(push["id"], push["body"]["n"])


class Listeners:
    """``count`` connections at a time, all subscribed to one queue. ``connections`` has all of them, closed ones too.

    With ``returning`` each closed connection is followed by another one. ``begun`` returns the number of the next
    message that will be posted.
    """

    def __init__(
        self,
        url: str,
        *,
        project: str,
        queue: str,
        count: int,
        returning: bool = False,
        begun: Callable[[], int] = lambda: 0,
    ) -> None:
        self._url = url
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._queue = queue
        self._count = count
        self._returning = returning
        self._begun = begun
        self.connections: list[Connection] = []
        self._subscribed = threading.Event()
        self._loop = EventLoopThread()

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._loop.begin(self._listen())
        if not self._subscribed.wait(SECONDS):
            self._loop.__exit__(None, None, None)
            raise AssertionError(f"only {len(self.connections)} connections are subscribed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.__exit__(kind, error, trace)

    @property
    def open(self) -> list[Connection]:
        return [each for each in list(self.connections) if each.code is None]

    @property
    def closed(self) -> list[Connection]:
        return [each for each in list(self.connections) if each.code is not None]

    async def _listen(self) -> None:
        # It waits until all are closed, even if it is cancelled.
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._hold())

    async def _hold(self) -> None:
        """Keep one subscribed connection. If ``returning``, open another one after it is closed."""
        while True:
            try:
                async with connect(
                    self._url, compression=None, ping_interval=None, max_size=None, proxy=None
                ) as socket:
                    connection = await self._subscribe(socket)
                    if connection is not None:
                        await self._note(connection, socket)
                        if not self._returning:
                            return
            except (OSError, ConnectionClosed, InvalidHandshake):
                # The process is dead, and its replacement is not there yet.
                pass
            await asyncio.sleep(0.1)

    async def _subscribe(self, socket: ClientConnection) -> Connection | None:
        frame = {"action": "subscription_create", "headers": self._headers, "body": {"queue_name": self._queue}}
        async with asyncio.timeout(SECONDS):
            await socket.send(json.dumps(frame))
            reply = json.loads(await socket.recv())
        if reply["headers"]["status"] == 503:
            return None
        assert reply["headers"]["status"] == 201, reply
        connection = Connection(reply["body"]["subscription_id"], self._begun())
        self.connections.append(connection)
        if len(self.open) == self._count:
            self._subscribed.set()
        return connection

    async def _note(self, connection: Connection, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                connection.note(frame)
        except ConnectionClosed:
            pass
        connection.closed_at = time.monotonic()
        connection.code = socket.close_code or 1006
