# SPDX-License-Identifier: Apache-2.0
"""Finds out which HTTP server runs this process, how many requests it serves at a time, and if a client has gone.

:mod:`zaqar.access.keystone` and :mod:`zaqar.access.trusts` use it to bound the requests that wait for Keystone, and the
WSGI transport to bound those that wait for messages.
"""

from __future__ import annotations

import enum
import inspect
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

WORKERS_VARIABLE = "ZAQAR_WORKERS"
"""``zaqar-server`` sets it to the number of API workers that it starts."""


class HttpServer(enum.Enum):
    """The kinds of servers. A waiting request occupies a greenlet under gevent, and a thread under the others."""

    GEVENT = enum.auto()
    UWSGI = enum.auto()
    GRANIAN = enum.auto()
    OTHER = enum.auto()


def find_http_server() -> HttpServer:
    """Return the server of this process; OTHER for an unknown server or none."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return HttpServer.GEVENT
    if "uwsgi" in sys.modules:
        return HttpServer.UWSGI
    return HttpServer.GRANIAN if "granian" in sys.modules else HttpServer.OTHER


def count_uwsgi_threads() -> int:
    """Return how many requests a worker of uWSGI serves at a time. Only for a process that uWSGI runs."""
    return int(sys.modules["uwsgi"].opt.get("threads", 1))


def count_threads() -> int | None:
    """Return how many requests this worker serves at a time, by its threads; None if it uses greenlets.

    1 for an unknown server. Call it in the process that serves requests: a gunicorn with ``preload_app`` loads the
    application in another process.
    """
    match find_http_server():
        case HttpServer.GEVENT:
            return None
        case HttpServer.UWSGI:
            return count_uwsgi_threads()
        case HttpServer.GRANIAN:
            return _count_granian_threads()
        case HttpServer.OTHER:
            worker = _find_gunicorn_worker()
            return 1 if worker is None else int(worker.cfg.threads)


def count_workers() -> int:
    """Return the number of workers of the server of this process; 1 for an unknown server."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        return int(uwsgi.numproc)
    given = os.environ.get(WORKERS_VARIABLE, "")
    if given.isdigit() and int(given):
        return int(given)
    worker = _find_gunicorn_worker()
    return 1 if worker is None else max(1, int(worker.cfg.workers))


def is_loaded_before_fork() -> bool:
    """Whether this process is the master of gunicorn, which loads the application if ``preload_app`` is set."""
    return find_http_server() is HttpServer.OTHER and "gunicorn.arbiter" in sys.modules and not _find_gunicorn_worker()


def _find_gunicorn_worker() -> Any:
    """Return the gunicorn worker object of this process, or None. Its handler of SIGTERM is one of its methods."""
    base = sys.modules.get("gunicorn.workers.base")
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if base is not None and isinstance(owner, base.Worker) else None


def _count_granian_threads() -> int:
    """Return the argument ``blocking_threads`` with which granian started this worker; 1 if there is none."""
    process: Any = multiprocessing.current_process()
    target, given = getattr(process, "_target", None), getattr(process, "_args", ())
    names = [] if target is None else list(inspect.signature(target).parameters)
    if "blocking_threads" not in names:
        return 1
    # Count from the end: granian wraps the function in another one, which takes more arguments at the beginning.
    found = given[names.index("blocking_threads") - len(names)]
    return found if type(found) is int else 1


def is_client_gone(environ: Mapping[str, Any]) -> bool:
    """Whether the client of this request has closed the connection, or its sending direction.

    Call it in the thread or greenlet of the request. It does not block and reads no data, so that a pipelined request
    or the end of a TLS session can still be read. False for a server that gives no access to the socket, such as
    granian.
    """
    fd = client_fd(environ)
    if fd is None:
        return False
    if fd < 0:
        return True
    poll = make_poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def client_fd(environ: Mapping[str, Any]) -> int | None:
    """Return the socket of the client of this request; None if the server hides it, negative if it is closed."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        return int(sock.fileno())
    uwsgi = sys.modules.get("uwsgi")
    return None if uwsgi is None else int(uwsgi.connection_fd())


def make_poll() -> Any:
    """Make a poll object of the system, even in a process that gevent has patched."""
    # The poll() of gevent has no POLLRDHUP and would switch to other greenlets.
    monkey = sys.modules.get("gevent.monkey")
    return select.poll() if monkey is None else monkey.get_original("select", "poll")()
