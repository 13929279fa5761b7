# SPDX-License-Identifier: Apache-2.0
"""The bell: tells the notifiers of this host that there is work, so that they need not wait for their next look.

Each running notifier has a Unix datagram socket in one folder; to ring is to send each an empty datagram. A ring that
is lost costs a second at most, as an idle notifier looks once a second by itself. So nothing here waits for anything.
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
"""How long the listing of the folder is remembered, and so how long a new notifier may not be rung for."""


class Bell:
    """May be used by any number of threads, by greenlets, and by the children of a process that made it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._list_again = float("-inf")
        # One socket that belongs to nobody in particular: a datagram takes no state, so all may send by it at once.
        self._socket = socket_files.make(socket.SOCK_DGRAM)
        weakref.finalize(self, self._socket.close)

    def ring(self) -> None:
        """Wake every notifier of this host. Never blocks and never fails: who is not reached looks by itself."""
        now = time.monotonic()
        if now >= self._list_again:
            self._names = socket_files.names(self._folder)
            self._list_again = now + LISTING_SECONDS
        if not self._names:
            return
        # The folder may have gone, or belong to another user.
        with contextlib.suppress(OSError), socket_files.short(self._folder) as folder:
            for name in self._names:
                # One that has ended refuses; one that has not got round to the last rings is awake anyhow.
                with contextlib.suppress(OSError):
                    self._socket.sendto(b"", f"{folder}/{name}")


class Listener:
    """The socket of one notifier: ``fileno`` is readable when the bell was rung since ``drain``."""

    def __init__(self, bound: socket.socket, path: Path) -> None:
        self._socket = bound
        self._path = path

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Take all rings that are there."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def listen(folder: Path) -> Listener | None:
    """Be rung from now on, in a folder that is made where it is missing; None, with a warning, where that cannot be.

    What notifiers that were killed have left there is removed.
    """
    try:
        bound, path = socket_files.bind(folder, socket.SOCK_DGRAM)
    except (OSError, StartupError) as exc:
        _log.warning("No bell in %s, so new work is found by looking once a second: %s", folder, exc)
        return None
    return Listener(bound, path)
