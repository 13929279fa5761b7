# SPDX-License-Identifier: Apache-2.0
"""Readers of all kinds on one queue, at the same time: each sees the messages that it should.

curl and the EventSource of a browser follow streams, python-zaqarclient asks for pages, and a claim waits.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from zaqarclient.queues import client as zaqarclient

from tests.acceptance.browser import Browser, Page, find_chromium
from tests.acceptance.programs import find
from tests.acceptance.server import Server, running, wait_until
from tests.event_streams import Parser
from tests.servers import end_with_parent

PROJECT, QUEUE = "shop", "orders"
PATH = f"/v2/queues/{QUEUE}"
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": PROJECT}
SECONDS = 30.0
EVENT_SOURCE = """
var bodies = [], resets = 0;
var source = new EventSource(%s);
source.addEventListener("message", (event) => bodies.push(JSON.parse(event.data).body));
source.addEventListener("reset", () => resets++);
var opened = new Promise((resolve) => source.addEventListener("open", (event) => event.data && resolve(true)));
"""
"""The service sends an event of type ``open``. The event that the browser itself makes has no data."""


def ask(server: Server, method: str, path: str, document: Any = None) -> Any:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)) as connection:
        connection.request(method, path, None if document is None else json.dumps(document), HEADERS)
        response = connection.getresponse()
        raw = response.read()
        assert response.status < 300, raw
        return json.loads(raw) if raw else None


def post(server: Server, *bodies: Any, delay: int = 0) -> None:
    messages = [{"body": body, "ttl": 600, "delay": delay} for body in bodies]
    ask(server, "POST", f"{PATH}/messages", {"messages": messages})


class Waiter(threading.Thread):
    """A claim that waits. ``claim`` is its answer."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.claim: Any = None
        self._server = server
        self.start()

    def run(self) -> None:
        path = f"{PATH}/claims?limit=1&wait=20"
        self.claim = ask(self._server, "POST", path, {"ttl": 300, "grace": 60})

    def bodies(self) -> list[Any]:
        self.join(SECONDS)
        assert not self.is_alive(), "the claim still waits"
        return [message["body"] for message in self.claim["messages"]]


class Curl:
    """``curl -N``, as in the guide."""

    def __init__(self, server: Server, output: Path) -> None:
        self._output = output
        sent = {"Accept": "text/event-stream", **HEADERS}
        headers = [word for name, value in sent.items() for word in ("-H", f"{name}: {value}")]
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    find("curl", package="curl"),
                    "-sN",
                    "-H",
                    "Accept: text/event-stream",
                    *headers,
                    f"{server.url}{PATH}/messages",
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                preexec_fn=end_with_parent,
            )

    def events(self, kind: str) -> list[Any]:
        return [event.json for event in Parser().feed(self._output.read_bytes()) if event.type == kind]

    def bodies(self) -> list[Any]:
        return [data["body"] for data in self.events("message")]


class Poller(threading.Thread):
    """python-zaqarclient, which requests the page after the last message again and again."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.bodies: list[Any] = []
        auth = {"backend": "noauth", "options": {"os_project_id": PROJECT}}
        self._queue = zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth}).queue(QUEUE)
        self._ending = threading.Event()

    def run(self) -> None:
        marker: dict[str, str] = {}
        while not self._ending.wait(0.05):
            for message in list(self._queue.messages(echo=True, **marker)):
                self.bodies.append(message.body)
                marker = {"marker": message.id}

    def end(self) -> None:
        self._ending.set()
        self.join()


@contextmanager
def readers(server: Server, folder: Path) -> Iterator[tuple[Curl, Page, Poller]]:
    expires = (datetime.now(UTC) + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%S")
    share = ask(server, "POST", f"{PATH}/share", {"paths": ["messages"], "methods": ["GET"], "expires": expires})
    query = {name: ",".join(value) if isinstance(value, list) else value for name, value in share.items()}
    curl = Curl(server, folder / "curl")
    poller = Poller(server)
    try:
        with Browser(folder) as browser:
            # The page has the same origin as the service.
            page = browser.open(f"{server.url}/v2/openapi.json")
            page.run(EVENT_SOURCE % json.dumps(f"{PATH}/messages?{urlencode(query)}"))
            assert page.run("opened")
            wait_until(lambda: curl.events("open"))
            poller.start()
            yield curl, page, poller
    finally:
        curl.process.kill()
        curl.process.wait()
        if poller.ident is not None:
            poller.end()


def test_each_kind_of_reader_sees_the_messages_that_it_should(tmp_path: Path) -> None:
    find_chromium()
    config = tmp_path / "zaqar.conf"
    config.write_text("[signed_url]\nsecret_key = a-key-that-only-this-test-has-and-knows\n")
    options = ("--config-file", str(config), "--workers", "2")
    with running(tmp_path / "state", options=options) as server, readers(server, tmp_path) as (curl, page, poller):
        first = Waiter(server)
        time.sleep(0.3)
        post(server, "first")
        assert first.bodies() == ["first"]
        post(server, "late", delay=1)
        post(server, "second", "third")
        wait_until(lambda: len(curl.bodies()) == 4)
        page.wait_for("bodies.length === 4")
        # Streams show claimed messages too, and delayed messages when they are due.
        for shown in (curl.bodies(), page.run("bodies")):
            # The delayed message is the last, unless the machine stood still for its second.
            assert sorted(shown) == ["first", "late", "second", "third"]
            assert [body for body in shown if body != "late"] == ["first", "second", "third"]
        # A page shows no claimed messages, and no delayed message if the poller has passed its position.
        wait_until(lambda: "third" in poller.bodies)
        assert [body for body in poller.bodies if body not in ("first", "late")] == ["second", "third"]
        assert [Waiter(server).bodies() for _ in range(3)] == [["late"], ["second"], ["third"]]
        last = Waiter(server)
        time.sleep(0.3)
        ask(server, "DELETE", f"{PATH}/claims/{first.claim['messages'][0]['href'].rpartition('=')[2]}")
        assert last.bodies() == ["first"]
        # A stream shows each message once, whatever happens to it later.
        assert len(curl.bodies()) == page.run("bodies.length") == 4
        assert page.run("resets") == 0
