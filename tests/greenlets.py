# SPDX-License-Identifier: Apache-2.0
"""Measures whether other greenlets run while one waits. Processes that gevent has patched import it."""

from __future__ import annotations

import time

import gevent
from gevent import monkey

PAUSE = 0.01


class ProgressMeter:
    """Two counters at the same pace: one in a greenlet, and one in a system thread as the control.

    On a busy machine both are slow. While something waits inside C only the thread beats.
    """

    def __init__(self) -> None:
        self._greenlet = self._thread = 0
        self._sleep = monkey.get_original("time", "sleep")
        monkey.get_original("_thread", "start_new_thread")(self._beat_in_a_thread, ())
        gevent.spawn(self._beat_in_a_greenlet)

    def _beat_in_a_thread(self) -> None:
        while True:
            self._sleep(PAUSE)
            self._thread += 1

    def _beat_in_a_greenlet(self) -> None:
        while True:
            time.sleep(PAUSE)
            self._greenlet += 1

    def share(self) -> float:
        """The count of the greenlet as a share of that of the thread."""
        return self._greenlet / max(1, self._thread)
