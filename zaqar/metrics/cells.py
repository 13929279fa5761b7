# SPDX-License-Identifier: Apache-2.0
"""The file of cells in which one process counts, and how other processes read it.

The file is mapped into the memory of the process. It has a header, a directory of the series in the order in which the
process began to count them, and the cells, which are 64-bit floats. A series has as many cells as its family needs, and
the cells lie in the order of the directory. Cell 0 belongs to no series: it takes what the file has no room for.

The kernel keeps what was written to the mapping if the process is killed. A reader may see a series that is some
additions behind, but never one that does not exist: the process writes the name of a series first, and then the new
length of the directory.

The process holds a lock on its file (flock) until it ends, for whatever reason. A reader that gets the lock knows that
the process is over. A pid would not tell that, because pids are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from zaqar import private_files
from zaqar.metrics.families import Families, Family

SUFFIX = ".cells"

_MAGIC = b"zaqar cells 1\n\0\0"
_HEADER = struct.Struct("16sQddQd")
"""Magic, pid, start and heartbeat of the process, length of the directory in bytes, and the end of the process.

Times are in seconds since the epoch. The end is 0 unless the process has ended because it was told to.
"""
_HEARTBEAT = struct.calcsize("16sQd")
_LENGTH = struct.calcsize("16sQdd")
_ENDED = struct.calcsize("16sQddQ")
_DIRECTORY = 4096
_CELLS = _DIRECTORY + 128 * 1024
_SIZE = _CELLS + 256 * 1024
"""Offsets of the directory and the cells, and the size of the file."""

_MOST_CELLS = (_SIZE - _CELLS) // 8
_NO_ROOM = 0


class Series(NamedTuple):
    """The cells of one family with one value for each of its labels."""

    family: Family
    labels: tuple[str, ...]
    cells: tuple[float, ...]


class Snapshot(NamedTuple):
    """What a process has counted so far. Times are in seconds since the epoch.

    ``ended`` is 0 while the process runs, and stays 0 if it is killed or fails.
    """

    name: str
    part: str
    pid: int
    started: float
    heartbeat: float
    ended: float
    series: list[Series]


class CellFile:
    """The cells of this process. One thread at a time may call :meth:`add`; the caller holds a lock for that."""

    def __init__(self, folder: Path, part: str, *, now: float) -> None:
        """Make the file. ``part`` is the kind of the process, such as "api". Raises OSError and StartupError."""
        private_files.make_folder(folder)
        self.path = folder / f"{part}.{os.getpid()}.{secrets.token_hex(4)}{SUFFIX}"
        # The file gets its name only when it is locked, so that no reader takes it for that of a process that is over.
        temporary = self.path.with_suffix(".new")
        descriptor = private_files.open_file(temporary)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # All pages now: on a full disk the first write to a page without a place would end the process (SIGBUS).
            os.posix_fallocate(descriptor, 0, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        except OSError:
            temporary.unlink()
            raise
        finally:
            # The lock belongs to the open file, and the map keeps that open by a copy of the descriptor. So the lock
            # ends with the map, also without a call of leave().
            os.close(descriptor)
        _HEADER.pack_into(self._map, 0, _MAGIC, os.getpid(), now, now, 0, 0.0)
        temporary.rename(self.path)
        self.cells: memoryview[float] = memoryview(self._map)[_CELLS:_SIZE].cast("d")
        self._length = 0
        self._next = 1

    def add(self, family: Family, labels: tuple[str, ...]) -> int:
        """Begin a series, and return the number of its first cell; 0 if the file has no room for it."""
        entry = json.dumps([family.name, *labels]).encode() + b"\n"
        end = self._length + len(entry)
        if self._next + family.size > _MOST_CELLS or _DIRECTORY + end > _CELLS:
            return _NO_ROOM
        first, self._next = self._next, self._next + family.size
        self._map[_DIRECTORY + self._length : _DIRECTORY + end] = entry
        # Last, because a reader trusts this length.
        struct.pack_into("Q", self._map, _LENGTH, end)
        self._length = end
        return first

    def beat(self, now: float) -> None:
        """Note that the process was alive at ``now``."""
        struct.pack_into("d", self._map, _HEARTBEAT, now)

    def end(self, now: float) -> None:
        """Note that the process ends at ``now`` because it was told to. Otherwise its end counts as a failure."""
        struct.pack_into("d", self._map, _ENDED, now)

    def leave(self) -> None:
        """Close the file. If this is the child of a fork, its parent keeps the lock and goes on with the file."""
        self.cells.release()
        self._map.close()


class ReadableCells:
    """The file of another process, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if there is no such file any more."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def is_over(self) -> bool:
        """Whether the process has ended. If so, this object has the lock until it is closed."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def read(self) -> Snapshot | None:
        """Read all series. None if the file is not one of this version of the service."""
        content = os.pread(self._descriptor, _SIZE, 0)
        if len(content) < _SIZE or not content.startswith(_MAGIC):
            return None
        _, pid, started, heartbeat, length, ended = _HEADER.unpack_from(content)
        directory = content[_DIRECTORY : _DIRECTORY + length]
        cells: memoryview[float] = memoryview(content)[_CELLS:_SIZE].cast("d")
        return Snapshot(
            self.path.name,
            self.path.name.partition(".")[0],
            pid,
            started,
            heartbeat,
            ended,
            list(_series_of(directory, cells)),
        )


def _series_of(directory: bytes, cells: memoryview[float]) -> Iterator[Series]:
    first = 1
    for line in directory.splitlines():
        name, *labels = json.loads(line)
        family = Families.by_name.get(name)
        if family is None:
            # Another version of the service wrote the file, and the sizes of its families are unknown.
            return
        yield Series(family, tuple(labels), tuple(cells[first : first + family.size]))
        first += family.size
