# SPDX-License-Identifier: Apache-2.0
"""The turn to write: a lock for the threads of one process, and a lock file beside the database for processes.

SQLite lets one transaction write at a time, and its own waiting is unfair: a process that writes without a pause keeps
others out for seconds. A blocking ``flock`` on a file would be fair, but it has no time limit, and its holder may be a
process that was stopped. So this one polls ``flock``, for a limited time.

Polling alone favours the process that has just released the lock. Therefore a waiting process writes the time into the
lock file every millisecond or so, and a process that has written for ``LONGEST_RUN`` without a pause reads that time
and sleeps once if another one waits. Only fairness depends on it: SQLite's own lock keeps two transactions from writing
at once, whatever the lock file says.

``WriteTransaction`` acquires and releases the turn. Decision 0005 has the measurements.
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

TRY_LOCK = fcntl.LOCK_EX | fcntl.LOCK_NB

NEW_RUN_AFTER = 0.001
"""Seconds after its last write from which on a process counts as having paused, so that a new run of writes begins."""

LONGEST_RUN = 0.002
"""Seconds that a process writes without a pause before it lets waiting processes go first."""

YIELD_SECONDS = 0.0005
"""Seconds that it sleeps for them. That is longer than the first sleeps of a waiting process."""

WAITER_FRESH = 0.005
"""Seconds for which the time in the lock file says that a process waits. A waiting process renews it more often."""

BLOCKED_PATIENCE = 0.2
"""Seconds that a write waits if an earlier one waited in vain and none has had its turn since."""

_FIRST_SLEEP, _LONGEST_SLEEP = 0.00005, 0.001

WAITER_TIME = struct.Struct("d")
"""The content of the lock file: when a process last waited, by ``time.monotonic``, which all processes share."""


class WriteTurn:
    """The lock of this process and, if the database has a path, the one between processes.

    The order is ``threads`` first, then the lock file, then SQLite's own lock. ``WriteTransaction`` has the path of an
    acquisition without contention in line, because each request takes it; the rest is here.
    """

    def __init__(self, path: str | None, *, patience: float) -> None:
        self.patience = patience
        """Seconds that a write waits at most."""
        self.threads = threading.Lock()
        self.lock_file: int | None = None
        """The descriptor of the lock file; None in memory. Only the holder of ``threads`` locks it."""
        self.waiter_time: mmap.mmap | bytearray = bytearray(WAITER_TIME.size)
        self.run_began = 0.0
        """When this process began to write without a pause."""
        self.last_write = 0.0
        """When this process last ended its turn."""
        self.is_blocked = False
        """Whether a write of this process waited in vain, and none has had a turn since."""
        self._path = path
        self._open()

    def _open(self) -> None:
        if self._path is None:
            return
        self.lock_file = private_files.open_file(self._path)
        if os.fstat(self.lock_file).st_size < WAITER_TIME.size:
            os.ftruncate(self.lock_file, WAITER_TIME.size)
        # Map a second open file, not the one that is locked: mmap keeps a duplicate of its descriptor. A forked child
        # would inherit the duplicate, and the lock would not end when the parent dies.
        mapped = private_files.open_file(self._path)
        try:
            self.waiter_time = mmap.mmap(mapped, WAITER_TIME.size)
        finally:
            os.close(mapped)

    def wait(self, lock_file: int, deadline: float) -> None:
        """Lock the file, or raise StoreUnavailable at the deadline, a time of ``time.monotonic``."""
        sleep = _FIRST_SLEEP
        while (now := time.monotonic()) < deadline:
            # Several waiting processes overwrite each other's time. That is fine: it only says that one waits.
            WAITER_TIME.pack_into(self.waiter_time, 0, now)
            time.sleep(sleep)
            sleep = min(sleep * 1.5, _LONGEST_SLEEP)
            try:
                fcntl.flock(lock_file, TRY_LOCK)
            except BlockingIOError:
                continue
            self.run_began = time.monotonic()
            return
        raise StoreUnavailable

    def renew_in_child(self) -> None:
        """Give a forked child locks of its own.

        ``flock`` belongs to the open file, which parent and child share: if the child unlocked the inherited file, it
        would end a turn of the parent. Closing it does not, because the parent has it open as well.
        """
        self.threads = threading.Lock()
        self.last_write = self.run_began = 0.0
        self.is_blocked = False
        inherited = self.lock_file
        self._open()
        if inherited is not None:
            os.close(inherited)

    def close(self) -> None:
        if self.lock_file is not None:
            os.close(self.lock_file)
            self.lock_file = None
