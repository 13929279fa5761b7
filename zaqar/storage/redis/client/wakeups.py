# SPDX-License-Identifier: Apache-2.0
"""The connection on which Redis tells a process that messages became available in a queue that clients wait for.

``RedisMessageStore.wakeups`` opens it. Scripts publish the uid of the queue; see ``scripts/pieces/wake_clients.lua``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Wakeups
from zaqar.storage.redis.client.connection import CLIENT_ERRORS, Connection

_QUIET_SECONDS = 10.0
"""If the server has sent nothing for so long, it is asked whether it is still there."""

_NOT_SUPPORTED = ("NOPERM", "ERR unknown command")


class NotSupported(Exception):
    """The server does not let this user subscribe. Trying again does not help."""


class RedisWakeups(Wakeups):
    """One subscription on a connection of its own."""

    def __init__(
        self, connection: Connection, channel: bytes, *, is_current: Callable[[Connection], bool], reply_seconds: float
    ) -> None:
        """Subscribe. Raises NotSupported, and one of CLIENT_ERRORS.

        ``is_current`` tells whether commands still go to the server of a connection. ``reply_seconds`` is how long the
        server may take to answer.
        """
        self._connection = connection
        self._is_current = is_current
        self._reply_seconds = reply_seconds
        self._is_closed = False
        self._pid = os.getpid()
        self._in_use = threading.Lock()
        """Held while the connection is read: if it was closed then, its file descriptor may soon be another's."""
        self._asked_at: float | None = None
        """When the server was asked whether it is still there; None if it has sent something since."""
        try:
            connection.command(b"SUBSCRIBE", channel)
        except hiredis.ReplyError as exc:
            if str(exc).startswith(_NOT_SUPPORTED):
                raise NotSupported(str(exc)) from exc
            raise
        self._heard_at = time.monotonic()

    def receive(self, seconds: float) -> list[str]:
        end = time.monotonic() + seconds
        with self._in_use:
            while True:
                try:
                    self._check()
                    pushed = self._connection.receive(max(0.001, min(end, self._next_check()) - time.monotonic()))
                    uids = _uids_in(pushed)
                except CLIENT_ERRORS as exc:
                    raise StoreUnavailable from exc
                if pushed:
                    self._heard_at, self._asked_at = time.monotonic(), None
                if uids or time.monotonic() >= end:
                    return uids

    def _check(self) -> None:
        """Raise ConnectionError if the connection is of no use any more; ask the server if it was quiet for long."""
        now = time.monotonic()
        if self._is_closed:
            raise ConnectionError("it was closed")
        if not self._is_current(self._connection):
            # A demoted master passes on what is published at the new one, but only while it replicates from it.
            raise ConnectionError("another server is the master now")
        if now < self._next_check():
            return
        if self._asked_at is not None:
            raise ConnectionError("the server does not answer")
        self._connection.send(b"PING", seconds=self._reply_seconds)
        self._asked_at = now

    def _next_check(self) -> float:
        if self._asked_at is not None:
            return self._asked_at + self._reply_seconds
        return self._heard_at + _QUIET_SECONDS

    def close(self) -> None:
        if os.getpid() != self._pid:
            # The connection is the parent's. One of its threads may have held the lock at the fork, for ever here.
            return
        self._is_closed = True
        self._connection.shut()
        with self._in_use:
            self._connection.close()


def _uids_in(pushed: Sequence[Any]) -> list[str]:
    """The payloads of the published messages, each once. Raises ReplyError if the server sent an error."""
    uids: dict[str, None] = {}
    for each in pushed:
        if isinstance(each, hiredis.ReplyError):
            raise each
        if each[0] == b"message":
            uids[each[2].decode()] = None
    return [*uids]
