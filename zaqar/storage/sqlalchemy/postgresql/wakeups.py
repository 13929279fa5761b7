# SPDX-License-Identifier: Apache-2.0
"""Wake-ups over LISTEN and NOTIFY: a connection that hears of posts and releases in any queue of the database."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import Final, Self

import psycopg

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Outage, Wakeups
from zaqar.storage.sqlalchemy.postgresql import connection as postgresql_connection
from zaqar.storage.sqlalchemy.postgresql.connection import (
    TRANSACTION_SECONDS,
    ConnectionParameters,
    PostgresqlConnection,
)
from zaqar.storage.sqlalchemy.queries import WAKEUP_CHANNEL

_READ_SECONDS: Final = 4.0
"""Seconds that reading takes at most if something has arrived."""


class PostgresqlWakeups(Wakeups):
    """One connection that listens. It does not belong to the pool."""

    def __init__(self, connection: PostgresqlConnection, outage: Outage) -> None:
        self._connection = connection
        self._outage = outage
        self._receiving = threading.Lock()
        """Held while the connection is in use: libpq frees a connection that is closed, also while it is being read."""
        self._is_closed = self._is_inherited = False
        self._close_signal, self._close_sender = socket.socketpair()
        """A byte that is sent to the second one ends a wait in ``receive``."""
        self._close_sender.setblocking(False)
        postgresql_connection.register_for_fork(self)

    @classmethod
    def listen(cls, parameters: ConnectionParameters, outage: Outage) -> Self:
        """Open a connection that listens. Raises psycopg's errors."""
        connection = parameters.connect()
        try:
            connection.deadline = monotonic() + TRANSACTION_SECONDS
            connection.execute(f"LISTEN {WAKEUP_CHANNEL}", prepare=False)
        except BaseException:
            connection.close()
            raise
        return cls(connection, outage)

    def receive(self, seconds: float) -> list[str]:
        deadline = monotonic() + seconds
        uids: list[str] = []
        with self._receiving:
            try:
                # A round without a uid: the server may have sent only its last message. The next round sees the end.
                while not uids and self._wait(deadline - monotonic()):
                    # There is something to read, so this does not wait. It ends after the notifications that arrived.
                    self._connection.deadline = monotonic() + _READ_SECONDS
                    uids = [each.payload for each in self._connection.notifies(timeout=0, stop_after=1)]
            except psycopg.Error as exc:
                raise self._outage.failed(exc) from exc
        return list(dict.fromkeys(uids))

    def _wait(self, seconds: float) -> bool:
        """Whether something arrived, news of the connection's end included. StoreUnavailable if it is closed here."""
        if self._is_closed:
            raise StoreUnavailable
        poll = select.poll()
        poll.register(self._connection.pgconn.socket, select.POLLIN)
        poll.register(self._close_signal, select.POLLIN)
        poll.poll(max(0.0, seconds * 1000))
        if self._is_closed:
            raise StoreUnavailable
        return not self._connection.is_quiet()

    def close(self) -> None:
        # In this order: the receiver wakes up, sees the flag, releases the lock. Then no thread reads the connection.
        self._is_closed = True
        with suppress(OSError):  # closed before, or so many callers have closed it that its buffer is full
            self._close_sender.send(b"x")
        with self._receiving:
            if not self._is_inherited:
                self._connection.close()
            self._close_signal.close()
            self._close_sender.close()

    def renew_in_child(self) -> None:
        """Close it in a forked child without touching the connection, which the parent still uses."""
        self._is_closed = self._is_inherited = True
        self._receiving = threading.Lock()
        # The descriptors are the child's own, but a byte sent here would end a wait of the parent.
        self._close_signal.close()
        self._close_sender.close()
        if not self._connection.closed:
            postgresql_connection.leave_to_parent([self._connection])
