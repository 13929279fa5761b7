# SPDX-License-Identifier: Apache-2.0
"""Notices that clients close their connections while their requests wait, so that such requests free their slots."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from zaqar.access.http_server import client_fd, make_poll
from zaqar.waiting.background import Background, Job

LOOK_SECONDS = 1.0
"""Time between two checks of all connections. One system call checks all of them."""


class ClientWatch(Job):
    """Knows the connections of the requests that wait. Any thread or greenlet may use it."""

    name = "waiting clients"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._poll: Any = None
        self._wakes: dict[int, Callable[[], None]] = {}
        self._background = Background()

    def add(self, environ: Mapping[str, Any], wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` within about a second after the client of this request has closed its connection.

        Returns a function that ends the watch. Call it while the server still has the connection open. If the server
        does not show the socket, ``wake`` is never called.
        """
        fd = client_fd(environ)
        if fd is None or fd < 0:
            return lambda: None
        with self._lock:
            if self._poll is None:
                self._poll = make_poll()
            self._poll.register(fd, select.POLLRDHUP)
            self._wakes[fd] = wake
        self._background.start(self.name, lambda: self)
        return partial(self._remove, fd)

    def _remove(self, fd: int) -> None:
        with self._lock:
            if self._wakes.pop(fd, None) is not None:
                self._poll.unregister(fd)

    def is_needed(self) -> bool:
        return bool(self._wakes)

    def step(self) -> float:
        with self._lock:
            gone = [] if self._poll is None else [self._wakes[fd] for fd, _ in self._poll.poll(0)]
        for wake in gone:
            wake()
        return LOOK_SECONDS
