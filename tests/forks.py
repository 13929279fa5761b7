# SPDX-License-Identifier: Apache-2.0
"""Runs a part of a test in the child of a fork."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_a_fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a child, and return its exit status: 0 if it returns, 1 if it raises, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
