# SPDX-License-Identifier: Apache-2.0
"""The limit of open files of a process. Servers raise it, because each connection of a client is an open file."""

from __future__ import annotations

import resource

OTHER_FILES = 256
"""Open files that are not connections of clients: those to stores, Keystone and notifiers, and the log."""


OTHER_CONNECTIONS = 1000
"""Connections that a worker of HTTP may have besides those of clients that wait for messages or follow a stream."""


def allow(wanted: int) -> int:
    """Let this process have ``wanted`` open files, as far as the hard limit allows; ``ulimit -Hn`` shows it.

    Only raises the soft limit, never lowers it. Returns the number of open files that the process may have at most:
    less than ``wanted`` if the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else wanted
    if soft != resource.RLIM_INFINITY and soft < min(wanted, most):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most), hard))
    return most
