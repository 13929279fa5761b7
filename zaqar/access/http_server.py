# SPDX-License-Identifier: Apache-2.0
"""Which HTTP server this process is a worker of, what it holds a request with, and whether the client is still there.

It decides how many requests may wait at a time: :mod:`zaqar.access.keystone` and :mod:`zaqar.access.trusts` set their
bounds by it for requests that wait for Keystone, and the WSGI transport for those that wait for messages.
"""

from __future__ import annotations

import enum
import inspect
import multiprocessing
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any


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


def count_threads() -> int | None:
    """How many requests this worker serves at a time if each holds a thread of it; None if it holds a greenlet.

    1 for a server that does not say. Ask in the process that serves: a gunicorn with ``preload_app`` loads the
    application in another one.
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


def is_loaded_before_fork() -> bool:
    """Whether this is a gunicorn's master, which loads the application if ``preload_app`` is set."""
    return find_http_server() is HttpServer.OTHER and "gunicorn.arbiter" in sys.modules and not _find_gunicorn_worker()


def _find_gunicorn_worker() -> Any:
    """The worker of gunicorn that this process is, or None. It handles SIGTERM with a method of its own."""
    base = sys.modules.get("gunicorn.workers.base")
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if base is not None and isinstance(owner, base.Worker) else None


def _count_granian_threads() -> int:
    """The argument ``blocking_threads`` that granian has started this worker with; 1 if it has no such argument."""
    process: Any = multiprocessing.current_process()
    target, given = getattr(process, "_target", None), getattr(process, "_args", ())
    names = [] if target is None else list(inspect.signature(target).parameters)
    if "blocking_threads" not in names:
        return 1
    # Count from the end: granian wraps the function in another one, which takes more arguments at the beginning.
    found = given[names.index("blocking_threads") - len(names)]
    return found if type(found) is int else 1


def is_client_gone(environ: Mapping[str, Any]) -> bool:
    """Whether the client of this request has closed the connection, or at least its direction of it.

    To be called in the thread or greenlet of the request. It does not block, and it reads nothing: a next request that
    is there already, or the end of a TLS session, stays to be read. False with a server that shows no socket, such as
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
    """The socket of the client of this request; None if the server does not show it, negative if it is closed."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        return int(sock.fileno())
    uwsgi = sys.modules.get("uwsgi")
    return None if uwsgi is None else int(uwsgi.connection_fd())


def make_poll() -> Any:
    """A poll object of the system, also in a process that gevent has patched."""
    # gevent's own poll() knows no POLLRDHUP, and would turn to other greenlets.
    monkey = sys.modules.get("gevent.monkey")
    return select.poll() if monkey is None else monkey.get_original("select", "poll")()
