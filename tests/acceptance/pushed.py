# SPDX-License-Identifier: Apache-2.0
"""Many WebSocket connections of one process that subscribe and note what is pushed to them."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


class Listeners:
    """``count`` connections, all subscribed to one queue.

    ``numbers`` has for each the ``n`` of the bodies as they came.
    """

    def __init__(self, url: str, *, project: str, queue: str, count: int) -> None:
        self._url = url
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._queue = queue
        self.numbers: list[list[int]] = [[] for _ in range(count)]
        self.closed: dict[int, int] = {}
        """By connection: the code with which it was closed; 1006 if there was none."""
        self._subscribed = threading.Barrier(2, timeout=60)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._subscribed.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._listen())
            except asyncio.CancelledError:
                return

    async def _listen(self) -> None:
        self._main: Any = asyncio.current_task()
        sockets = [await self._subscribe() for _ in self.numbers]
        self._subscribed.wait()
        try:
            await asyncio.gather(*(self._note(number, socket) for number, socket in enumerate(sockets)))
            await asyncio.Event().wait()
        finally:
            await asyncio.gather(*(socket.close() for socket in sockets))

    async def _subscribe(self) -> ClientConnection:
        socket = await connect(self._url, compression=None, ping_interval=None, max_size=None, proxy=None)
        frame = {"action": "subscription_create", "headers": self._headers, "body": {"queue_name": self._queue}}
        await socket.send(json.dumps(frame))
        reply = json.loads(await socket.recv())
        assert reply["headers"]["status"] == 201, reply
        return socket

    async def _note(self, number: int, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                self.numbers[number].append(json.loads(frame)["body"]["n"])
        except ConnectionClosed:
            pass
        self.closed[number] = socket.close_code or 1006
