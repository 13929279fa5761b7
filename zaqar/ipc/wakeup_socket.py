# SPDX-License-Identifier: Apache-2.0
"""Wakes other processes of this host if there is work, so that they do not wait for their next poll.

Each process that can be woken has a Unix datagram socket in a folder; a wakeup is a datagram to each socket there. One
folder is for running notifiers, whose datagrams are empty. Another one is for processes in which clients wait for
messages, whose datagrams name the queue; see :mod:`zaqar.waiting.wakeups`. A lost wakeup delays the work by a second at
most, because each of these processes also polls once a second. So nothing here blocks.

The API processes and the waiting clients send wakeups, and notifiers and waiting clients receive them. So this belongs
neither to ``zaqar.notification`` nor to ``zaqar.waiting``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import weakref
from pathlib import Path

from zaqar.errors import StartupError
from zaqar.ipc import socket_files

_log = logging.getLogger(__name__)

LISTING_SECONDS = 1.0
"""How long the listing of the folder is cached, and so how long a new socket may get no wakeups."""

MOST_BYTES = 256
"""A longer datagram is cut."""


class WakeupSender:
    """Sends wakeups to the sockets of a folder.

    Any number of threads and greenlets may use it, and so may children of the process that made it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._list_again = float("-inf")
        # One unbound socket for all threads: sending a datagram changes no state of the socket.
        self._socket = socket_files.make(socket.SOCK_DGRAM)
        weakref.finalize(self, self._socket.close)

    def listeners(self) -> tuple[str, ...]:
        """Return the names of the sockets in the folder. The list may be LISTING_SECONDS old."""
        now = time.monotonic()
        if now >= self._list_again:
            self._names = socket_files.names(self._folder)
            self._list_again = now + LISTING_SECONDS
        return self._names

    def wake(self, datagram: bytes = b"", *, except_name: str | None = None) -> None:
        """Send a datagram to every socket of the folder, except the one named ``except_name``.

        It never blocks and never raises: a process that gets no wakeup finds the work at its next poll.
        """
        names = self.listeners()
        if not names or names == (except_name,):
            return
        # The folder may be missing, or belong to another user.
        with contextlib.suppress(OSError), socket_files.short_path(self._folder) as folder:
            for name in names:
                if name != except_name:
                    self._send(datagram, folder, name)

    def _send(self, datagram: bytes, folder: str, name: str) -> None:
        # If the buffer is full, the process has unread wakeups, so it will look for work anyway.
        with contextlib.suppress(OSError):
            try:
                self._socket.sendto(datagram, f"{folder}/{name}")
            except ConnectionRefusedError:
                socket_files.remove_dead(self._folder / name)


class WakeupSocket:
    """The socket by which one process is woken. ``fileno()`` is readable if a wakeup came since ``drain()``."""

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
        """Wait up to ``seconds`` for a datagram and return it, or None. Must not be used with an event loop."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(MOST_BYTES)
        except (BlockingIOError, TimeoutError):
            return None

    def drain(self) -> None:
        """Read and drop all wakeups in the buffer."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the socket in this process only. A parent or child that has it open keeps using it."""
        self._socket.close()


def open_wakeup_socket(folder: Path) -> WakeupSocket | None:
    """Open a socket in the folder, which is made if it is missing. Logs a warning and returns None if that fails.

    The sockets of killed processes in the folder are removed.
    """
    try:
        bound, path = socket_files.bind(folder, socket.SOCK_DGRAM)
    except (OSError, StartupError) as exc:
        _log.warning("No wakeup socket in %s, so new work is found by polling once a second: %s", folder, exc)
        return None
    return WakeupSocket(bound, path)
