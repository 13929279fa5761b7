# SPDX-License-Identifier: Apache-2.0
"""Servers in a thread of the test: the application on the memory store, and a server that answers given bytes."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from zaqar.benchmarks.http_client import Endpoint


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Without the look-up of the host's name that HTTPServer makes.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


@contextmanager
def served(application: Callable[..., object]) -> Iterator[Endpoint]:
    """A WSGI application on a free loopback port, one thread for each connection, one connection for each request."""
    with _Server(("127.0.0.1", 0), _QuietHandler) as server:
        server.set_app(application)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Endpoint("http", "127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def scripted(connections: Sequence[Sequence[Sequence[bytes]]]) -> Iterator[Endpoint]:
    """Per connection the answers to its requests, each in pieces that are sent one by one; then it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_play, args=(listener, connections))
        thread.start()
        yield Endpoint("http", "127.0.0.1", listener.getsockname()[1])
        thread.join()


def _play(listener: socket.socket, connections: Sequence[Sequence[Sequence[bytes]]]) -> None:
    for answers in connections:
        accepted, _ = listener.accept()
        with accepted:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pieces in answers:
                accepted.recv(65536)
                for piece in pieces:
                    accepted.sendall(piece)
