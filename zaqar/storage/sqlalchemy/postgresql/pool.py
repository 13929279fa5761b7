# SPDX-License-Identifier: Apache-2.0
"""The connections to one PostgreSQL database, a bounded number for each process. Every transaction acquires one."""

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic

from zaqar.storage.base import Outage
from zaqar.storage.sqlalchemy.postgresql import connection as postgresql_connection
from zaqar.storage.sqlalchemy.postgresql.connection import (
    TRANSACTION_SECONDS,
    ConnectionParameters,
    PostgresqlConnection,
)

ACQUIRE_SECONDS = 1.4
"""Seconds to wait if all connections are in use."""

IDLE_SECONDS = 60.0
"""A connection that was not used for so long is closed."""


class ConnectionPool:
    """Opens a connection when none is idle, in the thread that needs it, and keeps it afterwards.

    ``psycopg_pool`` opens connections in threads of its own and lets callers wait for them. If a server refuses
    connections, each of its callers waits for the whole time limit and does not learn the reason; and its threads do
    not survive a fork. Here a caller gets the error of its own attempt at once. Decision 0013 has the measurements.
    """

    def __init__(self, parameters: ConnectionParameters, outage: Outage, *, size: int) -> None:
        self._parameters = parameters
        self._outage = outage
        self._size = size
        self._idle: list[PostgresqlConnection] = []
        """A stack: the connection that was used last is taken first. So under little load few connections are used,
        their plans and the server's caches stay warm, and the others become idle long enough to be closed.

        ``append`` and ``pop`` are atomic, so that no lock is needed.
        """
        self._opened: set[PostgresqlConnection] = set()
        """All connections, also those in use. ``add`` and ``discard`` are atomic too."""
        self._shrink_at = 0.0
        self._free = threading.BoundedSemaphore(size)
        postgresql_connection.register_for_fork(self)

    def acquire(self) -> PostgresqlConnection:
        """A connection that was alive a moment ago, with its deadline set. ``release`` or ``discard`` must follow.

        Raises psycopg's errors, and StoreUnavailable if all connections stay in use.
        """
        started = monotonic()
        if not self._free.acquire(timeout=ACQUIRE_SECONDS):
            raise self._outage.failed("no connection is free")
        try:
            connection = self._pop_idle() or self._open()
        except BaseException:
            self._free.release()
            raise
        connection.deadline = started + TRANSACTION_SECONDS
        try:
            connection.keep_plans_fresh(started)
        except BaseException:
            self.discard(connection)
            raise
        return connection

    def _open(self) -> PostgresqlConnection:
        connection = self._parameters.connect()
        self._opened.add(connection)
        return connection

    def _close(self, connection: PostgresqlConnection) -> None:
        self._opened.discard(connection)
        connection.close()

    def counts(self) -> dict[str, int]:
        """The connections in use, the idle ones, and how many there can be. Other threads may change them meanwhile."""
        idle = len(self._idle)
        return {"used": max(0, len(self._opened) - idle), "idle": idle, "max": self._size}

    def _pop_idle(self) -> PostgresqlConnection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            # A restarted server has closed its end, and this costs no round trip. A connection that the network lost
            # silently passes, and fails at its deadline.
            if connection.is_quiet():
                return connection
            self._close(connection)
        return None

    def release(self, connection: PostgresqlConnection) -> None:
        """Take back a connection on which no transaction is open."""
        self._idle.append(connection)
        self._free.release()
        if connection.deadline > self._shrink_at:
            self._shrink(connection.deadline)

    def _shrink(self, now: float) -> None:
        """Close connections that were not used for a while. The deadline tells when a connection was used last."""
        self._shrink_at = now + IDLE_SECONDS / 4
        for connection in [each for each in self._idle if each.deadline < now - IDLE_SECONDS]:
            # A thread that removed it from the list owns it: either this one, or one in ``_pop_idle``.
            with suppress(ValueError):
                self._idle.remove(connection)
                self._close(connection)

    def discard(self, connection: PostgresqlConnection) -> None:
        """Close an acquired connection. The server rolls back the transaction on it."""
        try:
            self._close(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._close(self._idle.pop())

    def renew_in_child(self) -> None:
        """Begin anew in a forked child: parent and child must not talk over one socket.

        A thread of the parent that held the semaphore does not exist in the child, hence a new one.
        """
        postgresql_connection.leave_to_parent(self._idle)
        self._idle = []
        self._opened = set()
        self._free = threading.BoundedSemaphore(self._size)
