# SPDX-License-Identifier: Apache-2.0
"""The examples of the guides work: a real browser opens the page, authenticates, subscribes and is pushed messages."""

from __future__ import annotations

import functools
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.browser import Browser, Page, find_chromium
from tests.acceptance.cloud import Cloud, running_cloud
from tests.acceptance.server import COMMAND, Server, running
from tests.servers import free_port
from tests.virtualenvs import KEYSTONE

VIRTUALENVS = (KEYSTONE,)
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CLIENT = "98e1f4a6-2b9e-11e3-b191-71861300734d"
ALLOWED = free_port()
"""The port of the page whose origin may connect."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Do not print the requests of the page."""


@contextmanager
def serving(port: int = 0) -> Iterator[str]:
    """Serve the page on a port of its own. Yields its URL."""
    handler = functools.partial(_Quiet, directory=EXAMPLES)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/push.html"
        finally:
            server.shutdown()
            thread.join()


LINES = f"[cors]\nallowed_origin = http://127.0.0.1:{ALLOWED}\n"


def post(server: Server, headers: dict[str, str], *bodies: Any, queue: str = "greetings") -> None:
    messages = json.dumps({"messages": [{"body": body, "ttl": 600} for body in bodies]})
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=30)) as connection:
        sent = {"Client-ID": CLIENT, "Content-Type": "application/json", **headers}
        connection.request("POST", f"/v2/queues/{queue}/messages", messages, sent)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()


def connect(page: Page, server: Server, project: str, token: str = "") -> None:
    page.fill("url", server.websocket_url)
    page.fill("project", project)
    page.fill("token", token)
    page.click("button")


def shown(page: Page) -> list[Any]:
    """The bodies that the page shows, in their order."""
    texts: list[str] = page.run("Array.from(document.querySelectorAll('li'), (item) => item.textContent)")
    return [json.loads(text) for text in texts]


NOTE_STATES = """
var states = [];
new MutationObserver(() => states.push(document.querySelector("#state").innerText))
    .observe(document.querySelector("#state"), {childList: true, characterData: true, subtree: true});
"""
"""Records every state, because a state may end before the test looks at it."""


def wait_for_bodies(page: Page, expected: list[Any]) -> None:
    page.wait_for(f"document.querySelectorAll('li').length >= {len(expected)}")
    assert shown(page) == expected


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    find_chromium()
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    with serving(ALLOWED) as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    config = folder / "zaqar.conf"
    config.write_text(LINES)
    with running(folder / "state", options=("--config-file", str(config), "--workers", "1")) as server:
        yield server


def test_a_page_gets_posted_messages_pushed(browser: Browser, page_url: str, server: Server) -> None:
    project = {"X-Project-ID": "demo"}
    page = browser.open(page_url)
    connect(page, server, "demo")
    page.wait_for_text("#state", "subscribed")
    post(server, project, {"to": "ann"}, {"to": "<b>bob</b>"})
    post(server, project, {"to": "eve"})
    expected: list[Any] = [{"to": "ann"}, {"to": "<b>bob</b>"}, {"to": "eve"}]
    wait_for_bodies(page, expected)
    # The connection breaks, messages are posted meanwhile, and the page reconnects by itself and catches up.
    page.run("subscriber.pause = 2")
    page.run(NOTE_STATES)
    page.run("subscriber.socket.close()")
    page.wait_for("states.some((state) => state.includes('trying again'))")
    post(server, project, {"to": "zoe"})
    page.wait_for_text("#state", "subscribed")
    post(server, project, {"to": "joe"})
    wait_for_bodies(page, [*expected, {"to": "zoe"}, {"to": "joe"}])


def test_a_page_of_another_origin_is_refused(browser: Browser, server: Server) -> None:
    with serving() as url:
        page = browser.open(url)
        connect(page, server, "demo")
        page.wait_for_text("#state", "closed with code 1006")
        assert shown(page) == []


def test_the_program_of_the_readme_prints_posted_messages(server: Server) -> None:
    program = (EXAMPLES / "subscribe.py").read_text()
    assert program.count("ws://127.0.0.1:9000") == 1
    program = program.replace("ws://127.0.0.1:9000", server.websocket_url)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "status 201\n"
            post(server, {"X-Project-ID": "demo"}, {"to": "ann"}, {"to": "bob"}, queue="mail")
            assert [process.stdout.readline() for _ in range(2)] == ["pushed {'to': 'ann'}\n", "pushed {'to': 'bob'}\n"]
        finally:
            process.kill()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with running_cloud(tmp_path, LINES, command=COMMAND) as cloud:
        yield cloud


def test_a_page_authenticates_with_keystone(browser: Browser, page_url: str, cloud: Cloud) -> None:
    user = cloud.new_user("member")
    token = cloud.token(user)
    page = browser.open(page_url)
    connect(page, cloud.server, cloud.project_id, "no token")
    page.wait_for_text("#state", "401: ")
    connect(page, cloud.server, cloud.project_id, token)
    page.wait_for_text("#state", "subscribed")
    post(cloud.server, {"X-Auth-Token": token}, {"to": "ann"})
    wait_for_bodies(page, [{"to": "ann"}])
