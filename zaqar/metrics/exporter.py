# SPDX-License-Identifier: Apache-2.0
"""Shows the metrics of this host over HTTP, in one of its processes.

``zaqar.cmd.exporting`` starts an :class:`Exporter` in each sweeper, notifier and WebSocket process. The first one that
gets the lock serves; the others try again every few seconds, so that one of them takes over if that process ends.

The requests come from Prometheus and from probes. They are few, and any client of the network that ``[metrics] bind``
names can send them. So each connection has a time limit as a whole, whatever it sends, and few are served at a time.
"""

from __future__ import annotations

import fcntl
import http.client
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from zaqar import private_files
from zaqar.errors import StartupError
from zaqar.metrics.retirement import retire

_log = logging.getLogger(__name__)

LOCK_NAME = "exporter.lock"
"""The file whose lock the process that serves holds. It has the address of the metrics."""

TRY_AGAIN_SECONDS = 3.0
RETIRE_SECONDS = 10.0

_READ_SECONDS = 5.0
_WRITE_SECONDS = 5.0
_LINGER_SECONDS = 0.5
_MOST_CONNECTIONS = 8
_BACKLOG = 128
_MOST_HEAD = 16 * 1024
_LOOK_SECONDS = 0.5
"""How soon the thread notices that it has to end."""


class Request(NamedTuple):
    """A request for a page. The method is GET or HEAD."""

    path: str
    query: str
    accept: str
    accept_encoding: str


class Reply(NamedTuple):
    """An answer. ``content_type`` is that of ``body``."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Answerer = Callable[[Request], Reply]
Pages = Mapping[str, Answerer]


def refuse(status: int, sentence: str) -> Reply:
    """Make a reply that says in one sentence why there is no page."""
    return Reply(status, f"{sentence}\n".encode())


class Exporter(threading.Thread):
    """Serves the pages as long as this process has the lock of the host, and meanwhile merges files of cells."""

    def __init__(self, address: tuple[str, int], folder: Path, make_pages: Callable[[], Pages]) -> None:
        """``folder`` is that of all files of cells of this host. ``make_pages`` is called when this process serves."""
        super().__init__(name="metrics exporter", daemon=True)
        self._address = address
        self._folder = folder
        self._make_pages = make_pages
        self._stop_event = threading.Event()
        self._slots = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._warned: set[str] = set()

    def stop(self) -> None:
        """End the service, so that another process takes over. Returns when the port is free."""
        self._stop_event.set()
        self.join(1.0)

    def run(self) -> None:
        try:
            while not self._stop_event.is_set():
                self._serve_if_first()
                self._stop_event.wait(TRY_AGAIN_SECONDS)
        except Exception:  # noqa: BLE001, logged with its traceback; the part of the service goes on
            _log.exception("The metrics of this host are not shown by this process any more.")

    def _serve_if_first(self) -> None:
        try:
            private_files.make_folder(self._folder)
            descriptor = private_files.open_file(self._folder / LOCK_NAME)
        except (OSError, StartupError) as exc:
            self._warn("folder", f"The metrics are not shown, because {self._folder} cannot be used: {exc}")
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            self._serve_with_lock(descriptor)
        finally:
            os.close(descriptor)

    def _serve_with_lock(self, descriptor: int) -> None:
        """Merge files and serve. If another program has the port, keep the lock, and try again now and then."""
        while not self._stop_event.is_set():
            self._retire()
            listener = self._listen()
            if listener is None:
                self._stop_event.wait(TRY_AGAIN_SECONDS)
                continue
            with listener:
                host, port = listener.getsockname()[:2]
                _write(descriptor, f"[{host}]:{port}\n" if ":" in host else f"{host}:{port}\n")
                _log.info("This process shows the metrics of this host at %s port %d.", host, port)
                try:
                    self._accept(listener)
                finally:
                    _write(descriptor, "")

    def _listen(self) -> socket.socket | None:
        try:
            family = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            return socket.create_server(self._address, family=family, backlog=_BACKLOG)
        except OSError as exc:
            host, port = self._address
            reason = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
            self._warn(
                "bind", f"[metrics] bind: cannot listen on {host} port {port}: {reason}. The metrics are not shown."
            )
            return None

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(_LOOK_SECONDS)
        pages = self._make_pages()
        retired = time.monotonic()
        while not self._stop_event.is_set():
            if time.monotonic() - retired >= RETIRE_SECONDS:
                self._retire()
                retired = time.monotonic()
            # While all slots are taken, further clients wait in the queue of the kernel.
            if not self._slots.acquire(timeout=_LOOK_SECONDS):
                continue
            try:
                client, _ = listener.accept()
            except TimeoutError:
                self._slots.release()
                continue
            except OSError:
                # The client has gone, or there is no free descriptor. In that case accept() fails at once, so wait.
                self._slots.release()
                self._stop_event.wait(_LOOK_SECONDS)
                continue
            threading.Thread(target=self._serve, args=(client, pages), name="metrics request", daemon=True).start()

    def _serve(self, client: socket.socket, pages: Pages) -> None:
        try:
            with client:
                serve_client(client, pages)
        except OSError as exc:
            _log.debug("A client of the metrics has gone or is too slow: %s", exc)
        finally:
            self._slots.release()

    def _retire(self) -> None:
        try:
            retire(self._folder)
        except (OSError, StartupError) as exc:
            self._warn("counts", f"The counts of ended processes cannot be merged in {self._folder}: {exc}")

    def _warn(self, about: str, sentence: str) -> None:
        """Log a warning once. What failed is tried again every few seconds."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", sentence)


def serve_client(client: socket.socket, pages: Pages) -> None:
    """Answer one request and close the connection. Raises OSError if the client has gone or is too slow."""
    head = _read_head(client)
    if head is None:
        return
    method, reply = _answer(head, pages)
    reason = HTTPStatus(reply.status).phrase
    headers = [
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *reply.headers,
    ]
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    # The time-out of sendall is that of the whole answer.
    client.settimeout(_WRITE_SECONDS)
    client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else reply.body))
    _linger(client)


def _read_head(client: socket.socket) -> bytes | None:
    """The request without its body, or as much of it as is accepted. None if the client closes the connection."""
    until = time.monotonic() + _READ_SECONDS
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= _MOST_HEAD:
        client.settimeout(max(0.001, until - time.monotonic()))
        more = client.recv(4096)
        if not more:
            return None
        head += more
    return head


def _linger(client: socket.socket) -> None:
    """Read what the client still sends, for a moment. The kernel drops the answer if a socket with input is closed."""
    client.shutdown(socket.SHUT_WR)
    until = time.monotonic() + _LINGER_SECONDS
    while (left := until - time.monotonic()) > 0:
        client.settimeout(left)
        if not client.recv(65536):
            return


def _answer(head: bytes, pages: Pages) -> tuple[str, Reply]:
    if len(head) > _MOST_HEAD:
        return "", refuse(431, f"The headers of a request have at most {_MOST_HEAD} bytes.")
    line, _, rest = head.partition(b"\n")
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not parts[1].startswith("/") or not parts[2].startswith("HTTP/1."):
        return "", refuse(400, "This is not a request of HTTP/1.1.")
    try:
        headers = http.client.parse_headers(io.BytesIO(rest))
    except http.client.HTTPException:
        return "", refuse(400, "The headers cannot be read.")
    method = parts[0]
    path, _, query = parts[1].partition("?")
    page = pages.get(path)
    if page is None:
        return method, refuse(404, f"There is nothing at this path. There are: {' '.join(pages)}")
    if method not in ("GET", "HEAD"):
        refused = refuse(405, "Use GET.")
        return method, refused._replace(headers=(("Allow", "GET, HEAD"),))
    accepted = (", ".join(headers.get_all(name, [])) for name in ("Accept", "Accept-Encoding"))
    try:
        return method, page(Request(path, query, *accepted))
    except Exception:  # noqa: BLE001, logged with its traceback
        _log.exception("The page %s of the metrics cannot be made.", path)
        return method, refuse(500, "The page cannot be made; the log of the service says why.")


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
