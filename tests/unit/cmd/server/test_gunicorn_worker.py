# SPDX-License-Identifier: Apache-2.0
"""The time limits of the worker, over socket pairs and with shorter times."""

from __future__ import annotations

import json
import os
import socket as plain
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gunicorn.config import Config
from gunicorn.http import errors, get_parser
from gunicorn.workers.ggevent import GeventWorker

from zaqar.cmd.server import gunicorn_worker
from zaqar.cmd.server.gunicorn_worker import BoundedReader, BoundedWorker

POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Trickle:
    """A reader that returns a byte from time to time, without end."""

    length = 1000

    def read(self, size: int) -> bytes:
        for _ in range(size):
            gevent.sleep(0.01)
        return b"x" * size


def test_a_worker_reads_the_metadata_of_the_installed_packages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original, reads = metadata.entry_points, []

    def count(**selection: Any) -> metadata.EntryPoints:
        reads.append(selection)
        return original(**selection)

    def patch(worker: GeventWorker) -> None:
        found.extend(metadata.entry_points(group="zaqar.transport"))
        assert not metadata.entry_points(group="zaqar.no-such-group")

    found: list[metadata.EntryPoint] = []
    monkeypatch.setattr(metadata, "entry_points", count)
    monkeypatch.setattr(GeventWorker, "patch", patch)
    Bare().patch()
    assert reads == [{}]
    assert found == list(original(group="zaqar.transport"))
    assert metadata.entry_points is count


def test_a_body_that_arrives_too_slowly_times_out() -> None:
    reader = BoundedReader(Trickle(), 0.1)
    with pytest.raises(TimeoutError):
        reader.read(1000)


def test_the_time_is_for_the_body_as_a_whole() -> None:
    reader = BoundedReader(Trickle(), 0.2)
    with pytest.raises(TimeoutError):
        list(iter(lambda: reader.read(1), b""))


def test_a_body_in_time_is_read() -> None:
    reader = BoundedReader(Trickle(), 60)
    assert reader.read(3) == b"xxx"
    assert reader.length == 1000


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """The server's end and the client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(30)
        yield ours, theirs


class Bare(BoundedWorker):
    """A worker without a process, with the attributes that serve a connection."""

    def __init__(self) -> None:
        self.cfg = Config()
        self.cfg.set("keepalive", 1)
        self.alive = True
        self.nr, self.max_requests = 0, 10
        self._waiting = set()
        self._close_idle_at = None
        self.log = Log()
        self.tmp = self
        self.ppid = -1

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            body = environ["wsgi.input"].read()
        except TimeoutError:
            start_response("408 Request Timeout", [("Content-Length", "4")])
            return [b"late"]
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


class Log:
    def __getattr__(self, name: str) -> Any:
        assert name in ("debug", "access"), name
        return lambda *_: None


class Ending:
    """The parts of an application whose worker ends."""

    def __init__(self, *, drain_delay: float, state_dir: Path | None = None) -> None:
        self.conf = SimpleNamespace(drain_delay=drain_delay, state_dir=state_dir)
        self.hub = SimpleNamespace(registry=SimpleNamespace(is_draining=True))


def serve(bare: Bare, ours: Any) -> Any:
    class Listener:
        def getsockname(self) -> tuple[str, int]:
            return ("127.0.0.1", 1)

    return gevent.spawn(bare.handle, Listener(), ours, ("127.0.0.1", 2))


def read_all(theirs: Any) -> bytes:
    received = b""
    while part := theirs.recv(65_536):
        received += part
    return received


def test_a_request_is_answered_and_its_connection_kept(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    serve(Bare(), ours)
    for _ in range(2):
        theirs.sendall(POST + b"0123456789")
        answer = theirs.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"0123456789")


def test_a_client_that_stops_within_its_body_is_dropped(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_worker, "BODY_SECONDS", 0.1)
    ours, theirs = pair
    serve(Bare(), ours)
    theirs.sendall(POST + b"012")
    answer = read_all(theirs)
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_dropped(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_worker, "SEND_SECONDS", 0.1)
    ours, theirs = pair
    bare = Bare()
    monkeypatch.setattr(bare, "wsgi", lambda _, start: (start("200 OK", []), [b"x" * 10_000_000])[1])
    serving = serve(bare, ours)
    theirs.sendall(GET)
    assert serving.join(30) is None
    assert serving.successful()


def test_a_worker_that_ends_closes_idle_connections(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    bare = Bare()
    serving = serve(bare, ours)
    theirs.sendall(GET)
    assert theirs.recv(1000).startswith(b"HTTP/1.1 200")
    bare.alive = False
    for client in list(bare._waiting):
        gunicorn_worker._stop_reading(client)
    assert read_all(theirs) == b""
    serving.join(30)
    # It has logged no error.
    assert serving.successful()
    assert bare._waiting == set()


def test_a_worker_that_ends_closes_a_connection_with_its_next_answer_for_a_while(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request may be on its way when the worker begins to end, so only an answer closes its connection."""
    monkeypatch.setattr(gunicorn_worker, "_find_parts", lambda: Ending(drain_delay=60.0))
    ours, theirs = pair
    bare = Bare()
    serving = serve(bare, ours)
    theirs.sendall(GET)
    assert b"Connection: keep-alive" in theirs.recv(1000)
    bare.booted = True
    bare.handle_exit(15, None)
    bare.ppid, bare.tmp = os.getppid(), SimpleNamespace(notify=lambda: None)
    bare.notify()
    theirs.sendall(GET)
    assert b"Connection: close" in read_all(theirs)
    serving.join(30)
    assert serving.successful()


def test_a_worker_that_ends_closes_connections_that_stay_idle(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_worker, "_find_parts", lambda: Ending(drain_delay=0.05))
    ours, theirs = pair
    bare = Bare()
    bare.cfg.set("keepalive", 60)
    serve(bare, ours)
    theirs.sendall(GET)
    assert theirs.recv(1000).startswith(b"HTTP/1.1 200")
    bare.booted = True
    bare.handle_exit(15, None)
    bare.ppid, bare.tmp = os.getppid(), SimpleNamespace(notify=lambda: None)
    while bare._waiting:
        bare.notify()
        gevent.sleep(0.01)
    assert read_all(theirs) == b""


def test_answers_close_their_connections_while_the_server_drains(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """zaqar-server tells its workers by a file, and goes on serving. They accept new connections meanwhile."""
    monkeypatch.setattr(gunicorn_worker, "_find_parts", lambda: Ending(drain_delay=60.0, state_dir=tmp_path))
    ours, theirs = pair
    bare = Bare()
    bare.ppid, bare.tmp = os.getppid(), SimpleNamespace(notify=lambda: None)
    serve(bare, ours)
    bare.notify()
    theirs.sendall(GET)
    assert b"Connection: keep-alive" in theirs.recv(1000)
    (tmp_path / "draining").touch()
    bare.notify()
    assert bare.alive
    theirs.sendall(GET)
    assert b"Connection: close" in read_all(theirs)


def test_a_worker_that_ends_finishes_the_running_request(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    bare = Bare()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        bare.alive = False
        gevent.sleep(0.05)
        assert bare._waiting == set()
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]

    monkeypatch.setattr(bare, "wsgi", slow)
    serve(bare, ours)
    theirs.sendall(GET)
    answer = read_all(theirs)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"done")


@pytest.mark.parametrize("booted", [False, True])
def test_sigterm_before_the_application_is_loaded_ends_the_worker_at_once(
    booted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    bare = Bare()
    bare.booted, bare.alive = booted, True
    bare.handle_exit(15, None)
    assert ended == ([] if booted else [0])
    if booted:
        assert not bare.alive


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: zap\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n", 431),
    ],
)
def test_bytes_that_are_no_request_are_refused_as_json(raw: bytes, status: int) -> None:
    ours, theirs = plain.socketpair()
    with ours, theirs:
        theirs.sendall(raw)
        with pytest.raises(errors.ParseException) as caught:
            next(get_parser(Config(), ours, ("127.0.0.1", 2)))
        Bare().handle_error(None, ours, ("127.0.0.1", 2), caught.value)
        head, _, body = theirs.recv(65_536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert set(json.loads(body)) == {"title", "description"}


def test_a_worker_that_ends_drains_once_and_whatever_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal and gunicorn's setting max_requests both only set ``alive`` to False."""

    class Parts:
        def __init__(self) -> None:
            self.hub = self
            self.registry = self
            self.conf = SimpleNamespace(drain_delay=0.0, state_dir="/nonexistent")
            self.is_draining = False
            self.drains = 0

        def drain(self) -> None:
            self.is_draining = True
            self.drains += 1

    parts = Parts()
    monkeypatch.setattr(gunicorn_worker, "_find_parts", lambda: parts)
    bare = Bare()
    bare.ppid, bare.tmp = os.getppid(), SimpleNamespace(notify=lambda: None)
    bare.notify()
    assert parts.drains == 0
    bare.alive = False
    bare.notify()
    bare.notify()
    assert parts.drains == 1
