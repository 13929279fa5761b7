# SPDX-License-Identifier: Apache-2.0
"""How processes end: children with their parent, and each by a signal that comes while it starts."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process, a new child, when its parent ends, also by SIGKILL (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_at_once(status: int = 0) -> Callable[[int, FrameType | None], None]:
    """Make a handler of signals that ends the process with ``status``, without cleaning up.

    For commands that have nothing to clean up, and for the start of others. An exception would come out of the line
    that runs at the time, such as the import of a driver, whose failure is reported, or a callback of the interpreter,
    which drops it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            # RuntimeError if the signal interrupts a write to the same stream.
            with suppress(RuntimeError):
                stream.flush()
        os._exit(status)

    return end


@functools.cache
def let_sigterm_end_new_children() -> None:
    """Have SIGTERM end each process that this one forks from now on, until the process installs a handler of its own.

    A worker inherits the handler of the HTTP server's master, which only notes the signal for the master's loop. A
    SIGTERM that comes before the worker has installed its own would be lost, and the worker killed after a time-out.
    """
    os.register_at_fork(after_in_child=_restore_sigterm)


def _restore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
