# SPDX-License-Identifier: Apache-2.0
"""The bell: tells processes of this host that there is work, so that they need not wait for their next look.

Each process that listens has a Unix datagram socket in one folder; to ring is to send each a datagram. There is a
folder for running notifiers, whose datagrams are empty, and one for processes in which clients wait for messages, whose
datagrams say for which queue; see :mod:`zaqar.waiting.wakeups`. A ring that is lost costs a second at most, as each of
these processes looks once a second by itself. So nothing here waits for anything.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import weakref
from pathlib import Path

from zaqar import socket_files
from zaqar.errors import StartupError

_log = logging.getLogger(__name__)

LISTING_SECONDS = 1.0
"""How long the listing of the folder is remembered, and so how long a new listener may not be rung for."""

MOST_BYTES = 256
"""A longer datagram is cut."""


class Bell:
    """May be used by any number of threads, by greenlets, and by the children of a process that made it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._list_again = float("-inf")
        # One socket that belongs to nobody in particular: a datagram takes no state, so all may send by it at once.
        self._socket = socket_files.make(socket.SOCK_DGRAM)
        weakref.finalize(self, self._socket.close)

    def listeners(self) -> tuple[str, ...]:
        """The names of the sockets in the folder, as they were a second ago at most."""
        now = time.monotonic()
        if now >= self._list_again:
            self._names = socket_files.names(self._folder)
            self._list_again = now + LISTING_SECONDS
        return self._names

    def ring(self, datagram: bytes = b"", *, but: str | None = None) -> None:
        """Send to every listener of this host, except the one whose socket is named ``but``.

        Never blocks and never fails: a process that is not reached looks by itself.
        """
        names = self.listeners()
        if not names or names == (but,):
            return
        # The folder may have gone, or belong to another user.
        with contextlib.suppress(OSError), socket_files.short(self._folder) as folder:
            for name in names:
                if name != but:
                    self._send(datagram, folder, name)

    def _send(self, datagram: bytes, folder: str, name: str) -> None:
        # A process that has not got round to the last rings is awake anyhow.
        with contextlib.suppress(OSError):
            try:
                self._socket.sendto(datagram, f"{folder}/{name}")
            except ConnectionRefusedError:
                socket_files.remove_dead(self._folder / name)


class Listener:
    """The socket of one process: ``fileno`` is readable when the bell was rung since ``drain``."""

    def __init__(self, bound: socket.socket, path: Path) -> None:
        self._socket = bound
        self._path = path

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def name(self) -> str:
        """The name of the socket in its folder."""
        return self._path.name

    def receive(self, seconds: float) -> bytes | None:
        """The next datagram; waits up to ``seconds`` for it. None if there is none. Not together with an event loop."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(MOST_BYTES)
        except (BlockingIOError, TimeoutError):
            return None

    def drain(self) -> None:
        """Take all rings that are there."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the socket in this process; another one that has it open goes on with it."""
        self._socket.close()


def listen(folder: Path) -> Listener | None:
    """Be rung from now on, in a folder that is made if it is missing; None, with a warning, if that cannot be.

    The sockets of killed processes in the folder are removed.
    """
    try:
        bound, path = socket_files.bind(folder, socket.SOCK_DGRAM)
    except (OSError, StartupError) as exc:
        _log.warning("No bell in %s, so new work is found by looking once a second: %s", folder, exc)
        return None
    return Listener(bound, path)
