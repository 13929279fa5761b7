# SPDX-License-Identifier: Apache-2.0
"""The access log, and the id of the request in each record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from zaqar.logs import context
from zaqar.logs.access import AccessLog

MakeApi = Callable[..., Api]


@pytest.fixture
def with_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[MakeApi]:
    caplog.set_level(logging.INFO, "zaqar.access")
    made: list[Api] = []

    def make(access: str, **options: object) -> Api:
        driver = DRIVERS["memory"]
        folder = driver.prepare(tmp_path)
        made.append(Api(driver, folder, clock=FakeClock(), state_dir=str(tmp_path), logging__access=access, **options))
        return made[-1]

    yield make
    for api in made:
        api.close()


def access_of(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "zaqar.access"]


def test_requests_are_not_logged_unless_it_is_asked_for(with_log: MakeApi, caplog: pytest.LogCaptureFixture) -> None:
    with_log("off").send("q", 1)
    assert access_of(caplog) == []


def test_all_requests_are_logged_by_template_without_query_and_with_the_id(
    with_log: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = with_log("all")
    result = api.get("/v2/queues/q/messages?echo=true&marker=" + "0" * 36)
    (record,) = access_of(caplog)
    assert record.getMessage().startswith("GET /v2/queues/{queue_name}/messages 200 0.")
    assert record.getMessage().endswith(f" s project={api.project} queue=q")
    assert record.request_id == result.headers["X-OpenStack-Request-ID"]
    assert set(record.details) == {"method", "route", "status", "seconds", "project", "queue"}
    api.get("/livez")
    assert len(access_of(caplog)) == 1


def test_only_errors_are_logged_on_request(
    with_log: MakeApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = with_log("errors")

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    api.send("q", 1)
    api.get("/v2/queues/q/messages/x")
    assert access_of(caplog) == []
    monkeypatch.setattr(api.parts.messages, "get", fail)
    assert api.get("/v2/queues/q/messages/x").status_code == 500
    assert [record.details["status"] for record in access_of(caplog)] == [500]


@pytest.mark.parametrize(("slow", "logged"), [(0.0, 1), (60.0, 0)])
def test_slow_requests_are_logged_on_request(
    with_log: MakeApi, caplog: pytest.LogCaptureFixture, slow: float, logged: int
) -> None:
    with_log("slow", logging__slow=slow).send("q", 1)
    assert len(access_of(caplog)) == logged


def test_what_is_logged_during_a_request_has_its_id(with_log: MakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api = with_log("off")
    seen: list[str] = []
    post = api.parts.messages.post

    def look(*args: Any) -> list[str]:
        seen.append(context.request_id.get())
        return post(*args)

    monkeypatch.setattr(api.parts.messages, "post", look)
    result = api.post("/v2/queues/q/messages", {"messages": [{"body": 1, "ttl": 60}]})
    assert seen == [result.headers["X-OpenStack-Request-ID"]]


def test_a_request_that_reached_no_queue_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zaqar.access")
    AccessLog(logs_all=True, slow=1.0).note("GET", "other", 404, 0.1)
    assert access_of(caplog)[0].getMessage() == "GET other 404 0.100000 s"
