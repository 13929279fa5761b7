# SPDX-License-Identifier: Apache-2.0
"""Wake-ups over LISTEN and NOTIFY: a connection that hears of posts and releases in any queue of the database."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import Final

import psycopg

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Outage, Wakeups
from zaqar.storage.sqlalchemy.postgresql import connection as postgresql_link
from zaqar.storage.sqlalchemy.postgresql.connection import Link

CHANNEL: Final = "zaqar_wakeups"
"""One for all queues: the server looks at every channel name of every listener at each commit that notifies."""

_READING: Final = 4.0
"""Seconds that reading takes at most when something has come."""


class PostgresqlWakeups(Wakeups):
    """One connection that listens. It is none of those that the database keeps for its transactions."""

    def __init__(self, link: Link, outage: Outage) -> None:
        self._link = link
        self._outage = outage
        self._receiving = threading.Lock()
        """Held while the connection is in use: libpq frees a connection that is closed, also if it is being read."""
        self._is_closed = self._is_inherited = False
        self._ends, self._end = socket.socketpair()
        """What is sent to the second one ends a wait in ``receive``."""
        self._end.setblocking(False)
        postgresql_link.register_for_fork(self)

    def receive(self, seconds: float) -> list[str]:
        deadline = monotonic() + seconds
        told: list[str] = []
        with self._receiving:
            try:
                # What comes first may be the server's farewell, and the end of the connection right after it.
                while not told and self._wait(deadline - monotonic()):
                    # There is something to read, so this does not wait. It ends after what has come.
                    self._link.deadline = monotonic() + _READING
                    told = [each.payload for each in self._link.notifies(timeout=0, stop_after=1)]
            except psycopg.Error as exc:
                raise self._outage.failed(exc) from exc
        return list(dict.fromkeys(told))

    def _wait(self, seconds: float) -> bool:
        """Whether something came on the connection, news of its end included. StoreUnavailable if it is closed here."""
        if self._is_closed:
            raise StoreUnavailable
        poll = select.poll()
        poll.register(self._link.pgconn.socket, select.POLLIN)
        poll.register(self._ends, select.POLLIN)
        poll.poll(max(0.0, seconds * 1000))
        if self._is_closed:
            raise StoreUnavailable
        return not self._link.is_quiet()

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError):  # closed before, or so many have closed it that its buffer is full
            self._end.send(b"x")
        with self._receiving:
            if not self._is_inherited:
                self._link.close()
            self._ends.close()
            self._end.close()

    def renew_in_child(self) -> None:
        """The connection is the parent's. Here it is as if it was closed."""
        self._is_closed = self._is_inherited = True
        self._receiving = threading.Lock()
        # They are the child's own descriptors, but what is sent here would end a wait of the parent.
        self._ends.close()
        self._end.close()
        if not self._link.closed:
            postgresql_link.leave_to_parent([self._link])
