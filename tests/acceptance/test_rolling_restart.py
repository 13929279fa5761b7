# SPDX-License-Identifier: Apache-2.0
"""Two servers on one store, behind nginx with the sample configuration, are restarted and reloaded one after the other.

Clients post, claim, delete, pop, page, wait and follow a stream all the time. Each request is answered with success, no
message is lost, and none is under two live claims.
"""

from __future__ import annotations

import http.client
import itertools
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests import servers
from tests.acceptance.backends import POSTGRESQL, REDIS, Backend, started
from tests.acceptance.check_answers import check_all_answers, wait_for_progress
from tests.acceptance.event_loop_thread import EventLoopThread
from tests.acceptance.nginx import OTHER_SERVER, Nginx, password_of
from tests.acceptance.server import HTTP_COMMAND, Server, start, wait_until
from tests.acceptance.stream_readers import events_of
from tests.acceptance.working_clients import Client, Recorder, Route, WorkingClients

DRAIN_SECONDS = 3
KEEPALIVE = {"keepalive_timeout 3s;": "keepalive_timeout 1s;"}
"""The times of the samples are 5 and 3 seconds."""

PAUSE = 0.06
WAIT = 3
SECONDS = 60.0
ANSWER_SECONDS = 90.0
"""Longer than nginx waits for an answer. On a busy machine a request may wait long for the workers of a reload."""

USER = {"Authorization": password_of("shop")}


@dataclass
class Pair:
    """Two servers, and nginx in front of them."""

    servers: list[Server]
    nginx: Nginx
    options: tuple[str, ...]

    def restart(self, number: int) -> None:
        server = self.servers[number]
        assert server.terminate() == 0
        self.servers[number] = start(server.state_dir, port=server.port, options=self.options, command=HTTP_COMMAND)

    def reload(self, number: int) -> None:
        """Send SIGHUP, and wait until other workers have taken the place of the present ones."""
        server = self.servers[number]
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(after := set(server.workers())) == len(before) and not after & before)
        wait_until(server.answers)

    def route(self) -> Route:
        nginx = self.nginx

        def connect() -> http.client.HTTPConnection:
            return http.client.HTTPSConnection("127.0.0.1", nginx.port, timeout=ANSWER_SECONDS, context=nginx.tls)

        return Route(connect, USER, PAUSE)


@contextmanager
def serving(backend: Backend, folder: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        store = stack.enter_context(started(backend))
        config = backend.write_config(store, folder / "zaqar.conf")
        with config.open("a") as file:
            file.write(f"[DEFAULT]\ndrain_delay = {DRAIN_SECONDS}\n")
        options = ("--config-file", str(config), "--workers", "2", "--no-notifier")

        both: list[Server] = []
        stack.callback(end, both)

        def start_one(name: str) -> None:
            both.append(start(folder / name, options=options, command=HTTP_COMMAND))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(start_one, ("one", "other")))
        addresses = [f"{server.host}:{server.port}" for server in both]
        place = stack.enter_context(servers.folder_for("nginx"))
        changes = {**KEEPALIVE, OTHER_SERVER: f"server {addresses[1]} "}
        nginx = stack.enter_context(Nginx(addresses[0], addresses[0], place, changes))
        yield Pair(both, nginx, options)


def end(both: list[Server]) -> None:
    """End the servers at the same time. A second signal ends their delay."""
    for server in (*both, *both):
        server.process.terminate()
    for server in both:
        server.close()


class Waiters:
    """A client that claims with ``wait``, and one that posts a message from time to time, so that the first waits."""

    def __init__(self, pair: Pair) -> None:
        self.recorder = Recorder()
        self.posted: list[str] = []
        self.claimed: list[str] = []
        self._server, self._route = pair.servers[0], pair.route()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._post, self._claim)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> Client:
        return Client(self._server, "shop", self.recorder, self._route)

    def _post(self) -> None:
        client = self._client()
        for number in itertools.count():
            if self._stopping.wait(0.4):
                client.close()
                return
            document = {"messages": [{"body": f"{number}", "ttl": 3600}]}
            if client.ask("POST", "/v2/queues/waits/messages", document) is not None:
                self.posted.append(f"{number}")

    def _claim(self) -> None:
        client = self._client()
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set()
            answer = client.ask(
                "POST", f"/v2/queues/waits/claims?wait={0 if is_last else WAIT}&limit=20", {"ttl": 3600, "grace": 60}
            )
            if answer is not None and answer[1] is not None:
                for message in answer[1]["messages"]:
                    self.claimed.append(message["body"])
                    client.ask("DELETE", message["href"])
        client.close()


@dataclass
class StreamReader:
    """A client that follows a queue, and resumes with the last marker when the server ends the stream."""

    nginx: Nginx
    bodies: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """The last event of each stream that has ended."""

    async def read(self) -> None:
        marker = ""
        while True:
            headers = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", **USER}
            headers |= {"Last-Event-ID": marker} if marker else {}
            path = "/v2/queues/news/messages?from=oldest"
            last = ""
            async with aclosing(events_of("127.0.0.1", self.nginx.port, path, headers, tls=self.nginx.tls)) as events:
                async for event in events:
                    last, marker = event.kind, event.marker or marker
                    if event.kind == "message":
                        self.bodies.append(event.data["body"])
            self.ends.append(last)


BACKENDS = [POSTGRESQL, REDIS] if os.environ.get("ZAQAR_ROLLING_RESTART") == "full" else [POSTGRESQL]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_clients_do_not_notice_that_servers_are_restarted_and_reloaded(backend: Backend, tmp_path: Path) -> None:
    with serving(backend, tmp_path) as pair, EventLoopThread() as loop:
        clients = WorkingClients(pair.servers[0], pair.route())
        reader = StreamReader(pair.nginx)
        with Waiters(pair) as waiters:
            clients.start()
            try:
                wait_for_progress(clients)
                reading = loop.begin(reader.read())
                for change in (pair.restart, pair.reload):
                    for number in range(2):
                        change(number)
                        wait_for_progress(clients)
            finally:
                clients.stop()
        check_all_answers(clients, all_came=True)
        assert (waiters.recorder.lost_answers, waiters.recorder.wrong_answers) == ([], [])
        assert waiters.claimed == waiters.posted
        news = [message["body"] for message in clients.all_messages("news")]
        wait_until(lambda: reading.done() or len(reader.bodies) >= len(news), seconds=SECONDS)
        assert not reading.done() or reading.result() is None
        assert reader.bodies == news
        assert set(reader.ends) == {"bye"}
        assert re.findall(r'" (5\d\d) ', pair.nginx.log("zaqar.log")) == []
