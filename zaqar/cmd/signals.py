# SPDX-License-Identifier: Apache-2.0
"""How processes end: with their parent, and by a signal that comes while they start."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process, a new child, when its parent ends, also by SIGKILL (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_at_once(status: int) -> Callable[[int, object], None]:
    """A handler that ends the process with ``status``, for a time in which nothing has to be finished or handed back.

    It raises nothing: an exception would come up inside any code, such as the import of a plug-in, which would be taken
    for broken, or a destructor, which would drop it. Nothing is flushed: output has to be flushed when it is written.
    """

    def end(number: int, frame: object) -> None:
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
