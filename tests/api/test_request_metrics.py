# SPDX-License-Identifier: Apache-2.0
"""What requests of both transports count."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import ALICE, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.unit.metrics.test_recorder import series_of
from zaqar.metrics.families import CLAIMS, HTTP_DURATION, HTTP_REQUESTS, IN_PROGRESS, WAITING_CLIENTS, Family


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    driver = DRIVERS["memory"]
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path))
    yield api
    api.close()


def cells(folder: Path, family: Family) -> dict[tuple[str, ...], tuple[float, ...]]:
    return {series.labels: series.cells for series in series_of(folder / "metrics") if series.family is family}


def values(folder: Path, family: Family) -> dict[tuple[str, ...], float]:
    return {labels: found[0] for labels, found in cells(folder, family).items()}


def test_requests_are_counted_by_method_route_and_code(api: Api, tmp_path: Path) -> None:
    api.send("q", 1)
    api.send("another", 1)
    api.post("/v2/queues/q/messages", {"messages": "nonsense"})
    api.get("/v2/queues/missing/messages/" + "0" * 36)
    api.get("/nothing/here/at/all")
    assert values(tmp_path, HTTP_REQUESTS) == {
        ("POST", "/v2/queues/{queue_name}/messages", "201"): 2,
        ("POST", "/v2/queues/{queue_name}/messages", "400"): 1,
        ("GET", "/v2/queues/{queue_name}/messages/{message_id}", "404"): 1,
        ("GET", "other", "404"): 1,
    }
    assert api.parts.recorder is not None
    api.parts.recorder.sample()
    assert values(tmp_path, IN_PROGRESS) == {(): 0}
    durations = cells(tmp_path, HTTP_DURATION)["POST", "/v2/queues/{queue_name}/messages"]
    assert sum(durations[:-1]) == 3
    assert durations[-1] > 0


def test_clients_cannot_make_labels(api: Api, tmp_path: Path) -> None:
    for number in range(20):
        api.get(f"/v2/nothing-{number}")
        api.get(f"/v2/queues/q-{number}")
        api.request("OPTIONS", f"/v2/queues/q-{number}")
    assert len(values(tmp_path, HTTP_REQUESTS)) <= 4


def test_claims_are_counted_by_outcome(api: Api, tmp_path: Path) -> None:
    assert api.claim("q") == ("", [])
    api.send("q", 1, 2)
    api.claim("q", limit=1)
    api.post("/v2/queues/q/claims?limit=1&wait=20")
    api.post("/v2/queues/q/claims?wait=1")
    outcomes = ("empty", "filled", "waited_filled", "waited_empty")
    assert values(tmp_path, CLAIMS) == {(outcome,): 1 for outcome in outcomes}


def test_the_time_of_waiting_is_not_the_duration_of_a_request(api: Api, tmp_path: Path) -> None:
    began = time.monotonic()
    api.post("/v2/queues/q/claims?wait=1")
    waited = time.monotonic() - began
    duration = cells(tmp_path, HTTP_DURATION)["POST", "/v2/queues/{queue_name}/claims"][-1]
    assert duration < waited / 2


def test_waiting_clients_are_shown_by_kind(api: Api, tmp_path: Path) -> None:
    recorder, registry = api.parts.recorder, api.parts.hub.registry
    assert recorder is not None
    waiting = threading.Thread(target=api.post, args=("/v2/queues/q/claims?wait=20",))
    waiting.start()
    deadline = time.monotonic() + 30
    while not registry.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    recorder.sample()
    assert values(tmp_path, WAITING_CLIENTS) == {("claim",): 1, ("list",): 0, ("stream",): 0}
    api.send("q", 1)
    waiting.join(30)
    recorder.sample()
    assert values(tmp_path, WAITING_CLIENTS)["claim",] == 0


def test_metrics_can_be_turned_off(tmp_path: Path) -> None:
    driver = DRIVERS["memory"]
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path), metrics__bind="")
    api.send("q", json.dumps(ALICE))
    assert api.parts.recorder is None
    assert not (tmp_path / "metrics").exists()
    api.close()
