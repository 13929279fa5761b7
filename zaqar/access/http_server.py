# SPDX-License-Identifier: Apache-2.0
"""Which HTTP server this process is a worker of, as that decides how many requests may wait for Keystone at a time.

:mod:`zaqar.access.keystone` and :mod:`zaqar.access.trusts` set their bounds by it.
"""

from __future__ import annotations

import enum
import sys


class HttpServer(enum.Enum):
    """What holds a waiting request: a greenlet under gevent, a thread of the server otherwise."""

    GEVENT = enum.auto()
    UWSGI = enum.auto()
    GRANIAN = enum.auto()
    OTHER = enum.auto()


def find_http_server() -> HttpServer:
    """The server of this process; OTHER if it is none of those that are known, or no server at all."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return HttpServer.GEVENT
    if "uwsgi" in sys.modules:
        return HttpServer.UWSGI
    return HttpServer.GRANIAN if "granian" in sys.modules else HttpServer.OTHER


def count_uwsgi_threads() -> int:
    """How many requests a worker of uWSGI serves at a time. Only for a process that uWSGI runs."""
    return int(sys.modules["uwsgi"].opt.get("threads", 1))
