# SPDX-License-Identifier: Apache-2.0
"""Reads the CPU time of running processes, to the nanosecond and without disturbing them. Linux only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

Usage = Mapping[int, float]
"""Process id -> seconds of CPU that the process has used, in user and system mode, by all its threads."""

_PROC = Path("/proc")


def read_usage(roots: Iterable[int]) -> Usage:
    """The CPU time that these processes and all their descendants have used so far."""
    usage = {}
    for pid in tree(roots):
        try:
            usage[pid] = time.clock_gettime(_cpu_clock(pid))
        except OSError:
            # The process ended after it was listed and before its time was read.
            continue
    return usage


def spent(before: Usage, after: Usage) -> float:
    """Seconds used between two readings. Processes that ended in between are left out."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def tree(roots: Iterable[int]) -> set[int]:
    """The ids of those processes, and of their descendants, that are running."""
    parents = _parents()
    found = {pid for pid in roots if pid in parents}
    reached = found
    while reached := {pid for pid, parent in parents.items() if parent in reached} - found:
        found |= reached
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            # The name of the process stands in brackets, and may itself have brackets and spaces (proc(5)).
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _cpu_clock(pid: int) -> int:
    # The same id as clock_getcpuclockid(3) returns on Linux: the complement of the pid, then the bits for "whole
    # process" and "scheduler's clock". /proc/<pid>/stat has the same figure, but in ticks of 10 ms.
    return ~pid << 3 | 2
