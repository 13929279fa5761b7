# SPDX-License-Identifier: Apache-2.0
"""``_sock``, the one private attribute of redis-py that the driver reads; setup.cfg bounds redis because of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import connection as library

from zaqar.storage.redis.client.connection import open_connection
from zaqar.storage.redis.client.uri import RedisAddress


@pytest.mark.parametrize("name", ["Connection", "SSLConnection", "UnixDomainSocketConnection"])
def test_a_connection_that_is_not_open_has_no_socket(name: str) -> None:
    assert getattr(library, name)(protocol=2)._sock is None


@contextmanager
def answering(listener: socket.socket) -> Iterator[None]:
    """A server that answers each command of one client with OK, among them those that redis-py sends to greet it."""

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            while client.recv(65_536):
                client.sendall(b"+OK\r\n")

    listener.settimeout(10)
    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_open_connection_has_a_connected_socket(kind: str, tmp_path: Path) -> None:
    if kind == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        address = RedisAddress(hosts=((host, port),))
    else:
        host, port = "", 0
        path = str(tmp_path / "redis.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        address = RedisAddress(path=path)
    with listener, answering(listener):
        connection = open_connection(address, host, port, timeout=10)
        assert connection._socket.getpeername() == listener.getsockname()
        assert connection.command(b"PING") == b"OK"
        connection.close()
