# SPDX-License-Identifier: Apache-2.0
"""gunicorn's gevent worker with a time limit on every phase that a slow client could prolong. ``zaqar-server`` uses it.

gunicorn itself limits the wait for a request and its headers, by the setting ``keepalive``. This module limits the time
to read a body and to write an answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

import gevent
from gevent.monkey import get_original
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from zaqar.cmd import open_files
from zaqar.cmd.signals import let_sigterm_end_new_children
from zaqar.metrics.recorder import note_end_of_process, note_failure_of_process

if TYPE_CHECKING:
    # gunicorn's master imports this module too. There the application must not be imported, because gevent has not
    # patched the standard library yet.
    from zaqar.app import Parts

_log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""Time in which the whole body of a request has to arrive."""

SEND_SECONDS = 30.0
"""Longest time that one write to a client may block."""

MOST_IDLE_SECONDS = 5.0
"""Longest time that idle connections stay open when a worker ends. It has to be shorter than ``graceful_timeout``."""

_PlainSocket = get_original("socket", "socket")


_REFUSALS = {
    errors.ExpectationFailed: "417 Expectation Failed",
    errors.LimitRequestHeaders: "431 Request Header Fields Too Large",
    errors.LimitRequestLine: "414 URI Too Long",
}

_FAULTS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
"""Errors of the application, not of the client, though they are subclasses of the same ParseException."""


class BoundedReader:
    """The reader of a body, with a deadline for the whole body. A read after it raises TimeoutError.

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
    """Drops clients that send or read too slowly. When it stops, it also closes idle connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: set[Any] = set()
        self._close_idle_at: float | None = None
        # The arbiter makes a worker before it forks, so this runs in the parent of the worker's process.
        let_sigterm_end_new_children()

    def patch(self) -> None:
        with _metadata_read_once():
            super().patch()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.booted:
            # There is no request to finish, and loading the application may take long, for example while a store is
            # silent.
            note_end_of_process()
            os._exit(0)
        super().handle_exit(sig, frame)
        self._announce_end()
        # Drain in another greenlet: the signal may have interrupted a greenlet that holds a lock which the drain needs.
        gevent.spawn(self._drain)

    def handle_abort(self, sig: int, frame: Any) -> None:
        """The master gives this worker up, because it is stuck for longer than the setting ``timeout``."""
        note_failure_of_process()
        super().handle_abort(sig, frame)

    def run(self) -> None:
        self.worker_connections = _allow_connections(self.cfg.worker_connections or _count_connections())
        super().run()

    def _announce_end(self) -> None:
        """From now on close each connection with its next answer, and a connection that stays idle after a delay.

        Only an answer can end a connection safely: a request may be on its way over one that looks idle here. A proxy
        that closes its idle connections before the delay is over never sends a request that gets lost.
        """
        if self._close_idle_at is None:
            parts = _find_parts()
            delay = 0.0 if parts is None else min(parts.conf.drain_delay, MOST_IDLE_SECONDS)
            self._close_idle_at = time.monotonic() + delay

    def _drain(self) -> None:
        """Answer all requests that wait for messages now, and let no further request wait."""
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
        if self._close_idle_at is not None:
            req.force_close()
        sock.settimeout(SEND_SECONDS)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError as exc:
            # gunicorn closes the connection on StopIteration. It would log a TimeoutError with a traceback.
            raise StopIteration from exc
        finally:
            self._wait_for_next(sock)

    def notify(self) -> None:
        super().notify()
        if self.alive:
            if _is_server_draining():
                self._announce_end()
            return
        # A worker also ends without a signal, by gunicorn's setting max_requests. So begin here as well.
        self._announce_end()
        self._drain()
        if self._closes_idle_connections():
            for client in list(self._waiting):
                _stop_reading(client)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer bytes that are not HTTP in the way the service answers bad input: as JSON, and never with a 5xx."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, _FAULTS):
            super().handle_error(req, client, addr, exc)
            return
        # Do not log the text of the error. It quotes the request, which may have a token in a header that is spelt
        # wrongly.
        _log.info("refused what is not a request: %s", type(exc).__name__)
        answer = _refuse(_REFUSALS.get(type(exc), "400 Bad Request"), str(exc))
        if isinstance(exc, errors.ConfigurationProblem):
            # The path is not below SCRIPT_NAME, the path at which the service is mounted.
            answer = _refuse("404 Not Found", "There is nothing at this path.")
        # The client may be gone, or may not read.
        with contextlib.suppress(OSError):
            util.write_nonblock(client, answer)

    def _wait_for_next(self, sock: Any) -> None:
        self._waiting.add(sock)
        if not self.alive:
            self._announce_end()
            if self._closes_idle_connections():
                _stop_reading(sock)
                return
        sock.settimeout(None)
        # gevent switches to other greenlets only if this one has to wait. Without this a client whose next request has
        # already arrived would keep the worker for itself.
        gevent.sleep(0)

    def _closes_idle_connections(self) -> bool:
        return self._close_idle_at is not None and time.monotonic() >= self._close_idle_at


@contextlib.contextmanager
def _metadata_read_once() -> Iterator[None]:
    """Let ``importlib.metadata.entry_points`` read the metadata of the installed packages once, and not at each call.

    gevent looks for plug-ins at each of the 25 steps of patching the standard library. With a hundred packages that
    takes a fifth of a second of CPU, a quarter of the start of a worker. No other thread runs yet, and no package is
    installed meanwhile.
    """
    original = metadata.entry_points
    metadata.entry_points = original().select
    try:
        yield
    finally:
        metadata.entry_points = original


def _find_parts() -> Parts | None:
    """The parts of the application that this worker has loaded; None if it is another application."""
    loaded = sys.modules.get("zaqar.wsgi")
    return None if loaded is None else loaded.parts


def _is_server_draining() -> bool:
    """Whether zaqar-server, if it has started this worker, has got SIGTERM and goes on serving for a while."""
    # Imported here for the same reason as the application.
    from zaqar.conf import drain_file

    parts = _find_parts()
    return parts is not None and drain_file(parts.conf).exists()


def _count_connections() -> int:
    parts = _find_parts()
    held = 0 if parts is None else parts.limits.max_waiting_clients + parts.limits.max_streams
    return held + open_files.OTHER_CONNECTIONS


def _allow_connections(wanted: int) -> int:
    """The number of connections that the limit of open files allows: at most ``wanted``, at least 1."""
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
    """End an idle connection. A request that has already arrived is still served."""
    # OSError: the client may close its connection at any time.
    with contextlib.suppress(OSError), _PlainSocket(fileno=os.dup(client.fileno())) as same:
        # The read of the greenlet that serves the connection ends as if the client had closed it. gevent's own
        # shutdown() would raise an error in that read.
        same.shutdown(socket.SHUT_RD)
