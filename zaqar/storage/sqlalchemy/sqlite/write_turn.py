# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to write: threads of one process by a lock, processes by a lock file beside the database.

SQLite lets one transaction write at a time, and its own waiting is unfair: a process that writes on and on keeps others
out for seconds. A blocking ``flock`` on a file would be fair but has no limit, and its holder may be a process that was
stopped; so this one polls, for a limited time.

Polling alone favours who has just released the lock. Therefore who waits leaves the time in the lock file, and who has
gone on for ``_TENURE`` without a pause looks there and lets others pass. Only speed depends on that time, never safety:
that is SQLite's own lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time

from zaqar import private_files
from zaqar.errors import StoreUnavailable

LOCK_AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB

PAUSE = 0.001
TENURE = 0.002
NAP = 0.0005
FRESH = 0.005
"""Seconds for which a note counts; who waits renews it before each sleep."""

BRIEF = 0.2
"""Seconds that a write waits if others waited in vain and nobody has had a turn since."""

_FIRST_SLEEP, _LONGEST_SLEEP = 0.00005, 0.001

NOTE = struct.Struct("d")


class WriteTurn:
    """The lock of this process and, with a path, the one between processes.

    ``Writer`` takes and gives it, as it is on the path of every request; here is what takes longer.
    """

    def __init__(self, path: str | None, *, patience: float) -> None:
        self.patience = patience
        """Seconds that anybody waits at most."""
        self.threads = threading.Lock()
        self.descriptor: int | None = None
        """The lock file, taken after ``threads``."""
        self.notes: mmap.mmap | bytearray = bytearray(NOTE.size)
        self.since = 0.0
        """When this process began to write without a pause."""
        self.ended = 0.0
        """When it last gave its turn."""
        self.is_blocked = False
        """Whether a write of this process waited in vain, and none has had a turn since."""
        self._path = path
        self._open()

    def _open(self) -> None:
        if self._path is None:
            return
        self.descriptor = private_files.open_file(self._path)
        if os.fstat(self.descriptor).st_size < NOTE.size:
            os.ftruncate(self.descriptor, NOTE.size)
        # Of another open file than the locked one: mmap keeps a duplicate, which a forked child would inherit, and with
        # it a lock that does not end when the parent dies.
        other = private_files.open_file(self._path)
        try:
            self.notes = mmap.mmap(other, NOTE.size)
        finally:
            os.close(other)

    def wait(self, descriptor: int, deadline: float) -> None:
        """Lock the file, or raise StoreUnavailable when the deadline (``time.monotonic``) has passed."""
        sleep = _FIRST_SLEEP
        while (now := time.monotonic()) < deadline:
            NOTE.pack_into(self.notes, 0, now)
            time.sleep(sleep)
            sleep = min(sleep * 1.5, _LONGEST_SLEEP)
            try:
                fcntl.flock(descriptor, LOCK_AT_ONCE)
            except BlockingIOError:
                continue
            self.since = time.monotonic()
            return
        raise StoreUnavailable

    def renew_in_child(self) -> None:
        """After a fork: a new lock, and a file of its own, as a lock on the inherited one would be the parent's."""
        self.threads = threading.Lock()
        self.ended = self.since = 0.0
        self.is_blocked = False
        inherited = self.descriptor
        self._open()
        if inherited is not None:
            os.close(inherited)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
