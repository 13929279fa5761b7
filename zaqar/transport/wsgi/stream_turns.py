# SPDX-License-Identifier: Apache-2.0
"""Makes the streams of a worker take turns, so that hundreds of them do not delay other requests."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from weakref import WeakValueDictionary

MAX_READS = 4
"""How many streams of a project may read at a time in a worker. Their results may arrive at the same moment."""


class StreamTurns:
    """Lets one stream of a worker work at a time, after all other greenlets have had their turn.

    gevent runs all greenlets that can run before it looks at connections again. Because only one stream can run, a
    request waits for the work of at most one stream.
    """

    def __init__(self, pause: Callable[[], None] = lambda: time.sleep(0)) -> None:
        """``pause`` returns after all other greenlets that can run have run."""
        self._pause = pause
        self._lock = threading.Lock()
        self._is_taken = False
        self._lines: OrderedDict[str, deque[threading.Event]] = OrderedDict()
        self._reads: WeakValueDictionary[str, threading.Semaphore] = WeakValueDictionary()

    def reads(self, project: str) -> threading.Semaphore:
        """The semaphore that a stream must hold while it reads. All streams of a project share it."""
        with self._lock:
            found = self._reads.get(project)
            if found is None:
                found = self._reads[project] = threading.Semaphore(MAX_READS)
            return found

    def wait(self, project: str) -> None:
        """Return when a stream of the project may work: read once, or write one piece. Projects take turns."""
        turn = self._take_or_queue(project)
        try:
            if turn is not None:
                turn.wait()
            self._pause()
        finally:
            # Pass the turn on before the stream works, because its work may wait for a store or for a slow client. If
            # the greenlet was killed while it waited, it may still be in the line without the turn.
            if turn is None or not self._leave(project, turn):
                self._pass_on()

    def _take_or_queue(self, project: str) -> threading.Event | None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return None
            turn = threading.Event()
            self._lines.setdefault(project, deque()).append(turn)
            return turn

    def _pass_on(self) -> None:
        with self._lock:
            if not self._lines:
                self._is_taken = False
                return
            project, line = self._lines.popitem(last=False)
            line.popleft().set()
            if line:
                self._lines[project] = line

    def _leave(self, project: str, turn: threading.Event) -> bool:
        """Leave the line. Returns False if the turn was already given to this stream, which then has to pass it on."""
        with self._lock:
            if turn.is_set():
                return False
            line = self._lines[project]
            line.remove(turn)
            if not line:
                del self._lines[project]
            return True
