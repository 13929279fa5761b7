# SPDX-License-Identifier: Apache-2.0
"""The server of a process, and whether a client has gone; tests/acceptance/test_waits.py uses real servers."""

from __future__ import annotations

import signal
import socket
import struct
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from zaqar.access import http_server
from zaqar.access.http_server import HttpServer, count_threads, count_workers, is_client_gone, is_loaded_before_fork


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and the client's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def of_gunicorn(ours: socket.socket) -> dict[str, Any]:
    return {"gunicorn.socket": ours}


def test_a_client_that_waits_for_its_answer_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert not is_client_gone(of_gunicorn(ours))
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert not is_client_gone(of_gunicorn(ours)), "its next request is no end"
    assert ours.recv(100) == b"GET / HTTP/1.1\r\n\r\n", "nothing was read"


@pytest.mark.parametrize("sent", [b"", b"\x15\x03\x03\x00\x02\x01\x00"], ids=["nothing", "the end of a TLS session"])
def test_a_client_that_has_closed_is_gone(pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    """Also if the server has not read its last data yet."""
    ours, theirs = pair
    theirs.sendall(sent)
    theirs.close()
    assert is_client_gone(of_gunicorn(ours))


def test_a_client_that_has_reset_the_connection_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert is_client_gone(of_gunicorn(ours))


def test_a_socket_that_the_server_has_closed_has_no_client(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.close()
    assert is_client_gone(of_gunicorn(ours))


def test_a_socket_with_a_timeout_does_not_block(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(60)
    assert not is_client_gone(of_gunicorn(ours))


def test_the_socket_of_uwsgi_is_used(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(connection_fd=ours.fileno))  # type: ignore[arg-type]
    assert not is_client_gone({})
    theirs.close()
    assert is_client_gone({})


def test_without_a_socket_the_client_counts_as_connected() -> None:
    assert not is_client_gone({})


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "find_http_server", lambda: request.param)


@pytest.mark.parametrize("server", [HttpServer.GEVENT], indirect=True)
def test_gevent_has_no_number_of_threads(server: None) -> None:
    assert count_threads() is None


@pytest.mark.parametrize("server", [HttpServer.UWSGI], indirect=True)
@pytest.mark.parametrize(("options", "threads"), [({"threads": b"16"}, 16), ({}, 1)])
def test_threads_of_uwsgi(
    server: None, options: dict[str, bytes], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))  # type: ignore[arg-type]
    assert count_threads() == threads


@pytest.mark.parametrize("server", [HttpServer.GRANIAN], indirect=True)
def test_threads_of_granian_in_a_process_that_is_no_worker_of_it(server: None) -> None:
    assert count_threads() == 1


@pytest.mark.parametrize("server", [HttpServer.OTHER], indirect=True)
@pytest.mark.parametrize("threads", [1, 8])
def test_threads_of_gunicorn(server: None, threads: int) -> None:
    worker = Worker.__new__(Worker)
    worker.cfg = Config()
    worker.cfg.set("threads", threads)
    before = signal.signal(signal.SIGTERM, worker.handle_exit)
    try:
        assert count_threads() == threads
        assert not is_loaded_before_fork()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(http_server.WORKERS_VARIABLE, raising=False)
    assert count_workers() == 1
    worker = Worker.__new__(Worker)
    worker.cfg = Config()
    worker.cfg.set("workers", 5)
    before = signal.signal(signal.SIGTERM, worker.handle_exit)
    try:
        assert count_workers() == 5
    finally:
        signal.signal(signal.SIGTERM, before)
    # zaqar-server says it to workers of every server.
    monkeypatch.setenv(http_server.WORKERS_VARIABLE, "3")
    assert count_workers() == 3
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(numproc=4))  # type: ignore[arg-type]
    assert count_workers() == 4


@pytest.mark.parametrize("server", [HttpServer.OTHER], indirect=True)
def test_an_unknown_server_counts_as_serving_one_request_at_a_time(
    server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_threads() == 1
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)
    assert not is_loaded_before_fork()
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", SimpleNamespace())  # type: ignore[arg-type]
    assert is_loaded_before_fork()
