# SPDX-License-Identifier: Apache-2.0
"""The connection on which Redis tells a process of posts to queues that clients wait for.

Scripts publish the uid of a queue if the queue has a note that somebody waits; see ``scripts/wake.lua``.
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
from zaqar.storage.redis.wire import ERRORS, Wire

_QUIET_SECONDS = 10.0
"""After so long without anything from the server it is asked whether it is still there."""

_NOT_SUPPORTED = ("NOPERM", "ERR unknown command")


class NotSupported(Exception):
    """The server does not let this user subscribe. Trying again does not help."""


class RedisWakeups(Wakeups):
    """One subscription. ``is_current`` says whether the server of a connection is still one that commands go to."""

    def __init__(self, wire: Wire, channel: bytes, *, is_current: Callable[[Wire], bool], reply_seconds: float) -> None:
        """Subscribe. Raises NotSupported, and what is among ERRORS."""
        self._wire = wire
        self._is_current = is_current
        self._reply_seconds = reply_seconds
        self._is_closed = False
        self._pid = os.getpid()
        self._in_use = threading.Lock()
        """Held while the connection is read, because a file descriptor that is closed then may soon be another's."""
        self._asked_at: float | None = None
        """When the server was asked whether it is still there, if it has sent nothing since."""
        try:
            wire.command(b"SUBSCRIBE", channel)
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
                    pushed = self._wire.receive(max(0.001, min(end, self._next_check()) - time.monotonic()))
                    uids = _uids_in(pushed)
                except ERRORS as exc:
                    raise StoreUnavailable from exc
                if pushed:
                    self._heard_at, self._asked_at = time.monotonic(), None
                if uids or time.monotonic() >= end:
                    return uids

    def _check(self) -> None:
        """Raise ConnectionError if the connection is of no more use; ask the server if it has been quiet for long."""
        now = time.monotonic()
        if self._is_closed:
            raise ConnectionError("it was closed")
        if not self._is_current(self._wire):
            # A master that was demoted passes on what is published at the new one, but only while it replicates that.
            raise ConnectionError("another server is the master now")
        if now < self._next_check():
            return
        if self._asked_at is not None:
            raise ConnectionError("the server does not answer")
        self._wire.send(b"PING", seconds=self._reply_seconds)
        self._asked_at = now

    def _next_check(self) -> float:
        if self._asked_at is not None:
            return self._asked_at + self._reply_seconds
        return self._heard_at + _QUIET_SECONDS

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # it is the parent's, of which another thread may hold the lock for ever in this process
        self._is_closed = True
        self._wire.shut()
        with self._in_use:
            self._wire.close()


def _uids_in(pushed: Sequence[Any]) -> list[str]:
    """The payloads of the messages among what was received, each once. Raises ReplyError."""
    uids: dict[str, None] = {}
    for each in pushed:
        if isinstance(each, hiredis.ReplyError):
            raise each
        if each[0] == b"message":
            uids[each[2].decode()] = None
    return [*uids]
