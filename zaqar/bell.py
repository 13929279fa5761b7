# SPDX-License-Identifier: Apache-2.0
"""The bell: tells the notifiers of this host that there is work, so that they need not wait for their next look.

Each running notifier has a Unix datagram socket in one folder; to ring is to send each an empty datagram. A ring that
is lost costs a second at most, as an idle notifier looks once a second by itself. So nothing here waits for anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from zaqar import private_files
from zaqar.errors import StartupError

_log = logging.getLogger(__name__)

LISTING_SECONDS = 1.0
"""How long the listing of the folder is remembered, and so how long a new notifier may not be rung for."""

_SUFFIX = ".sock"
_LONGEST_PATH = 107
"""Bytes of the path of a Unix socket on Linux (``sun_path`` in unix(7), without the zero at its end)."""

_LONGEST_NAME = 40


class Bell:
    """May be used by any number of threads, by greenlets, and by the children of a process that made it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._list_again = float("-inf")
        # One socket that belongs to nobody in particular: a datagram takes no state, so all may send by it at once.
        self._socket = _make_socket()
        weakref.finalize(self, self._socket.close)

    def ring(self) -> None:
        """Wake every notifier of this host. Never blocks and never fails: who is not reached looks by itself."""
        now = time.monotonic()
        if now >= self._list_again:
            self._names = _list(self._folder)
            self._list_again = now + LISTING_SECONDS
        if not self._names:
            return
        # The folder may have gone, or belong to another user.
        with contextlib.suppress(OSError), _short(self._folder) as folder:
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
    name = f"{os.getpid()}.{secrets.token_hex(4)}{_SUFFIX}"
    bound = _make_socket()
    try:
        private_files.make_folder(folder, ours=_list(folder))
        _remove_stale(folder)
        with _short(folder) as short:
            bound.bind(f"{short}/{name}")
            private_files.close_to_others(f"{short}/{name}")
    except (OSError, StartupError) as exc:
        bound.close()
        _log.warning("No bell in %s, so new work is found by looking once a second: %s", folder, exc)
        return None
    return Listener(bound, folder / name)


def _make_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _list(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(name for name in os.listdir(folder) if name.endswith(_SUFFIX))  # noqa: PTH208, names are wanted
    except OSError:
        return ()


def _remove_stale(folder: Path) -> None:
    with _short(folder) as short:
        for name in _list(folder):
            if not (folder / name).is_socket():
                continue
            with _make_socket() as probe:
                try:
                    probe.connect(f"{short}/{name}")
                except ConnectionRefusedError:
                    # Nobody has it open, and nobody can open it again.
                    (folder / name).unlink(missing_ok=True)
                except OSError as exc:
                    # Such as one that another notifier has just removed.
                    _log.debug("%s is left alone: %s", folder / name, exc)


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the folder that leaves room for a name, also where its own is longer than a socket's may be."""
    path = os.fspath(folder)
    if len(os.fsencode(path)) + 1 + _LONGEST_NAME <= _LONGEST_PATH:
        yield path
        return
    # What an open folder is called in /proc is short, whatever its own path is.
    opened = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)
