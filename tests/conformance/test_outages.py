# SPDX-License-Identifier: Apache-2.0
"""Promise 12, outages: the log has a line when a store goes away and one when it is back, not one per request."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests import servers
from tests.acceptance.backends import CLUSTER, MONGODB, POSTGRESQL, REDIS, Backend, started
from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import QueueClient
from zaqar.errors import StoreUnavailable
from zaqar.storage.base import outages

PATIENCE = 60.0
BACKENDS = {backend.name: backend for backend in (POSTGRESQL, REDIS, CLUSTER, MONGODB)}


class File:
    """An SQLite database that can be taken away with its folder."""

    def __init__(self) -> None:
        self._folder = servers.new_folder("sqlite")
        self.address = DRIVERS["sqlite"].prepare(self._folder)
        self._away = self._folder.with_suffix(".away")

    @contextmanager
    def away(self) -> Iterator[None]:
        self._folder.rename(self._away)
        yield
        self._away.rename(self._folder)

    def stop(self) -> None:
        shutil.rmtree(self._folder)


class Killed:
    """A server of a kind, all of whose processes are killed."""

    def __init__(self, backend: Backend, server: Any) -> None:
        self._backend, self._server = backend, server
        uri = backend.options(server)["uri"]
        # Else each operation looks for a primary for seconds.
        self.address = f"{uri}&serverSelectionTimeoutMS=200 outages" if backend is MONGODB else uri

    @contextmanager
    def away(self) -> Iterator[None]:
        self._backend.signal(self._server, signal.SIGKILL)
        yield
        self._backend.start_again(self._server)


@contextmanager
def store_of(name: str) -> Iterator[File | Killed]:
    if name == "sqlite":
        file = File()
        yield file
        file.stop()
        return
    if name == MONGODB.name:
        alone = servers.own(partial(servers.MongoSet, size=1))  # which is primary again soon
        yield Killed(MONGODB, alone)
        alone.stop()
        return
    with started(BACKENDS[name]) as server:
        yield Killed(BACKENDS[name], server)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["sqlite", *BACKENDS])
def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "QUIET_SECONDS", 0.0)
    for patience in ("transactions.STEP_TIMEOUT", "connection.PING_TIMEOUT"):
        monkeypatch.setattr(f"zaqar.storage.mongodb.client.{patience}", 0.5)  # or it is what the test waits for
    caplog.set_level(logging.INFO)
    with store_of(name) as store:
        messages, management = DRIVERS[name].open_messages(store.address), DRIVERS[name].open_management(store.address)
        orders = QueueClient(messages)
        orders.post("a")
        caplog.clear()
        with store.away():
            refused = 0
            for operation in (orders.listing, lambda: orders.post("b"), management.ping, orders.listing):
                with pytest.raises(StoreUnavailable) as caught:
                    operation()
                refused += 1
                assert caught.value.is_logged
        begins = [record for record in caplog.records if "is not available" in record.getMessage()]
        assert len(begins) == 1, [record.getMessage() for record in begins]
        assert "\n" not in begins[0].getMessage()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                orders.post("c")
                break
            except StoreUnavailable:
                refused += 1
                assert time.monotonic() < deadline, "it does not come back"
                time.sleep(0.1)
        messages.close()
        management.close()
    lines = [record for record in caplog.records if record.name == outages.__name__]
    assert len(lines) == 2, [record.getMessage() for record in lines]
    assert "is available again" in lines[1].getMessage()
    assert [record for record in caplog.records if record.exc_info] == [], "a traceback"
    assert int(lines[1].getMessage().split("; ")[1].split()[0]) >= refused
