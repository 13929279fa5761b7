# SPDX-License-Identifier: Apache-2.0
"""Limits that a real Keystone has: registered ones, those of a project, and what applies if Keystone is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.keystone import PASSWORD, Keystone
from tests.virtualenvs import KEYSTONE
from zaqar import app, conf
from zaqar.errors import StartupError
from zaqar.quotas import unified_limits

limit = pytest.importorskip("oslo_limit.limit")

VIRTUALENVS = (KEYSTONE,)

# oslo.limit uses parts of openstacksdk that a later version will remove.
pytestmark = pytest.mark.filterwarnings("ignore::openstack.warnings.RemovedInSDK50Warning")


class Registered:
    """A Keystone with registered limits for this service, and its endpoint."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        (service,) = self._get("/services?type=messaging")["services"]
        (endpoint,) = self._get(f"/endpoints?service_id={service['id']}&interface=public")["endpoints"]
        self.endpoint_id = endpoint["id"]
        self._of = {"service_id": service["id"], "region_id": endpoint["region_id"]}

    def _get(self, path: str) -> Any:
        return self.keystone.request("GET", path, token=self.keystone.administrator())

    def register(self, **limits: int) -> None:
        body = [{**self._of, "resource_name": name, "default_limit": number} for name, number in limits.items()]
        token = self.keystone.administrator()
        self.keystone.request("POST", "/registered_limits", {"registered_limits": body}, token=token)

    def set(self, project: str, **limits: int) -> None:
        of = {**self._of, "project_id": self.keystone.id_of("project", project)}
        body = [{**of, "resource_name": name, "resource_limit": number} for name, number in limits.items()]
        self.keystone.request("POST", "/limits", {"limits": body}, token=self.keystone.administrator())

    def options(self) -> str:
        return (
            "[quota]\ndriver = keystone\nqueues = 7\nsubscriptions = 8\n"
            f"[oslo_limit]\nendpoint_id = {self.endpoint_id}\nauth_type = password\nauth_url = {self.keystone.uri}\n"
            f"username = zaqar\npassword = {PASSWORD}\nuser_domain_name = Default\n"
            "project_domain_name = Default\nproject_name = service\n"
        )


@pytest.fixture(scope="module")
def registered() -> Iterator[Registered]:
    keystone = servers.own(Keystone)
    registered = Registered(keystone)
    registered.register(zaqar_queues=2, zaqar_queue_messages=3, zaqar_stored_mib=1)
    registered.set("demo", zaqar_queues=1)
    yield registered
    keystone.stop()


@pytest.fixture
def api(registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    (tmp_path / "zaqar.conf").write_text(registered.options())
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(tmp_path / "zaqar.conf"))
    # The library keeps one connection for the whole process.
    monkeypatch.setattr(limit, "_SDK_CONNECTION", None)
    monkeypatch.setattr(unified_limits, "SECONDS", 0.5)
    driver = DRIVERS["memory"]
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock())
    yield api
    api.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def limits_of(api: Api) -> dict[str, int | None]:
    return {limit["name"]: limit["limit"] for limit in api.get("/v2/limits").json["limits"]}


def test_the_limits_of_keystone_apply(registered: Registered, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    keystone = registered.keystone
    demo, other = (keystone.id_of("project", name) for name in ("demo", "other"))
    api.project = demo
    assert limits_of(api)["queues"] == 7
    wait_until(lambda: limits_of(api)["queues"] == 1)
    assert api.put("/v2/queues/a").status_code == 201
    refused = api.put("/v2/queues/b")
    assert (refused.status_code, refused.json["description"]) == (403, "queues: the project has 1 of 1 queues.")
    api.project = other
    wait_until(lambda: limits_of(api)["queues"] == 2)
    assert limits_of(api) | {"max_streams_per_project": 1, "max_waiting_clients_per_project": 1} == {
        "queues": 2,
        "topics": 2,
        # It is not registered, so that of the configuration applies, and a warning says so.
        "subscriptions": 8,
        "queue_subscriptions": 100,
        "queue_messages": 3,
        "stored_bytes": 1024 * 1024,
        "max_streams_per_project": 1,
        "max_waiting_clients_per_project": 1,
    }
    warnings = [record.getMessage() for record in caplog.records if "registered limit" in record.getMessage()]
    assert warnings == [
        "Keystone has no registered limit zaqar_subscriptions for this service. The limit of the configuration applies."
    ]
    body = {"messages": [{"body": 1, "ttl": 300}] * 4}
    refused = api.post("/v2/queues/a/messages", body)
    assert (refused.status_code, refused.json["title"]) == (403, "Quota exceeded")


def test_without_keystone_the_last_known_limits_apply(
    registered: Registered, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    keystone = registered.keystone
    api.project = keystone.id_of("project", "demo")
    wait_until(lambda: limits_of(api)["queues"] == 1)
    keystone.kill()
    try:
        wait_until(lambda: any("Keystone does not tell" in record.getMessage() for record in caplog.records))
        assert limits_of(api)["queues"] == 1
        # A project that Keystone was never asked about has the limits of the configuration.
        api.project = "new"
        assert limits_of(api)["queues"] == 7
        assert PASSWORD not in caplog.text
    finally:
        keystone.start()
    wait_until(lambda: limits_of(api)["queues"] == 2)


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("auth_type = password", r"^\[oslo_limit\] auth_type: must be set for \[quota\] driver 'keystone'\.$"),
        ("endpoint_id = ", r"^\[oslo_limit\] endpoint_id: must be set for \[quota\] driver 'keystone'\.$"),
    ],
)
def test_a_missing_option_stops_the_start(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str, sentence: str
) -> None:
    lines = [line for line in registered.options().splitlines() if not line.startswith(removed)]
    (tmp_path / "zaqar.conf").write_text("\n".join(lines))
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(tmp_path / "zaqar.conf"))
    with pytest.raises(StartupError, match=sentence):
        app.build(conf.load())
