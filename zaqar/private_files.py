# SPDX-License-Identifier: Apache-2.0
"""Makes files and folders that only the user of the service can open, whatever the umask is.

They hold messages, signing secrets and passwords. Every file and folder that the service creates is created here. If it
existed before, its mode is corrected.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from zaqar.errors import StartupError

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_OTHERS = 0o077


def make_folder(folder: Path, *, ours: tuple[str, ...] = ()) -> str | None:
    """Make the folder and its missing parents, or close an existing folder to other users.

    ``ours`` are the names of the files that the service keeps in this folder. A folder that has entries, none of them
    in ``ours``, is not closed, because it may be a folder of the system. For such a folder, and for a sticky one like
    ``/tmp``, StartupError says what to do. A folder of another user stays as it is, and the returned sentence warns of
    it. Raises OSError.
    """
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        # Another process may make it at the same time.
        missing.mkdir(FOLDER_MODE, exist_ok=True)
        _set_mode(missing, FOLDER_MODE)
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not found.st_mode & _OTHERS:
        return None
    if found.st_mode & stat.S_ISVTX:
        raise StartupError(f"The folder {folder} is shared with other users; name one for this service alone.")
    if found.st_uid != os.geteuid():
        return f"The folder {folder} belongs to another user and is open to others; 'chmod 700' closes it."
    names = os.listdir(folder)  # noqa: PTH208, names are wanted
    if names and not set(names).intersection(ours):
        raise StartupError(
            f"The folder {folder} holds other files and is open to other users; name a folder for this service alone, "
            "or close it with 'chmod 700'."
        )
    _set_mode(folder, FOLDER_MODE)
    return None


def open_file(path: Path | str, flags: int = os.O_RDWR) -> int:
    """Open the file, make it if it is missing, and return its descriptor. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != FILE_MODE:
            os.fchmod(descriptor, FILE_MODE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create_file(path: Path | str) -> None:
    """Make the file if it is missing. An existing file is not opened. Raises OSError.

    If a process closes any descriptor of a file, it loses all its POSIX locks on that file (fcntl(2)), also the locks
    of SQLite.
    """
    # If the file exists, open_file() corrects its mode later.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def close_to_others(path: Path | str) -> None:
    """Close a file or socket that a library made to other users. Does nothing if it is missing or of another user."""
    try:
        found = os.stat(path)  # noqa: PTH116, the path may be a text
        if found.st_uid == os.geteuid() and found.st_mode & _OTHERS:
            _set_mode(path, FILE_MODE)
    except FileNotFoundError:
        return


def _set_mode(path: Path | str, mode: int) -> None:
    if stat.S_IMODE(os.stat(path).st_mode) != mode:  # noqa: PTH116
        os.chmod(path, mode)  # noqa: PTH101
