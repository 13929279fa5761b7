# SPDX-License-Identifier: Apache-2.0
"""The probes over HTTP, in the application: they need no headers, and say what operators rely on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from falcon.testing import Result

from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.unit.metrics.test_recorder import series_of
from zaqar.errors import StoreUnavailable
from zaqar.metrics.families import HTTP_REQUESTS

NO_HEADERS: dict[str, str | None] = {"Client-ID": None, "X-Project-ID": None}

PATHS = ("/livez", "/healthz", "/readyz", "/healthcheck")

MakeApi = Callable[..., Api]


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[MakeApi]:
    made: list[Api] = []

    def make(**options: object) -> Api:
        driver = DRIVERS["memory"]
        api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path), **options)
        made.append(api)
        return api

    yield make
    for api in made:
        api.close()


def probe(api: Api, path: str, method: str = "GET", **headers: str) -> Result:
    return api.request(method, path, headers={**NO_HEADERS, **headers})


def wait_for(api: Api, status: int, path: str = "/readyz") -> Result:
    deadline = time.monotonic() + 30
    while (result := probe(api, path)).status_code != status:
        assert time.monotonic() < deadline, result.text
        time.sleep(0.01)
    return result


def test_a_process_is_alive_and_becomes_ready(make_api: MakeApi) -> None:
    api = make_api()
    for path in ("/livez", "/healthz"):
        result = probe(api, path)
        assert (result.status_code, result.text) == (200, "ok\n")
        assert result.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert result.headers["Cache-Control"] == "no-store"
    assert wait_for(api, 200).text == "ok\n"
    assert probe(api, "/readyz?verbose").text == "[+] stores: ok\n[+] drain: ok\n[+] disable file: ok\nready\n"


def test_a_store_that_was_never_reached_makes_a_process_unready_but_not_dead(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api()

    def fail() -> NoReturn:
        raise StoreUnavailable

    monkeypatch.setattr(api.parts.management, "ping", fail)
    assert wait_for(api, 503).text == "The stores have not answered yet.\n"
    assert "[-] stores: The stores have not answered yet.\n" in probe(api, "/readyz?verbose=").text
    assert probe(api, "/livez").status_code == 200
    assert probe(api, "/healthcheck").status_code == 200


def test_the_disable_file_takes_the_server_out_of_the_balancer(make_api: MakeApi, tmp_path: Path) -> None:
    file = tmp_path / "out-of-service"
    api = make_api(healthcheck__disable_by_file_path=str(file))
    wait_for(api, 200)
    file.touch()
    assert probe(api, "/readyz").status_code == 503
    assert probe(api, "/livez").status_code == 200
    result = probe(api, "/healthcheck")
    assert (result.status_code, result.text) == (503, "DISABLED BY FILE")
    result = probe(api, "/healthcheck", Accept="application/json")
    assert (result.status_code, result.json) == (503, {"detailed": False, "reasons": ["DISABLED BY FILE"]})
    # Requests are served all the same: the balancer decides.
    assert api.put("/v2/queues/q").status_code == 201
    file.unlink()
    assert probe(api, "/readyz").status_code == 200


def test_healthcheck_answers_as_oslo_middleware_does(make_api: MakeApi) -> None:
    api = make_api()
    result = probe(api, "/healthcheck")
    assert (result.status_code, result.text) == (200, "OK")
    assert probe(api, "/healthcheck", "HEAD").status_code == 204
    result = probe(api, "/healthcheck", Accept="application/json")
    assert (result.status_code, result.json) == (200, {"detailed": False, "reasons": ["OK"]})


@pytest.mark.parametrize("path", PATHS)
def test_every_client_gets_an_answer(make_api: MakeApi, path: str) -> None:
    api = make_api()
    wait_for(api, 200)
    for accept in ("*/*", "text/html", "application/json", "text/plain;q=0.1", "nonsense"):
        assert probe(api, path, Accept=accept).status_code == 200
        head = probe(api, path, "HEAD", Accept=accept)
        assert head.status_code in (200, 204)
        assert head.content == b""


def test_a_probe_needs_no_token(make_api: MakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zaqar.conf").write_text(
        "[keystone_authtoken]\nauth_type = password\nauth_url = http://127.0.0.1:9/v3\nusername = zaqar\n"
        "password = p\nuser_domain_name = Default\nproject_domain_name = Default\nproject_name = service\n"
    )
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(tmp_path / "zaqar.conf"))
    api = make_api(auth_strategy="keystone")
    for path in PATHS:
        assert wait_for(api, 200, path)
    assert api.get("/v2/queues").status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(make_api: MakeApi, method: str) -> None:
    assert probe(make_api(), "/livez", method).status_code == 405


def test_probes_have_a_label_of_their_own_in_metrics(make_api: MakeApi, tmp_path: Path) -> None:
    api = make_api()
    for path in PATHS:
        probe(api, path)
    api.get("/v2/queues")
    api.get("/v2/nothing/here")
    found = [series for series in series_of(tmp_path / "metrics") if series.family is HTTP_REQUESTS]
    assert {series.labels[1] for series in found} == {"probe", "/v2/queues", "other"}
