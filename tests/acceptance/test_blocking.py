# SPDX-License-Identifier: Apache-2.0
"""One gevent worker and a pool whose store is silent or locked: requests for other pools are answered meanwhile."""

from __future__ import annotations

import http.client
import json
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.backends import CLUSTER, MONGODB, POSTGRESQL, REDIS, SENTINEL, Backend, started
from tests.acceptance.server import HTTP_COMMAND, Server, running

WINDOW = 1.0
"""Seconds for which a store does not answer. Every driver waits longer than that."""

AT_ONCE = 5
"""Concurrent requests for the store that does not answer."""

LEAST_SHARE = 0.02
"""The least share of requests, compared with a time in which all stores answer. A blocked worker answers none.

On a quiet machine the share is about 1; a busy one may be slower in one of the two windows.
"""

ATTEMPTS = 3
TIMEOUT = 60.0

POST = {"messages": [{"body": "x", "ttl": 300}]}


@dataclass(frozen=True)
class Case:
    """A store, the URI of a pool on it, and a way to make it silent."""

    started: Callable[[Path], AbstractContextManager[Any]]
    uri: Callable[[Any], str]
    away: Callable[[Any], AbstractContextManager[None]]


def on(backend: Backend) -> Case:
    @contextmanager
    def silent(server: Any) -> Iterator[None]:
        """Stop the processes of the server. The kernel still accepts connections for it."""
        backend.signal(server, signal.SIGSTOP)
        try:
            yield
        finally:
            backend.signal(server, signal.SIGCONT)

    def uri(server: Any) -> str:
        found = backend.options(server)["uri"]
        return found.replace("/?", "/pool?") if backend is MONGODB else found

    return Case(lambda _: started(backend), uri, silent)


@contextmanager
def sqlite_file(folder: Path) -> Iterator[Path]:
    yield folder / "locked.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds SQLite's write lock, for example to restore a backup or while it is stopped."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


CASES = {
    "sqlite": Case(sqlite_file, lambda path: f"sqlite:///{path}", locked),
    **{backend.name: on(backend) for backend in (POSTGRESQL, REDIS, CLUSTER, SENTINEL, MONGODB)},
}


def ask(server: Server, method: str, path: str, document: Any = None) -> int:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=TIMEOUT)
    headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "p", "X-Roles": "admin"}
    try:
        connection.request(method, path, None if document is None else json.dumps(document), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("blocking")
    config = folder / "zaqar.conf"
    config.write_text("[DEFAULT]\nadmin_mode = True\npooling = True\n")
    with running(
        folder / "state", options=("--config-file", str(config), "--workers", "1"), command=HTTP_COMMAND
    ) as server:
        make_pool(server, "other", f"sqlite:///{folder}/other.db")
        yield server


def make_pool(server: Server, name: str, uri: str) -> None:
    """Create a pool with a new name, and a queue on it with the same name. Use the queue once."""
    assert ask(server, "PUT", f"/v2/pools/{name}", {"uri": uri, "weight": 1}) == 201
    assert ask(server, "PUT", f"/v2/flavors/{name}", {"pool_list": [name]}) == 201
    assert ask(server, "PUT", f"/v2/queues/{name}", {"_flavor": name}) == 201
    assert ask(server, "POST", f"/v2/queues/{name}/messages", POST) == 201


def answered_by_others(server: Server) -> int:
    """The number of requests without the store that are answered within the window."""
    end = time.monotonic() + WINDOW
    answers = 0
    while True:
        assert ask(server, "POST", "/v2/queues/other/messages", POST) == 201
        assert ask(server, "GET", "/") == 300
        if time.monotonic() > end:
            return answers
        answers += 1


@dataclass
class Outage:
    """Observations during an outage, and of the requests for the store."""

    seconds: float
    answers: int
    early: int
    """Requests for the store that were answered during the outage."""
    statuses: list[int]


def outage(server: Server, case: Case, store: Any, queue: str) -> Outage:
    statuses: list[int] = []

    def post() -> None:
        statuses.append(ask(server, "POST", f"/v2/queues/{queue}/messages", POST))

    waiting = [threading.Thread(target=post) for _ in range(AT_ONCE)]
    with case.away(store):
        began = time.monotonic()
        for thread in waiting:
            thread.start()
        answers, early = answered_by_others(server), len(statuses)
        seconds = time.monotonic() - began
    for thread in waiting:
        thread.join()
    return Outage(seconds, answers, early, statuses)


@pytest.mark.parametrize("name", CASES)
def test_a_store_that_does_not_answer_does_not_delay_requests_for_other_stores(
    server: Server, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    # tox may run a test twice with the same server.
    pool = f"{name}-{uuid.uuid4().hex[:8]}"
    with case.started(tmp_path) as store:
        make_pool(server, pool, case.uri(store))
        control = answered_by_others(server)
        for _ in range(ATTEMPTS):
            seen = outage(server, case, store, pool)
            assert set(seen.statuses) <= {201, 503}
            assert len(seen.statuses) == AT_ONCE
            if seen.seconds < 2 * WINDOW:
                break
            # The machine stood still, perhaps for longer than a driver waits.
    assert seen.answers > control * LEAST_SHARE, f"{control} answers before"
    assert seen.early < AT_ONCE, "no request was waiting for the store"
