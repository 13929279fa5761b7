# SPDX-License-Identifier: Apache-2.0
"""A listening socket of a process that may run out of open files."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from typing import Any

_log = logging.getLogger(__name__)

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_PAUSE_SECONDS = 0.9
"""asyncio tries again a second after such an error, so this is a little less than a second."""

_SAY_SECONDS = 60.0


class AcceptingSocket(socket.socket):
    """Raises the error about open files to asyncio once a second at most.

    After each such error, asyncio would log it and plan another attempt, as many times as the backlog of the socket.
    """

    __slots__ = ("_failed_at", "_said_at")

    def __init__(self, listener: socket.socket) -> None:
        """Take over the socket ``listener``, which must not be used any more."""
        super().__init__(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self._failed_at = self._said_at = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except OSError as exc:
            if exc.errno not in _EXHAUSTED:
                raise
            now = time.monotonic()
            if now - self._failed_at < _PAUSE_SECONDS:
                raise BlockingIOError from None
            self._failed_at = now
            if now - self._said_at > _SAY_SECONDS:
                self._said_at = now
                _log.warning("No connections are accepted at the moment: %s (ulimit -n).", exc.strerror)
            raise


def handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler for the event loop. It skips the errors of AcceptingSocket, which has logged them."""
    error = context.get("exception")
    if not (isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context):
        loop.default_exception_handler(context)
