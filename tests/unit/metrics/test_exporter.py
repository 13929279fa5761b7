# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of the metrics: who serves, and what hostile or slow clients can do."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import free_port
from zaqar.metrics import exporter as exporter_module
from zaqar.metrics.cells import SUFFIX
from zaqar.metrics.exporter import LOCK_NAME, Exporter, Pages, Reply, Request, refuse
from zaqar.metrics.families import MESSAGES_POSTED
from zaqar.metrics.recorder import Recorder

Start = Callable[..., Exporter]


def hello(request: Request) -> Reply:
    return Reply(200, f"{request.query}|{request.accept}|{request.accept_encoding}".encode())


def fail(_: Request) -> Reply:
    raise RuntimeError("the page has a fault")


PAGES: Pages = {"/hello": hello, "/fail": fail, "/big": lambda _: Reply(200, b"x" * 20_000_000)}


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRY_AGAIN_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(exporter_module, name, 0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(port: int = 0) -> Exporter:
            exporter = Exporter(("127.0.0.1", port), tmp_path, lambda: PAGES)
            exporter.start()
            stack.callback(exporter.stop)
            return exporter

        yield begin


def address_in(folder: Path) -> tuple[str, int]:
    lock = folder / LOCK_NAME
    wait_until(lambda: lock.exists() and lock.read_text())
    host, _, port = lock.read_text().strip().rpartition(":")
    return host, int(port)


def get(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(sent)
        received = b""
        while more := client.recv(65536):
            received += more
    return received


def test_a_page_gets_the_query_and_the_accepted_formats(start: Start, tmp_path: Path) -> None:
    start()
    address = address_in(tmp_path)
    assert get(address, "/hello?a=1", Accept="text/plain", Accept_Encoding="gzip") == (200, b"a=1|text/plain|gzip")
    assert get(address, "/hello", "HEAD") == (200, b"")


def test_the_second_exporter_takes_over_when_the_first_ends(start: Start, tmp_path: Path) -> None:
    port = free_port()
    first = start(port)
    address = address_in(tmp_path)
    second = start(port)
    assert get(address, "/hello")[0] == 200
    first.stop()
    wait_until(lambda: not first.is_alive())
    address_in(tmp_path)
    assert get(address, "/hello")[0] == 200
    assert second.is_alive()


def test_a_port_that_another_program_has_is_one_warning_and_is_taken_when_it_is_free(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.WARNING):
        port = other.getsockname()[1]
        start(port)
        wait_until(lambda: caplog.messages)
        time.sleep(0.3)
    assert caplog.messages == [
        f"[metrics] bind: cannot listen on 127.0.0.1 port {port}: Address already in use. The metrics are not shown."
    ]
    assert address_in(tmp_path) == ("127.0.0.1", port)
    assert get(("127.0.0.1", port), "/hello")[0] == 200


@pytest.mark.child_process
def test_files_of_ended_processes_are_merged_even_if_the_port_is_taken(start: Start, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        Recorder(tmp_path, "api").add(MESSAGES_POSTED)
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(tmp_path.glob(f"*{SUFFIX}"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        start(other.getsockname()[1])
        wait_until(lambda: not list(tmp_path.glob(f"*{SUFFIX}")))


@pytest.mark.parametrize("fault", ["a file", "open to others"])
def test_a_folder_that_cannot_be_used_is_one_warning_of_each_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    folder = tmp_path / "metrics"
    if fault == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / "letter").write_text("")
        folder.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        exporter = Exporter(("127.0.0.1", 0), folder, lambda: PAGES)
        exporter.start()
        recorder = Recorder(folder, "api")
        for _ in range(3):
            recorder.add(MESSAGES_POSTED)
        wait_until(lambda: len(caplog.messages) == 2)
        time.sleep(0.2)
        exporter.stop()
    assert sorted(message[:15] for message in caplog.messages) == ["The metrics are", "This process is"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /hello/ HTTP/1.1\r\n\r\n", 404),
        (b"GET http://other/hello HTTP/1.1\r\n\r\n", 400),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /hello HTTP/1.1\r\n\r\n", 405),
        (b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /hello\r\n\r\n", 400),
        (b"GET /hello SMTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\xff\xfe\x00 / HTTP/1.1\r\n\r\n", 405),
        (b"GET /hello HTTP/1.1\r\nno colon\r\n\r\n", 200),
        (b"GET /hello HTTP/1.1\nAccept: a\n\n", 200),
        (b"GET /hello HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /fail HTTP/1.1\r\n\r\n", 500),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(start: Start, tmp_path: Path, sent: bytes, status: int) -> None:
    start()
    address = address_in(tmp_path)
    line, _, rest = exchange(address, sent).partition(b"\r\n")
    if sent.startswith(b"\xff"):
        assert line.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 400"))
    else:
        assert line.startswith(b"HTTP/1.1 %d " % status), line
    assert b"Traceback" not in rest
    assert b"the page has a fault" not in rest
    assert get(address, "/hello")[0] == 200


def test_silent_and_slow_clients_cost_a_bounded_time_and_few_threads(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More clients than are served at a time send nothing, or a byte now and then. A scraper is served all the same."""
    monkeypatch.setattr(exporter_module, "_READ_SECONDS", 0.5)
    start()
    address = address_in(tmp_path)
    most = 0
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(12)]
        answered: list[int] = []
        scraper = threading.Thread(target=lambda: answered.append(get(address, "/hello")[0]))
        scraper.start()
        until = time.monotonic() + 30
        while scraper.is_alive() and time.monotonic() < until:
            most = max(most, sum(thread.name == "metrics request" for thread in threading.enumerate()))
            for client in clients[::2]:
                try:
                    client.send(b"G")
                except OSError:
                    continue
            time.sleep(0.02)
        assert answered == [200]
    assert 1 < most <= exporter_module._MOST_CONNECTIONS


def test_a_client_that_does_not_read_is_dropped(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "_WRITE_SECONDS", 0.2)
    start()
    address = address_in(tmp_path)
    with socket.create_connection(address) as client:
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        wait_until(lambda: any(thread.name == "metrics request" for thread in threading.enumerate()))
        wait_until(lambda: not any(thread.name == "metrics request" for thread in threading.enumerate()))
    assert get(address, "/hello")[0] == 200


def test_a_refusal_is_one_sentence() -> None:
    assert refuse(404, "There is nothing.") == Reply(404, b"There is nothing.\n")
