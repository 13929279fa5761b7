# SPDX-License-Identifier: Apache-2.0
"""A bounded pool of connections to one server: the only pool policy of the driver, in a Cluster one pool a node."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import redis

from zaqar.storage.redis.client.connection import Connection

MAX_CONNECTIONS = 50
"""Connections to one server, unless the store's options set another number."""

WAIT_SECONDS = 1.5
"""How long an operation waits for a connection if all are in use."""

IDLE_SECONDS = 60.0
"""A connection that was not needed for so long is closed."""


class PoolExhausted(redis.RedisError):
    """No connection became free in time."""


class _Waiter:
    """A thread that waits for a connection. Once ``served`` it owns a slot, and ``connection`` if one was idle."""

    __slots__ = ("connection", "served")

    def __init__(self) -> None:
        self.served = threading.Event()
        self.connection: Connection | None = None


class ConnectionPool:
    """At most ``limit`` connections to one server. The connection that was used last is taken first.

    So connections that were opened for a burst rest after it, and are closed when they were idle for a while. A thread
    that finds none waits; waiters are served in the order in which they came.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._shrink_at = 0.0
        self.forget()

    def forget(self) -> None:
        """Begin empty in a child process, because the connections belong to the parent."""
        # To close them here would not end them: redis-py only shuts down what its own process opened.
        self._idle: list[Connection] = []
        self._waiters: deque[_Waiter] = deque()
        self._slots = 0
        """Connections that are open or being opened."""
        self._lock = threading.Lock()
        """Protects the number of slots and the waiters. To take and give an idle connection does not need it, because
        ``list.pop`` and ``list.append`` are atomic."""

    def take(self, opening: Callable[[], Connection], *, fresh: bool = False) -> Connection:
        """Return a usable connection: an idle one, or a new one of ``opening()``; always a new one if ``fresh``.

        The caller must ``give`` it back or ``discard`` it. Raises PoolExhausted, and what ``opening`` raises.
        """
        while self._idle and not self._waiters and not fresh:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.is_usable():
                return connection
            self.discard(connection)
        given = self._wait_for_slot()
        if given is not None:
            if not fresh and given.is_usable():
                return given
            given.close()
        try:
            return opening()
        except BaseException:
            self._release_slot()
            raise

    def _wait_for_slot(self) -> Connection | None:
        """Acquire a slot: with the connection in it, or None if the caller has to open one."""
        with self._lock:
            if self._slots < self._limit and not self._waiters:
                self._slots += 1
                return None
            waiter = _Waiter()
            self._waiters.append(waiter)
        # A thread may have given one back before it could see this waiter. Without this look nobody would serve it.
        self._serve_waiters()
        try:
            waiter.served.wait(WAIT_SECONDS)
        except BaseException:  # a greenlet that is killed must not take its slot with it
            if not self._stop_waiting(waiter):
                if waiter.connection is not None:
                    self.give(waiter.connection)
                else:
                    self._release_slot()
            raise
        if self._stop_waiting(waiter):
            raise PoolExhausted(f"all {self._limit} connections are in use")
        return waiter.connection

    def _stop_waiting(self, waiter: _Waiter) -> bool:
        """Leave the queue; False if the waiter was served at the last moment and owns a slot."""
        with self._lock:
            if waiter.served.is_set():
                return False
            self._waiters.remove(waiter)
            return True

    def _serve_waiters(self) -> None:
        with self._lock:
            while self._waiters:
                connection = None
                try:
                    connection = self._idle.pop()
                except IndexError:
                    if self._slots >= self._limit:
                        return
                    self._slots += 1
                waiter = self._waiters.popleft()
                waiter.connection = connection
                waiter.served.set()

    def _release_slot(self) -> None:
        with self._lock:
            self._slots -= 1
        if self._waiters:
            self._serve_waiters()

    def give(self, connection: Connection) -> None:
        """Put back a connection that can be used again."""
        self._idle.append(connection)
        if self._waiters:
            self._serve_waiters()
        if connection.used > self._shrink_at:
            self.shrink(connection.used)

    def discard(self, connection: Connection) -> None:
        """Close a connection that was taken."""
        try:
            connection.close()
        finally:
            self._release_slot()

    def count(self) -> tuple[int, int]:
        """How many connections are in use or being opened, and how many are idle."""
        idle = len(self._idle)
        return max(0, self._slots - idle), idle

    def shrink(self, now: float) -> None:
        """Close connections that were idle for IDLE_SECONDS at ``now``, by ``time.monotonic``."""
        self._shrink_at = now + IDLE_SECONDS / 4
        for connection in [each for each in self._idle if each.used < now - IDLE_SECONDS]:
            try:
                self._idle.remove(connection)
            except ValueError:  # another thread took it
                continue
            self.discard(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                return
            self.discard(connection)
