# SPDX-License-Identifier: Apache-2.0
"""Streams as their clients read them: curl, and the EventSource of a real browser with the example of the guide."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.browser import Browser, Page, find_chromium
from tests.acceptance.server import Server, running, start, wait_until
from tests.acceptance.test_websocket_browser import EXAMPLES, NOTE_STATES, post, shown
from tests.acceptance.wire import ask
from tests.event_streams import Parser, ServerEvent
from tests.servers import free_port
from zaqar.signed_urls import format_time, sign

KEY = "a-key-for-signatures-of-the-tests-only"
PROJECT = {"X-Project-ID": "demo"}
MESSAGES = "/v2/queues/greetings/messages"
MAX_STREAMS = 4
SECONDS = 60.0


def signed(server: Server, seconds: float = 600, query: str = "") -> str:
    """The URL of a stream that needs no headers."""
    expires = format_time(time.time() + seconds)
    signature = sign(KEY, project="demo", paths=[MESSAGES], methods=["GET"], expires=expires)
    grant = f"signature={signature}&expires={expires}&project=demo&paths={MESSAGES}&methods=GET"
    return f"{server.url}{MESSAGES}?{grant}{query}"


class Curl:
    """A curl that follows a stream and writes into a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        program = shutil.which("curl")
        if program is None:
            pytest.skip("no curl on PATH")
        self._output = folder / f"curl-{time.monotonic_ns()}"
        command = [program, "--silent", "--show-error", "--no-buffer", "--noproxy", "*", *arguments]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "-H", "Accept: text/event-stream"], stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def events(self) -> list[ServerEvent]:
        return list(Parser().feed(self._output.read_bytes()))

    def wait_for(self, count: int) -> list[ServerEvent]:
        return wait_until(lambda: events if len(events := self.events) >= count else [], seconds=SECONDS)

    def end(self) -> int:
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(SECONDS)
        self.process.kill()
        return self.process.wait()


@pytest.fixture
def config(tmp_path: Path) -> tuple[Path, int]:
    """A configuration, and the port of the page that it lets in."""
    file, port = tmp_path / "zaqar.conf", free_port()
    file.write_text(
        f"[signed_url]\nsecret_key = {KEY}\n[cors]\nallowed_origin = http://127.0.0.1:{port}\n"
        f"[transport]\nmax_streams_per_project = {MAX_STREAMS}\n"
    )
    return file, port


def options(config: Path) -> tuple[str, ...]:
    return ("--config-file", str(config), "--workers", "1")


def test_curl_follows_a_queue_through_a_restart(tmp_path: Path, config: tuple[Path, int]) -> None:
    state, port = tmp_path / "state", free_port()
    environment = {"GUNICORN_CMD_ARGS": "--access-logfile -"}
    server = start(state, port=port, options=options(config[0]), environment=environment)
    try:
        first = Curl(tmp_path, signed(server))
        assert first.wait_for(1)[0].type == "open"
        post(server, PROJECT, {"n": 1}, {"n": 2})
        assert [event.json["body"]["n"] for event in first.wait_for(3)[1:]] == [1, 2]
        last = first.events[1].last_id
    finally:
        began = time.monotonic()
        server.close()
    # The stream ends by itself, long before the drain of the server is over.
    assert first.end() == 0
    assert (first.events[-1].type, first.events[-1].json) == ("bye", {"reason": "drain"})
    assert time.monotonic() - began < SECONDS
    log = server.log.read_text()
    assert f'"GET {MESSAGES} HTTP/1.1" 200' in log
    assert "signature" not in log

    with running_again(state, port, config[0]) as server:
        post(server, PROJECT, {"n": 3})
        again = Curl(tmp_path, signed(server, seconds=2), "-H", f"Last-Event-ID: {last}")
        assert [event.json["body"]["n"] for event in again.wait_for(3)[1:3]] == [2, 3]
        # Its signature ends.
        assert again.end() == 0
        assert again.events[-1].json == {"reason": "expired"}


@contextmanager
def running_again(state: Path, port: int, config: Path) -> Iterator[Server]:
    server = start(state, port=port, options=options(config))
    try:
        yield server
    finally:
        server.close()


def test_streams_of_clients_that_have_gone_are_released(tmp_path: Path, config: tuple[Path, int]) -> None:
    with running(tmp_path / "state", options=options(config[0])) as server:
        for _ in range(3):
            with ExitStack() as stack:
                connections = [stack.enter_context(stream(server)) for _ in range(MAX_STREAMS)]
                assert refused(server) == 429
                # Each is cut in another way: closed, with a reset, and for writing only.
                connections[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connections[1].shutdown(socket.SHUT_WR)
            # A post makes the service look at the connections at once, and a beat does so later.
            post(server, PROJECT, 1)
            wait_until(lambda: refused(server) == 0, seconds=SECONDS)


@contextmanager
def stream(server: Server) -> Iterator[socket.socket]:
    """A connection with a stream that has begun."""
    with socket.create_connection((server.host, server.port), SECONDS) as connection:
        target = signed(server).removeprefix(server.url)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        received = b""
        while b"event: open" not in received:
            received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 "[: len(received)])
        yield connection


def refused(server: Server) -> int:
    """The status with which one more stream is refused; 0 if it is not."""
    with socket.create_connection((server.host, server.port), SECONDS) as connection:
        target = signed(server).removeprefix(server.url)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        status = int(connection.recv(65536).split()[1])
    return 0 if status == 200 else status


def test_a_stream_beside_other_requests(tmp_path: Path, config: tuple[Path, int]) -> None:
    """One worker, and a backlog that is read as fast as it can be sent."""
    with running(tmp_path / "state", options=options(config[0])) as server:
        for _ in range(100):
            post(server, PROJECT, *("x" * 1000 for _ in range(100)))
        curl = Curl(tmp_path, signed(server, query="&from=oldest"))
        curl.wait_for(2)
        assert ask(server, "GET", "/v2/ping", project="demo").status == 204
        assert len(curl.wait_for(10_001)) == 10_001
        curl.process.kill()
        curl.end()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    find_chromium()
    with Browser(tmp_path) as browser:
        yield browser


@contextmanager
def site(server: Server, port: int, seconds: int) -> Iterator[str]:
    """The example of the guide, as a reader starts it."""
    with subprocess.Popen([sys.executable, str(EXAMPLES / "live.py"), server.url, str(port), str(seconds)]) as process:
        try:
            wait_until(lambda: is_open(port), seconds=SECONDS)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_bodies(page: Page, expected: list[Any]) -> None:
    page.wait_for(f"document.querySelectorAll('li').length >= {len(expected)}")
    assert shown(page) == expected


def test_a_page_follows_a_queue_through_a_restart(browser: Browser, tmp_path: Path, config: tuple[Path, int]) -> None:
    state, port = tmp_path / "state", free_port()
    with ExitStack() as stack:
        server = start(state, port=port, options=options(config[0]))
        stack.callback(server.close)
        page = browser.open(stack.enter_context(site(server, config[1], 600)))
        page.wait_for_text("#state", "following")
        page.run(NOTE_STATES)
        post(server, PROJECT, {"to": "ann"}, {"to": "<b>bob</b>"})
        wait_for_bodies(page, [{"to": "ann"}, {"to": "<b>bob</b>"}])

        server.close()
        page.wait_for("states.includes('the stream has ended: drain')")
        server = start(state, port=port, options=options(config[0]))
        stack.callback(server.close)
        post(server, PROJECT, {"to": "eve"})
        wait_for_bodies(page, [{"to": "ann"}, {"to": "<b>bob</b>"}, {"to": "eve"}])
        page.wait_for_text("#state", "following")


def test_a_page_gets_a_new_url_when_the_old_one_has_expired(
    browser: Browser, tmp_path: Path, config: tuple[Path, int]
) -> None:
    with (
        running(tmp_path / "state", options=options(config[0])) as server,
        site(server, config[1], 3) as url,
    ):
        page = browser.open(url)
        page.wait_for_text("#state", "following")
        page.run(NOTE_STATES)
        numbers = iter(range(1000))
        expected: list[Any] = []
        while page.run("states.filter((state) => state.endsWith('expired')).length") < 2:
            expected.append({"n": next(numbers)})
            post(server, PROJECT, expected[-1])
            time.sleep(0.1)
        wait_for_bodies(page, expected)
        assert json.loads(page.run("JSON.stringify(states)")).count("following") >= 1
