# SPDX-License-Identifier: Apache-2.0
"""Adds up what all processes of this host have counted, and merges the files of those that are over into one.

``collector`` reads with :func:`read_all`. ``exporter`` calls :func:`retire` every few seconds, and a process that finds
many files calls it, too, when it begins to count.

``retired.json`` has the counters and histograms of the merged files, and their names. It is replaced by a rename, and
only then are the files removed. A file that it names counts as merged even if it is still there, so a crash at any
moment neither loses a count nor counts twice. Gauges end with their process.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zaqar import private_files
from zaqar.metrics.cells import SUFFIX, ReadableCells, Snapshot
from zaqar.metrics.families import Families, Family, Gauge

_log = logging.getLogger(__name__)

RETIRED = "retired.json"

_LOCK = "retired.lock"
_MOST_AT_ONCE = 256
"""Files that are merged in one step. Each of them is open meanwhile."""

_MANY = 100

_ABANDONED_SECONDS = 60.0
"""Age at which a file that got no name belongs to a process that was killed while it made the file."""

_ATTEMPTS = 20

Labels = tuple[str, ...]


@dataclass(slots=True)
class Totals:
    """Sums over processes. ``failures`` is the number of processes that have ended without being told to, by part."""

    series: dict[tuple[Family, Labels], list[float]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, snapshot: Snapshot, *, is_over: bool) -> None:
        """Add what a process has counted; of a process that is over, everything but its gauges."""
        for family, labels, cells in snapshot.series:
            if not (is_over and isinstance(family, Gauge)):
                self._add_series(family, labels, cells)
        self.failures.setdefault(snapshot.part, 0)
        if is_over and not snapshot.ended:
            self.failures[snapshot.part] += 1

    def _add_series(self, family: Family, labels: Labels, cells: tuple[float, ...]) -> None:
        present = self.series.setdefault((family, labels), [0.0] * family.size)
        for index, value in enumerate(cells):
            present[index] += value


class Everything(NamedTuple):
    """What all processes of this host have counted, and the state of those that run."""

    totals: Totals
    running: list[Snapshot]


class _Retired(NamedTuple):
    totals: Totals
    merged: frozenset[str]


def read_all(folder: Path) -> Everything:
    """Add up the files of all processes and the merged ones. Needs no lock. Raises OSError."""
    for _ in range(_ATTEMPTS):
        before = _version_of(folder)
        # A file may be merged and removed after it was listed. The merged counts have changed before that, so read
        # everything again.
        with suppress(FileNotFoundError):
            everything = _read_once(folder)
            if _version_of(folder) == before:
                return everything
    raise OSError(f"The files in {folder} changed at each attempt to read them.")


def retire(folder: Path) -> None:
    """Merge the files of processes that are over. Does nothing while another process does that.

    Raises OSError, and StartupError if the folder is open to other users.
    """
    with _locked(folder) as is_locked:
        if is_locked:
            _remove_abandoned(folder)
            while _merge_some(folder):
                pass


def retire_if_many(folder: Path) -> None:
    """Call :func:`retire` if there are so many files that no exporter can be running on this host. Raises OSError."""
    if len(_files(folder)) > _MANY:
        retire(folder)


def _read_once(folder: Path) -> Everything:
    totals, merged = _load(folder)
    running = []
    for path in _files(folder):
        if path.name in merged:
            continue
        with ReadableCells(path) as file:
            is_over = file.is_over()
            snapshot = file.read()
        if snapshot is not None:
            totals.add(snapshot, is_over=is_over)
            if not is_over:
                running.append(snapshot)
    return Everything(totals, running)


def _version_of(folder: Path) -> tuple[int, int] | None:
    try:
        found = (folder / RETIRED).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _merge_some(folder: Path) -> bool:
    """Merge up to _MOST_AT_ONCE files. Returns whether there were any. The caller holds the lock."""
    totals, merged = _load(folder)
    present = _files(folder)
    for path in present:
        if path.name in merged:
            # The last process that merged was killed before it removed this file.
            path.unlink()
    with ExitStack() as stack:
        over: list[Path] = []
        for path in present:
            if path.name in merged or len(over) == _MOST_AT_ONCE:
                continue
            file = ReadableCells(path)
            stack.enter_context(file)
            if not file.is_over():
                continue
            # The file cannot change any more. Another version of the service may have written it in another form;
            # such counts are lost.
            snapshot = file.read()
            if snapshot is not None:
                totals.add(snapshot, is_over=True)
            over.append(path)
        if over:
            _store(folder, _Retired(totals, frozenset(path.name for path in over)))
            for path in over:
                path.unlink()
    return bool(over)


def _load(folder: Path) -> _Retired:
    """The merged counts. Families that this version of the service does not know are left out."""
    totals = Totals()
    try:
        found: Mapping[str, Any] = json.loads((folder / RETIRED).read_bytes())
    except FileNotFoundError:
        return _Retired(totals, frozenset())
    except ValueError:
        # A disk fault, or an editor. Counters begin again at zero, which Prometheus takes for a restart.
        _log.warning("%s is damaged; what processes that are over have counted is lost.", folder / RETIRED)
        return _Retired(totals, frozenset())
    for name, labels, cells in found["series"]:
        family = Families.by_name.get(name)
        if family is not None and len(cells) == family.size and len(labels) == len(family.labels):
            totals.series[family, tuple(labels)] = cells
    totals.failures.update(found["failures"])
    return _Retired(totals, frozenset(found["merged"]))


def _store(folder: Path, retired: _Retired) -> None:
    content = {
        "merged": sorted(retired.merged),
        "failures": retired.totals.failures,
        "series": [[family.name, labels, cells] for (family, labels), cells in retired.totals.series.items()],
    }
    temporary = folder / f"{RETIRED}.new"
    with os.fdopen(private_files.open_file(temporary, os.O_WRONLY | os.O_TRUNC), "w") as file:
        json.dump(content, file)
        file.flush()
        # Otherwise the rename may reach the disk before the content, and a power cut would leave an empty file.
        os.fsync(file.fileno())
    temporary.rename(folder / RETIRED)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob("*.new"):
        # Its process may rename or remove it at this moment.
        with suppress(FileNotFoundError):
            if path.name != f"{RETIRED}.new" and time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of those that merge, if no process holds it. The kernel releases it when a process is killed."""
    private_files.make_folder(folder)
    descriptor = private_files.open_file(folder / _LOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
