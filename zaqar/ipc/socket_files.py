# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of running processes in a folder that only this user may open.

``wakeup_socket`` and ``zaqar-websocket`` make them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from zaqar import private_files

_log = logging.getLogger(__name__)

_SUFFIX = ".sock"
_MAX_PATH_LENGTH = 107
"""Bytes of the path of a Unix socket on Linux (``sun_path`` in unix(7), without the zero at its end)."""

_MAX_NAME_LENGTH = 40


def bind(folder: Path, kind: socket.SocketKind) -> tuple[socket.socket, Path]:
    """Make a socket with a unique name in the folder. Returns the socket and its path. Only this user may open both.

    The folder is made if it is missing, and the sockets of killed processes in it are removed. Raises OSError, and
    StartupError like ``make_folder``.
    """
    name = f"{os.getpid()}.{secrets.token_hex(4)}{_SUFFIX}"
    bound = make(kind)
    try:
        private_files.make_folder(folder, ours=names(folder))
        _remove_stale(folder, kind)
        with short_path(folder) as path:
            bound.bind(f"{path}/{name}")
            private_files.close_to_others(f"{path}/{name}")
    except BaseException:
        bound.close()
        raise
    return bound, folder / name


def make(kind: socket.SocketKind) -> socket.socket:
    """Make a Unix socket that does not block."""
    made = socket.socket(socket.AF_UNIX, kind)
    made.setblocking(False)
    return made


def names(folder: Path) -> tuple[str, ...]:
    """Return the names of the sockets in the folder; none if it cannot be read."""
    try:
        return tuple(name for name in os.listdir(folder) if name.endswith(_SUFFIX))  # noqa: PTH208, names are wanted
    except OSError:
        return ()


def remove_dead(path: Path) -> None:
    """Remove a socket that refused a connection: no process has it open, and no process can open it again."""
    # A file that is not a socket refuses connections as well.
    if path.is_socket():
        path.unlink(missing_ok=True)


def _remove_stale(folder: Path, kind: socket.SocketKind) -> None:
    with short_path(folder) as path:
        for name in names(folder):
            if not (folder / name).is_socket():
                continue
            with make(kind) as probe:
                try:
                    probe.connect(f"{path}/{name}")
                except ConnectionRefusedError:
                    remove_dead(folder / name)
                except OSError as exc:
                    # Another process may have removed it in the meantime.
                    _log.debug("%s is left alone: %s", folder / name, exc)


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Give a path of the folder that is short enough for a socket, even if the folder's own path is too long."""
    path = os.fspath(folder)
    if len(os.fsencode(path)) + 1 + _MAX_NAME_LENGTH <= _MAX_PATH_LENGTH:
        yield path
        return
    # The path of an open folder in /proc is always short.
    opened = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)
