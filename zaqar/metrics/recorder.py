# SPDX-License-Identifier: Apache-2.0
"""Counts what a process does. Every part of the service that counts something has the same :class:`Recorder`.

If metrics are off, there is no recorder: the parts that count are not installed, so they cost nothing.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from zaqar.errors import StartupError
from zaqar.metrics.cells import CellFile
from zaqar.metrics.families import Counter, Family, Gauge, Histogram
from zaqar.metrics.retirement import retire_if_many

_log = logging.getLogger(__name__)

Labels = tuple[str, ...]

_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
"""All recorders of this process. A reload makes another one."""

Source = Callable[["Recorder"], object]
"""Sets the gauges of something that is not counted as it changes, such as the connections of a store."""

SAMPLE_SECONDS = 5.0
"""Time between two calls of the sources."""


class Recorder:
    """Counts into the cells of this process. Threads and greenlets may share it, and it may be made before a fork.

    The file is made at the first count, so each child of a fork makes its own. A process that cannot make its file logs
    one warning, and goes on without counting.
    """

    def __init__(self, folder: Path, part: str) -> None:
        """``folder`` is that of all files of cells of this host. ``part`` is the kind of the process, such as "api"."""
        self._folder = folder
        self._part = part
        self._file: CellFile | None = None
        self.cells: memoryview[float] | list[float] = []
        """The cells of this process. Another object after a fork and after ``close``; see :meth:`series`."""
        self._index: dict[tuple[Family, Labels], int] = {}
        # A lock of the interpreter, which gevent does not replace: no greenlet is switched while it is held. It is
        # reentrant, because a signal handler may count, too.
        self._lock = _thread.RLock()
        self._end_of_process: weakref.finalize[[CellFile], Recorder] | None = None
        _recorders.add(self)
        self._sources: dict[object, Source] = {}
        self._ended = threading.Event()
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(reference))

    def series(self, family: Family, labels: Labels = ()) -> int:
        """The first cell of a series; 0 if it cannot be counted, and then no cell may be written.

        PERF: code on the hot path writes ``cells`` itself, and remembers this number as long as ``cells`` is the same
        object. That saves most of the time of a call of :meth:`add` or :meth:`observe`.
        """
        index = self._index.get((family, labels))
        return self._begin(family, labels) if index is None else index

    def add(self, family: Counter | Gauge, labels: Labels = (), amount: float = 1.0) -> None:
        """Add ``amount`` to a counter, to which it may not be negative, or to a gauge."""
        # PERF: an exception costs only for the first count of a series.
        try:
            index = self._index[family, labels]
        except KeyError:
            index = self._begin(family, labels)
        # No lock: with its global lock, CPython changes threads, and runs signal handlers, only at calls of functions
        # and at jumps back (the "eval breaker"), so not between the read and the write of this statement. A test with
        # threads that are switched as often as possible shows it.
        self.cells[index] += amount

    def set(self, family: Gauge, labels: Labels, value: float) -> None:
        """Set a gauge of this process."""
        index = self._index.get((family, labels))
        if index is None:
            # Before the look at the cells, which the first count of the process makes.
            index = self._begin(family, labels)
        self.cells[index] = value

    def observe(self, family: Histogram, labels: Labels, value: float) -> None:
        """Count a value in its bucket."""
        buckets = family.buckets
        try:
            first = self._index[family, labels]
        except KeyError:
            first = self._begin(family, labels)
        if first:
            bucket, cells = first + bisect_left(buckets, value), self.cells
            cells[bucket] += 1.0
            cells[first + len(buckets) + 1] += value

    def add_source(self, source: Source, *, key: object = None) -> None:
        """Have ``source`` called every SAMPLE_SECONDS, in a thread of its own, once this process counts anything.

        It replaces the source with the same ``key``, by default ``source`` itself. So a store that is opened again, or
        a configuration that is read again, adds no further source of the same gauges.
        """
        self._sources[source if key is None else key] = source

    def sample(self) -> None:
        """Call all sources now. An error of one is logged and keeps no other from being called."""
        for source in list(self._sources.values()):
            try:
                source(self)
            except Exception:  # noqa: BLE001, the log has it
                _log.exception("Gauges of the metrics cannot be read.")

    def beat(self) -> None:
        """Note that the process is alive. Called every few seconds by the loop whose standstill would be a failure."""
        with self._lock:
            self._open()
            if self._file is not None:
                self._file.beat(time.time())

    def close(self) -> None:
        """Let go of the file. What was counted stays; the next count begins a new file.

        The end of the process counts as a failure if an exception is ending it.
        """
        if not isinstance(sys.exception(), Exception):
            self.note_end()
        self._ended.set()
        self._ended = threading.Event()
        self._forget_file()

    def note_end(self) -> None:
        """Note that the process ends because it was told to. The interpreter does that by itself when it exits."""
        if self._end_of_process is not None:
            self._end_of_process()

    def note_failure(self) -> None:
        """Let the end of the process count as a failure, even if the interpreter exits normally."""
        if self._end_of_process is not None:
            self._end_of_process.detach()

    def _begin(self, family: Family, labels: Labels) -> int:
        with self._lock:
            index = self._index.get((family, labels))
            if index is None:
                self._open()
                index = 0 if self._file is None else self._file.add(family, labels)
                self._index[family, labels] = index
            return index

    def _open(self) -> None:
        if self.cells:
            # It was tried before, and has failed.
            return
        try:
            # Hosts without a sweeper or notifier have no other process that does this.
            retire_if_many(self._folder)
            self._file = CellFile(self._folder, self._part, now=time.time())
        except (OSError, StartupError) as exc:
            _log.warning("This process is missing in the metrics, because it cannot write to %s: %s", self._folder, exc)
            self.cells = [0.0]
        else:
            self.cells = self._file.cells
            # At the end of the interpreter, too. The file stays open then, because other threads may still count.
            self._end_of_process = weakref.finalize(self, _end, self._file)
            _note_end_of_multiprocessing()
            # With gevent's patches this is a greenlet.
            threading.Thread(
                target=_sample_all_the_time, args=(weakref.ref(self), self._ended), name="metrics", daemon=True
            ).start()

    def forget_parent(self) -> None:
        """Begin anew in the child of a fork, whose parent goes on with its file."""
        # Another thread of the parent may have held the lock at the moment of the fork. The child has no such thread.
        self._lock = _thread.RLock()
        self._ended = threading.Event()
        self._forget_file()

    def _forget_file(self) -> None:
        file, self._file, self.cells, self._index = self._file, None, [], {}
        # In the child of a fork, so that it does not end the file of its parent.
        self.note_failure()
        if file is not None:
            file.leave()


def note_end_of_process() -> None:
    """Call :meth:`Recorder.note_end` of all recorders. Needed before os._exit()."""
    for recorder in list(_recorders):
        recorder.note_end()


def note_failure_of_process() -> None:
    """Call :meth:`Recorder.note_failure` of all recorders."""
    for recorder in list(_recorders):
        recorder.note_failure()


def _note_end_of_multiprocessing() -> None:
    """In a process of multiprocessing, such as a worker of granian, the exit handlers of the interpreter do not run."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, note_end_of_process, exitpriority=0)


def _end(file: CellFile) -> None:
    file.end(time.time())


def _forget(reference: weakref.ref[Recorder]) -> None:
    recorder = reference()
    if recorder is not None:
        recorder.forget_parent()


def _sample_all_the_time(reference: weakref.ref[Recorder], ended: threading.Event) -> None:
    """Sample until the recorder is closed or gone."""
    while not ended.wait(SAMPLE_SECONDS):
        recorder = reference()
        if recorder is None:
            return
        recorder.sample()
        del recorder
