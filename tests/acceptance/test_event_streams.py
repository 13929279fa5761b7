# SPDX-License-Identifier: Apache-2.0
"""Streams as clients read them: curl, and the EventSource of a real browser with the example page of the guide."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.browser import Browser, Page, find_chromium
from tests.acceptance.raw_http import ask
from tests.acceptance.server import HTTP_COMMAND, Server, start, wait_until
from tests.acceptance.test_websocket_browser import CLIENT, EXAMPLES, NOTE_STATES, post, shown
from tests.event_streams import Parser, ServerEvent
from tests.servers import free_port
from zaqar.access.signed_urls import format_time, sign
from zaqar.transport.wsgi.event_streams import HEARTBEAT_SECONDS

KEY = "a-key-for-signatures-of-the-tests-only"
PROJECT = {"X-Project-ID": "demo"}
MESSAGES = "/v2/queues/greetings/messages"
PAGE = free_port()
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

    def find_events(self) -> list[ServerEvent]:
        """The events in the file; None if the service refused the request."""
        return self.events if self._output.read_bytes().startswith(b"retry: ") else []

    def count_messages(self) -> int:
        return self._output.read_bytes().count(b"\nevent: message\n")

    def wait_for(self, count: int) -> list[ServerEvent]:
        return wait_until(lambda: events if len(events := self.events) >= count else [], seconds=SECONDS)

    def end(self) -> int:
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(SECONDS)
        self.process.kill()
        return self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    find_chromium()
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@dataclass
class Service:
    """A server with one worker and an access log. It allows the origin of the page at PAGE."""

    state: Path
    config: Path
    port: int
    server: Server = field(init=False)

    def start(self) -> Server:
        options = ("--config-file", str(self.config), "--workers", "1")
        environment = {"GUNICORN_CMD_ARGS": "--access-logfile -"}
        self.server = start(self.state, port=self.port, options=options, environment=environment, command=HTTP_COMMAND)
        return self.server


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    config = folder / "zaqar.conf"
    config.write_text(
        f"[signed_url]\nsecret_key = {KEY}\n[cors]\nallowed_origin = http://127.0.0.1:{PAGE}\n"
        f"[transport]\nmax_streams_per_project = {MAX_STREAMS}\n"
    )
    service = Service(folder / "state", config, free_port())
    service.start()
    yield service
    service.server.close()


@pytest.fixture
def server(service: Service) -> Server:
    return service.server


def test_curl_and_a_page_follow_a_queue_through_a_restart(browser: Browser, tmp_path: Path, service: Service) -> None:
    server = service.server
    with ExitStack() as stack:
        page = browser.open(stack.enter_context(site(server, 600)))
        page.wait_for_text("#state", "following")
        page.run(NOTE_STATES)
        curl = Curl(tmp_path, signed(server))
        curl.wait_for(1)
        post(server, PROJECT, {"to": "ann"}, {"to": "<b>bob</b>"})
        assert [event.json["body"] for event in curl.wait_for(3)[1:]] == [{"to": "ann"}, {"to": "<b>bob</b>"}]
        wait_for_bodies(page, [{"to": "ann"}, {"to": "<b>bob</b>"}])

        server.close()
        # The streams end when their signatures expire.
        assert curl.end() == 0
        assert (curl.events[0].type, curl.events[-1].type) == ("open", "bye")
        assert curl.events[-1].json == {"reason": "drain"}
        page.wait_for("states.includes('the stream has ended: drain')")
        log = server.log.read_text()
        assert f'"GET {MESSAGES} HTTP/1.1" 200' in log
        assert "signature" not in log

        server = service.start()
        post(server, PROJECT, {"to": "eve"})
        # The browser itself remembers the last event id.
        wait_for_bodies(page, [{"to": "ann"}, {"to": "<b>bob</b>"}, {"to": "eve"}])
        events: list[ServerEvent] = []
        while not events:
            # If curl starts too slowly, the signature has expired before.
            again = Curl(tmp_path, signed(server, seconds=3), "-H", f"Last-Event-ID: {curl.events[1].last_id}")
            assert again.end() == 0
            events = again.find_events()
        assert [event.json["body"]["to"] for event in events if event.type == "message"] == ["<b>bob</b>", "eve"]
        assert events[-1].json == {"reason": "expired"}
        page.run("location = 'about:blank'")


def test_a_page_gets_a_new_url_when_the_old_one_has_expired(browser: Browser, server: Server) -> None:
    with site(server, 3) as url:
        page = browser.open(url)
        page.wait_for_text("#state", "following")
        page.run(NOTE_STATES)
        expected: list[Any] = []
        while page.run("states.filter((state) => state.endsWith('expired')).length") < 2:
            expected.append({"n": len(expected)})
            post(server, PROJECT, expected[-1])
            time.sleep(0.2)
        wait_for_bodies(page, expected)
        page.run("location = 'about:blank'")


def test_a_stream_of_a_disconnected_client_is_released_before_the_next_message(server: Server) -> None:
    # A heartbeat would notice it too, but later. On a busy machine the test tries again.
    assert any(seconds_until_released(server) < HEARTBEAT_SECONDS / 2 for _ in range(3))


def seconds_until_released(server: Server) -> float:
    """The seconds until the streams of a project, whose clients all disconnect, leave room for another stream."""
    with ExitStack() as stack:
        connections: list[socket.socket] = []
        while len(connections) < MAX_STREAMS:
            connections += open_streams(server, stack, MAX_STREAMS - len(connections))
        for connection in connections:
            connection.close()
        began = time.monotonic()
        wait_until(lambda: open_streams(server, stack, 1), seconds=SECONDS)
        return time.monotonic() - began


def test_streams_of_disconnected_clients_are_released(server: Server) -> None:
    gone = {"X-Project-ID": "gone"}
    for _ in range(3):
        with ExitStack() as stack:
            connections: list[socket.socket] = []

            def is_full(connections: list[socket.socket] = connections, stack: ExitStack = stack) -> bool:
                # A post makes the service check the connections at once; a heartbeat does so later.
                post(server, gone, 1)
                connections += open_streams(server, stack, MAX_STREAMS - len(connections))
                return len(connections) == MAX_STREAMS

            wait_until(is_full, seconds=SECONDS)
            assert open_streams(server, stack, 1) == []
            # Connections are cut in three ways: with a reset, for writing only, and with a close.
            connections[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connections[1].shutdown(socket.SHUT_WR)


def open_streams(server: Server, stack: ExitStack, count: int) -> list[socket.socket]:
    """Up to ``count`` connections, each with a stream that has begun; fewer if the service refuses more."""
    opened: list[socket.socket] = []
    for _ in range(count):
        connection = stack.enter_context(socket.create_connection((server.host, server.port), SECONDS))
        head = f"Host: x\r\nAccept: text/event-stream\r\nX-Project-ID: gone\r\nClient-ID: {CLIENT}\r\n\r\n"
        connection.sendall(f"GET {MESSAGES} HTTP/1.1\r\n{head}".encode())
        status = int(connection.recv(65536).split()[1])
        if status == 200:
            opened.append(connection)
        else:
            assert status == 429
    return opened


def test_a_stream_with_a_backlog_does_not_block_other_requests(tmp_path: Path, server: Server) -> None:
    """With one worker, and a client that reads as fast as it can."""
    for _ in range(20):
        post(server, PROJECT, *("x" * 1000 for _ in range(100)))
    curl = Curl(tmp_path, signed(server, query="&from=oldest"))
    wait_until(lambda: curl.count_messages() > 0, seconds=SECONDS)
    assert ask(server, "GET", "/v2/ping", project="demo").status == 204
    wait_until(lambda: curl.count_messages() >= 2000, seconds=SECONDS)
    curl.process.kill()
    curl.end()


@contextmanager
def site(server: Server, seconds: int) -> Iterator[str]:
    """Serve the example page of the guide as its reader does."""
    with subprocess.Popen([sys.executable, str(EXAMPLES / "live.py"), server.url, str(PAGE), str(seconds)]) as process:
        try:
            wait_until(lambda: is_open(PAGE), seconds=SECONDS)
            yield f"http://127.0.0.1:{PAGE}/"
        finally:
            process.kill()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_bodies(page: Page, expected: list[Any]) -> None:
    page.wait_for(f"document.querySelectorAll('li').length >= {len(expected)}")
    assert shown(page) == expected
