# SPDX-License-Identifier: Apache-2.0
"""Each store is away for a while, and workers and the store are killed while clients work: no answer becomes untrue."""

from __future__ import annotations

import http.client
import json
import signal
import time
import uuid
from typing import Any

import pytest

from tests.acceptance.backends import BACKENDS, Backend, every_backend
from tests.acceptance.check_answers import check_all_answers, wait_for_progress
from tests.acceptance.server import Server, wait_until
from tests.acceptance.service_on_store import Service
from tests.acceptance.working_clients import WorkingClients

PATIENCE = 60.0
QUICK = 5.0
"""The time limit of an answer while the store is away (design, promise 12)."""
SLACK, MOST_TIMES = 3.0, 20.0
"""The allowance for a busy machine: so many more seconds, or so many times the time of an answer without an outage."""
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "p", "Content-Type": "application/json"}
POST = json.dumps({"messages": [{"body": "x", "ttl": 300}]})


def ask(server: Server, method: str, path: str, body: str | None = None) -> tuple[int, str | None, float]:
    """Send a request over a new connection. Returns status, Retry-After, and the seconds it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, HEADERS)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers["Retry-After"], time.monotonic() - began
    finally:
        connection.close()


REQUESTS = [
    ("POST", "/v2/queues/known/messages", POST),
    ("GET", "/v2/queues/known/messages?echo=true", None),
    ("POST", "/v2/queues/known/claims", None),
    ("PUT", "/v2/queues/new", None),
    ("GET", "/v2/queues", None),
    ("GET", "/v2/ping", None),
]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
@every_backend
def test_while_a_store_is_away_requests_are_503_soon_and_the_service_recovers(
    backend: Backend, service_on: Service, how: int
) -> None:
    server, backend_server = service_on.server, service_on.store
    # The tests of one store share a service. Its workers have logged the end of the previous outage.
    wait_until_healed(server)
    wait_until(lambda: ask(server, "GET", "/v2/ping")[0] == 204 and not workers_in_an_outage(server))
    logged_before = len(server.log.read_text())
    slack = max(SLACK, *(MOST_TIMES * ask(server, method, path, body)[2] for method, path, body in REQUESTS))
    backend.signal(backend_server, how)
    try:
        for method, path, body in REQUESTS:
            status, retry_after, seconds = ask(server, method, path, body)
            assert status == 503, (method, path)
            assert retry_after is not None
            assert int(retry_after) > 0
            assert seconds < QUICK + slack, (method, path)
    finally:
        restore(backend, backend_server, how)
    wait_until_healed(server)
    log = server.log.read_text()[logged_before:]
    assert "Traceback" not in log, "one line for each refused request"
    processes = [line.split()[2] for line in log.splitlines() if "is not available: " in line]
    assert processes, "the log does not report the outage"
    assert len(set(processes)) == len(processes), "logged more than once in a process"


def wait_until_healed(server: Server) -> None:
    """Wait until each worker has noticed that the store answers again, which each does for itself."""
    deadline = time.monotonic() + PATIENCE
    healed = 0
    while healed < 5:
        answers = ask(server, "POST", "/v2/queues/known/messages", POST)[0], ask(server, "GET", "/v2/ping")[0]
        healed = healed + 1 if answers == (201, 204) else 0
        assert time.monotonic() < deadline, "the service does not recover"
        time.sleep(0.1)


def workers_in_an_outage(server: Server) -> set[int]:
    """The workers whose last log line about the store says that it is not available."""
    is_away: dict[int, bool] = {}
    for line in server.log.read_text().splitlines():
        if " is not available: " in line or " is available again, " in line:
            is_away[int(line.split()[2])] = " is not available: " in line
    return {pid for pid in server.workers() if is_away.get(pid)}


def restore(backend: Backend, backend_server: Any, how: int) -> None:
    if how == signal.SIGSTOP:
        backend.signal(backend_server, signal.SIGCONT)
    else:
        backend.start_again(backend_server)


# This test is the last on its store: after it the other Redis of a Sentinel may be the master.
@every_backend
def test_after_kills_of_workers_and_the_store_every_answer_is_still_true(service_on: Service) -> None:
    clients = WorkingClients(service_on.server)
    clients.start()
    try:
        wait_for_progress(clients)
        for _ in range(2):
            service_on.kill_worker()
            wait_for_progress(clients)
            service_on.restart_store()
            wait_for_progress(clients)
    finally:
        clients.stop()
    check_all_answers(clients)


def test_every_store_with_a_server_has_a_backend() -> None:
    from tests.conformance.drivers import DRIVERS

    assert {driver.server for driver in DRIVERS.values() if driver.server} <= {backend.name for backend in BACKENDS}
