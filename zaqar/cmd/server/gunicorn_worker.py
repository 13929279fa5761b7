# SPDX-License-Identifier: Apache-2.0
"""The gunicorn worker that ``zaqar-server`` uses: gevent's, with an end to everything a client can draw out.

gunicorn itself bounds the wait for a request and its headers, by the setting ``keepalive``. The rest is here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.monkey import get_original
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from zaqar.cmd import open_files
from zaqar.cmd.signals import let_sigterm_end_new_children

if TYPE_CHECKING:
    # gunicorn's master imports this module too, and an import of the application comes too early there for gevent.
    from zaqar.app import Parts

_log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""How long a body may take in all."""

SEND_SECONDS = 30.0
"""How long a client may take to read an answer."""

CONNECTIONS_BESIDE = 1000
"""Connections that a worker may have besides those of clients that wait for messages or follow a stream."""

_PlainSocket = get_original("socket", "socket")


_REFUSALS = {
    errors.ExpectationFailed: "417 Expectation Failed",
    errors.LimitRequestHeaders: "431 Request Header Fields Too Large",
    errors.LimitRequestLine: "414 URI Too Long",
}

_FAULTS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
"""Those of the application, which are in the same tree."""


class BoundedReader:
    """What gunicorn reads a body from; raises TimeoutError once the time is over, however the bytes trickle in.

    gunicorn then marks the body as failed and closes the connection after the answer.
    """

    def __init__(self, reader: Any, seconds: float) -> None:
        self._reader = reader
        self._deadline = time.monotonic() + seconds

    def read(self, size: int) -> bytes:
        left = max(0.0, self._deadline - time.monotonic())
        with gevent.Timeout(left, TimeoutError("the body did not arrive in time")):
            data: bytes = self._reader.read(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class BoundedWorker(GeventWorker):  # type: ignore[misc]
    """Lets go of clients that send or read too slowly, and at its end of those that ask for nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: set[Any] = set()
        # The arbiter makes a worker before it forks.
        let_sigterm_end_new_children()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.booted:
            # There is no request to finish, and loading the application may take long, such as while a store is silent.
            os._exit(0)
        super().handle_exit(sig, frame)
        # Not here: the signal may have interrupted a greenlet that changes what the drain looks at.
        gevent.spawn(self._drain)

    def run(self) -> None:
        self.worker_connections = _allow_connections(self.cfg.worker_connections or _count_connections())
        super().run()

    def _drain(self) -> None:
        """Have all requests that wait for messages answered now, and let no other one wait."""
        parts = _find_parts()
        if parts is not None and not parts.hub.registry.is_draining:
            parts.hub.drain()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        self._waiting.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._waiting.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        body = req.body
        if getattr(body.reader, "length", None) != 0:
            body.reader = BoundedReader(body.reader, BODY_SECONDS)
        self._waiting.discard(sock)
        sock.settimeout(SEND_SECONDS)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError as exc:
            # StopIteration is how gunicorn is told to close a connection; the error would be logged with a traceback.
            raise StopIteration from exc
        finally:
            self._wait_for_next(sock)

    def notify(self) -> None:
        super().notify()
        if not self.alive:
            # Not every end begins with a signal: gunicorn's setting max_requests ends a worker too.
            self._drain()
            for client in list(self._waiting):
                _stop_reading(client)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not HTTP as the service itself answers bad input: as JSON, and never with a 5xx."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, _FAULTS):
            super().handle_error(req, client, addr, exc)
            return
        # Not its text, which quotes what came in: it may be a token in a header that is spelt wrongly.
        _log.info("refused what is not a request: %s", type(exc).__name__)
        answer = _refuse(_REFUSALS.get(type(exc), "400 Bad Request"), str(exc))
        if isinstance(exc, errors.ConfigurationProblem):
            # The path is outside of SCRIPT_NAME, at which the service is mounted.
            answer = _refuse("404 Not Found", "There is nothing at this path.")
        # The peer may be gone, or may not read.
        with contextlib.suppress(OSError):
            util.write_nonblock(client, answer)

    def _wait_for_next(self, sock: Any) -> None:
        self._waiting.add(sock)
        if self.alive:
            sock.settimeout(None)
            # gevent only turns to other connections if this one has to wait. A client whose next request is there
            # already would keep the worker for itself.
            gevent.sleep(0)
        else:
            _stop_reading(sock)


def _find_parts() -> Parts | None:
    """The parts of the application that this worker has loaded; None if it is another application."""
    loaded = sys.modules.get("zaqar.wsgi")
    return None if loaded is None else loaded.parts


def _count_connections() -> int:
    parts = _find_parts()
    held = 0 if parts is None else parts.limits.max_waiting_clients + parts.limits.max_streams
    return held + CONNECTIONS_BESIDE


def _allow_connections(wanted: int) -> int:
    """As many of these connections as this process may have open files for, at least one."""
    files = wanted + open_files.OTHER_FILES
    most = open_files.allow(files)
    if most >= files:
        return wanted
    fewer = max(1, most - open_files.OTHER_FILES)
    _log.warning(
        "[transport] max_waiting_clients, max_streams: %d connections need %d open files, and a worker may have %d "
        "(ulimit -Hn); it has at most %d connections.",
        wanted,
        files,
        most,
        fewer,
    )
    return fewer


def _refuse(status: str, description: str) -> bytes:
    body = json.dumps({"title": status.partition(" ")[2].capitalize(), "description": description}).encode()
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


def _stop_reading(client: Any) -> None:
    """Make a waiting connection end, after a request that has arrived already."""
    # A client may go away at any time.
    with contextlib.suppress(OSError), _PlainSocket(fileno=os.dup(client.fileno())) as same:
        # The read ends as if the client had closed. gevent's own shutdown() would raise an error in it.
        same.shutdown(socket.SHUT_RD)
