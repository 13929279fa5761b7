# SPDX-License-Identifier: Apache-2.0
"""Limits of projects on a real server: rates are exact, several workers share them, and neighbours notice nothing."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.server import HTTP_COMMAND, Server, running

RATE = 100
BURST = 2
SECONDS = 4.0

PAUSE = 0.005
"""Seconds between two requests of a client in the test of neighbours."""

ATTEMPTS = 3
MOST_TIMES = 3.0
"""How many times the time without a neighbour is allowed beside a project that is throttled."""


@contextmanager
def limited_server(folder: Path, *, workers: int, options: str) -> Iterator[Server]:
    config = folder / "zaqar.conf"
    config.write_text(f"[quota]\n{options}\n")
    arguments = ("--config-file", str(config), "--workers", str(workers))
    with running(folder / "state", options=arguments, command=HTTP_COMMAND) as server:
        yield server


class Client:
    """A connection of one project."""

    def __init__(self, server: Server, project: str) -> None:
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=60)

    def ask(self, method: str, path: str, document: object = None) -> http.client.HTTPResponse:
        body = None if document is None else json.dumps(document)
        self._connection.request(method, f"/v2{path}", body, self._headers)
        response = self._connection.getresponse()
        response.read()
        return response

    def post(self, messages: int = 1) -> http.client.HTTPResponse:
        return self.ask("POST", "/queues/q/messages", {"messages": [{"body": "x", "ttl": 600}] * messages})

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker and a rate of messages for each project."""
    folder = tmp_path_factory.mktemp("limits")
    with limited_server(folder, workers=1, options=f"post_rate = {RATE}\nburst = {BURST}") as server:
        yield server


def test_the_rate_is_exact_with_one_worker(server: Server) -> None:
    """A project that always wants more gets the burst and the rate."""
    client, at_once = Client(server, "greedy"), 2
    statuses: Counter[int] = Counter()
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        answer = client.post(messages=at_once)
        statuses[answer.status] += 1
        if answer.status == 429:
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["RateLimit-Policy"] == f'"post";q={RATE * BURST};w={BURST}'
    took = time.monotonic() - began
    client.close()
    assert set(statuses) == {201, 429}
    assert statuses[201] * at_once == pytest.approx(RATE * BURST + RATE * took, rel=0.01)


def test_several_workers_together_stay_within_the_rate(tmp_path: Path) -> None:
    with limited_server(tmp_path, workers=2, options=f"request_rate = {RATE}\nburst = {BURST}") as server:
        began = time.monotonic()
        statuses: Counter[int] = Counter()
        while time.monotonic() < began + SECONDS / 2:
            # A new connection each time may reach another worker.
            client = Client(server, "busy")
            statuses.update(client.ask("GET", "/queues/q").status for _ in range(5))
            client.close()
        took = time.monotonic() - began
    whole = RATE * BURST + RATE * took
    # At least the share of one worker, and never more than all.
    assert min(whole, statuses.total()) / 2 * 0.98 <= statuses[200] <= whole * 1.01


class Throttled(threading.Thread):
    """A client that posts messages much faster than it may, and does not heed Retry-After."""

    def __init__(self, server: Server, project: str) -> None:
        super().__init__()
        self._client = Client(server, project)
        self._end = threading.Event()
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        while not self._end.wait(PAUSE):
            self.statuses[self._client.post(messages=50).status] += 1

    def end(self) -> None:
        self._end.set()
        self.join()
        self._client.close()


def percentile(client: Client, posts: int = 150) -> float:
    """The time in which 99 of 100 posts at a steady pace are answered."""
    times = []
    for _ in range(posts):
        began = time.perf_counter()
        assert client.post().status == 201
        times.append(time.perf_counter() - began)
        time.sleep(1 / RATE)
    return sorted(times)[int(posts * 0.99)]


def test_a_project_that_is_throttled_does_not_delay_others(server: Server) -> None:
    quiet = Client(server, "quiet")
    percentile(quiet, 20)  # The worker has to know the queue.
    alone = beside = 0.0
    for _ in range(ATTEMPTS):
        alone = max(alone, percentile(quiet))
        neighbours = [Throttled(server, "busy") for _ in range(2)]
        for neighbour in neighbours:
            neighbour.start()
        beside = percentile(quiet)
        for neighbour in neighbours:
            neighbour.end()
        statuses = sum((neighbour.statuses for neighbour in neighbours), Counter[int]())
        assert set(statuses) == {201, 429}
        assert statuses[429] > statuses[201]
        if beside <= MOST_TIMES * alone:
            break
    quiet.close()
    print(f"99 % of posts: {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside a throttled project")
    assert beside <= MOST_TIMES * alone
