# SPDX-License-Identifier: Apache-2.0
"""Signals that end processes: children end with their parent, and a process can be ended while it starts."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from zaqar.metrics.recorder import note_end_of_process

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process, a new child, when its parent ends, also by SIGKILL (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_at_once(status: int = 0) -> Callable[[int, FrameType | None], None]:
    """Make a signal handler that ends the process with ``status``, without cleaning up.

    For commands that have nothing to clean up, and for the start of other commands. The handler does not raise an
    exception, because it would come out of the line that runs at the time. If that line imports a driver, the exception
    would be reported as a failure of the driver; in a callback of the interpreter it would be dropped.
    """

    def end(number: int, frame: FrameType | None) -> None:
        note_end_of_process()
        for stream in (sys.stdout, sys.stderr):
            # RuntimeError: the signal has interrupted a write to the same stream.
            with suppress(RuntimeError):
                stream.flush()
        os._exit(status)

    return end


@functools.cache
def let_sigterm_end_new_children() -> None:
    """Make SIGTERM end each process that this one forks from now on, until that process installs its own handler.

    A worker inherits the handler of the HTTP server's master, which only notes the signal for the master's loop. So a
    SIGTERM that came before the worker has installed its own handler would be lost, and the master would kill the
    worker after a time-out.
    """
    os.register_at_fork(after_in_child=_restore_sigterm)


def _restore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
