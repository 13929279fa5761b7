# SPDX-License-Identifier: Apache-2.0
"""A service on each store, for tests that kill its processes. The tests of one store share it, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.backends import CLUSTER, MONGODB, POSTGRESQL, REDIS, Backend, started
from tests.acceptance.server import Server, kill, start, wait_until
from tests.acceptance.working_clients import Client

OPTIONS = ("--workers", "2")
WEBSOCKET = "zaqar.cmd.websocket"
STORES = (None, POSTGRESQL, REDIS, CLUSTER, MONGODB)
each_store = pytest.mark.parametrize(
    "backend", STORES, ids=lambda backend: backend.name if backend is not None else "sqlite", scope="session"
)


@dataclass
class Service:
    """The service on a store. It may be restarted on the same port. ``store`` is the server of the store."""

    server: Server
    backend: Backend | None
    store: Any
    options: tuple[str, ...]

    def restart(self) -> None:
        """Kill all its processes, and start it again."""
        self.server.kill()
        self.server = start(self.server.state_dir, port=self.server.port, options=self.options)

    def kill_worker(self) -> None:
        kill(self.server.workers()[:1])

    def kill_websocket(self) -> None:
        kill(self.server.parts(WEBSOCKET))

    def kill_servers(self) -> None:
        """Kill all processes that serve clients, at the same time."""
        kill([*self.server.workers(), *self.server.parts(WEBSOCKET)])

    def restart_store(self) -> None:
        """Kill and restart the server of the store, or one of its servers. The embedded store dies with the service."""
        if self.backend is not None:
            self.backend.kill_and_restore(self.store)


@contextmanager
def serving(backend: Backend | None, folder: Path) -> Iterator[Service]:
    """A service on this store."""
    with ExitStack() as stack:
        store, options = None, OPTIONS
        if backend is not None:
            store = stack.enter_context(started(backend))
            options += ("--config-file", str(backend.write_config(store, folder / "zaqar.conf")))
        service = Service(start(folder / "state", options=options), backend, store, options)
        stack.callback(lambda: service.server.close())
        yield service


def all_bodies(client: Client, queue: str) -> dict[str, Any]:
    """The bodies of all messages of the queue, including claimed ones, by their ids and in order."""
    found: dict[str, Any] = {}
    path = f"/v2/queues/{queue}/messages?echo=true&include_claimed=true&limit=20"
    while True:
        answer = wait_until(lambda path=path: client.ask("GET", path))  # type: ignore[misc]
        if not answer[1]["messages"]:
            return found
        found.update((message["id"], message["body"]) for message in answer[1]["messages"])
        path = answer[1]["links"][0]["href"]
