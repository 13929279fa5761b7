# SPDX-License-Identifier: Apache-2.0
"""In which order the streams of a worker work, so that hundreds of them delay no other request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable


class StreamTurns:
    """gevent runs all greenlets that can run before it looks at connections again. With this class one stream at a time
    can run, after each other greenlet has had its turn, so that a request waits for the work of one stream only.
    """

    def __init__(self, pause: Callable[[], None] = lambda: time.sleep(0)) -> None:
        """``pause`` lets all others that can run do so."""
        self._pause = pause
        self._lock = threading.Lock()
        self._is_taken = False
        self._lines: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    def wait(self, project: str) -> None:
        """Return when a stream of the project may work: read once, or write one piece. Projects take turns."""
        turn = self._take_or_queue(project)
        try:
            if turn is not None:
                turn.wait()
            self._pause()
        finally:
            # Before the stream works, as that may wait for a store, or for a client that reads slowly. If the greenlet
            # was ended instead, it may not have had the turn yet.
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
        """Returns whether it was still in the line, so that it has not got the turn."""
        with self._lock:
            if turn.is_set():
                return False
            line = self._lines[project]
            line.remove(turn)
            if not line:
                del self._lines[project]
            return True
