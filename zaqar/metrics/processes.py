# SPDX-License-Identifier: Apache-2.0
"""Reads from ``/proc`` what the processes of the service use. ``collector`` calls it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from zaqar.metrics.cells import Snapshot

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

_EARLIER_SECONDS = 1.0
"""How much later than its cells a process may seem to have begun. The kernel and this process round differently."""


class Usage(NamedTuple):
    """What a process uses. ``started`` is in seconds since the epoch."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int
    started: float


class Process(NamedTuple):
    """A running process of the service. ``worker`` is its number among those of the same part."""

    part: str
    worker: int
    usage: Usage


class WorkerNumbers:
    """Gives each process the lowest number that is free in its part, and keeps it while the process runs.

    A pid would make a new series for each process that ever ran.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}

    def assign(self, running: Iterable[Snapshot]) -> list[Process]:
        """The processes that run now. One that ends while it is read is left out."""
        # A process has a second file if it has begun to count anew.
        first = {(each.part, each.pid): each for each in sorted(running, key=lambda each: -each.started)}
        self._numbers = {key: number for key, number in self._numbers.items() if key in first}
        found = []
        for key, snapshot in sorted(first.items(), key=lambda item: item[1].started):
            usage = read_usage(snapshot.pid)
            # Folders that containers share may have the pid of a process in another container.
            if usage is not None and usage.started <= snapshot.started + _EARLIER_SECONDS:
                found.append(Process(snapshot.part, self._number_of(key), usage))
        return found

    def _number_of(self, key: tuple[str, int]) -> int:
        if key not in self._numbers:
            taken = {number for (part, _), number in self._numbers.items() if part == key[0]}
            self._numbers[key] = min(set(range(len(taken) + 1)) - taken)
        return self._numbers[key]


def read_usage(pid: int) -> Usage | None:
    """What the process uses; None if there is no such process, or if it belongs to another user."""
    try:
        # The name of the program, in brackets, may have spaces and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        open_files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208, names are wanted
    except OSError:
        return None
    user, system, started, pages = (int(fields[number]) for number in (11, 12, 19, 21))
    return Usage((user + system) / _TICKS, pages * _PAGE, open_files, round(_boot_time() + started / _TICKS, 2))


def _boot_time() -> float:
    """When the machine was started. It changes a little if the clock is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
