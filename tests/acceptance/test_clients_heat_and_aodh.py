# SPDX-License-Identifier: Apache-2.0
"""The published plug-ins of Heat and Aodh for this service use a running service, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.acceptance.cloud import Cloud
from tests.acceptance.webhook_sinks import Sink, Sinks
from tests.keystone import PASSWORD, REGION
from tests.virtualenvs import HEAT_AND_AODH, KEYSTONE

VIRTUALENVS = (KEYSTONE, HEAT_AND_AODH)
RUNS_WITH = "shared_cloud"
HOOK = "http://127.0.0.1:9/hook"
ALARM = {
    "alarm_name": "CPU is hot",
    "alarm_id": "alarm-1",
    "severity": "critical",
    "previous": "ok",
    "current": "alarm",
    "reason": "threshold",
    "reason_data": {"value": 95},
}
_AODH = """\
[DEFAULT]
transport_url = fake://
[service_credentials]
auth_type = password
auth_url = {auth_url}
username = {username}
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
region_name = {region}
interface = public
"""


@pytest.fixture(scope="module")
def member(cloud: Cloud) -> str:
    return cloud.new_user("member")


def run(program: str, *arguments: str, told: str = "") -> str:
    """Run a program beside this file in the virtual environment of Heat and Aodh. Returns its output."""
    python = servers.own(HEAT_AND_AODH.folder) / "bin" / "python"
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [python, Path(__file__).with_name(program), *arguments],
        input=told,
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- Heat --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mistral() -> Iterator[Sink]:
    """A sink in place of Mistral, which only receives requests here."""
    sink = Sink()
    with Sinks(sink):
        yield sink


@pytest.fixture(scope="module")
def heat(cloud: Cloud, member: str, mistral: Sink) -> dict[str, Any]:
    """The results that Heat got when it made, changed and removed its resources."""
    told = {
        "user": member,
        "password": PASSWORD,
        "project_id": cloud.project_id,
        "auth_url": cloud.keystone.uri,
        "region": REGION,
        "queue": "stack",
        "subscriber": HOOK,
        "token": cloud.token(member),
        "trigger_queue": "events",
        "mistral": mistral.url,
    }
    saw: dict[str, Any] = json.loads(run("drive_heat.py", told=json.dumps(told)))
    return saw


def test_heat_creates_a_queue_with_its_metadata(heat: dict[str, Any]) -> None:
    assert heat["queue"]["metadata"]["owner"] == "heat"


def test_events_and_signals_of_a_stack_are_in_its_queue(heat: dict[str, Any]) -> None:
    """The event comes from Heat's event sink, the signal by a signed URL. The test reads them with a user's token."""
    assert heat["messages"] == [{"event": "CREATE_COMPLETE"}, "signal"]


def test_the_subscription_of_a_stack_lives_to_the_year_9000(heat: dict[str, Any]) -> None:
    assert heat["subscription"] == {"subscriber": HOOK, "ttl": 220_367_260_800, "options": {"a": "b"}}
    assert heat["subscription_changed"] == {"subscriber": HOOK, "ttl": 7200, "options": {"c": "d"}}


def test_a_trigger_of_a_stack_starts_a_workflow_in_the_name_of_its_owner(
    heat: dict[str, Any], cloud: Cloud, member: str, mistral: Sink
) -> None:
    assert heat["trigger"] == {
        "queue_name": "events",
        "ttl": 220_367_260_800,
        "workflow_id": "workflow-1",
        "params": {"env": {"a": "b"}},
        "input": {"c": 1},
    }
    deadline = time.monotonic() + 60
    while not mistral.receipts:
        assert time.monotonic() < deadline, "Mistral gets nothing"
        time.sleep(0.05)
    (receipt,) = mistral.receipts
    assert receipt.path == "/hook/executions"
    started = receipt.document
    assert (started["workflow_id"], started["input"], started["params"]["env"]["a"]) == ("workflow-1", {"c": 1}, "b")
    assert started["params"]["env"]["notification"]["body"] == "go"
    token = cloud.keystone.inspect(receipt.headers["x-auth-token"])
    assert (token["user"]["name"], token["project"]["id"]) == (member, cloud.project_id)


def test_heat_removes_the_queue_and_subscriptions_of_a_stack(heat: dict[str, Any], cloud: Cloud, member: str) -> None:
    assert cloud.get("/v2/queues/stack/subscriptions", cloud.token(member))["subscriptions"] == []
    assert "stack" not in [queue["name"] for queue in cloud.get("/v2/queues", cloud.token(member))["queues"]]


# -- Aodh --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aodh(cloud: Cloud) -> str:
    """The account of Aodh. It finds the service by the list of services, which only an administrator may read."""
    return cloud.keystone.new_user("service", "admin")


def notify(cloud: Cloud, aodh: str, tmp_path: Path, action: str) -> None:
    """Run an alarm action. Aodh reports failures in its log only, so the tests look at the queue afterwards."""
    config = tmp_path / "aodh.conf"
    config.write_text(
        _AODH.format(auth_url=cloud.keystone.uri, username=aodh, password=PASSWORD, region=REGION),
    )
    run("drive_aodh.py", str(config), action)


def test_an_alarm_makes_a_queue_with_subscribers_in_the_project_of_aodh(
    cloud: Cloud, aodh: str, tmp_path: Path
) -> None:
    topic = f"hot-{aodh}"
    query = urllib.parse.urlencode({"topic": topic, "subscriber": HOOK, "ttl": 3600})
    notify(cloud, aodh, tmp_path, f"zaqar://?{query}")
    token = cloud.keystone.token(aodh, "service")
    assert cloud.bodies(f"alarm-1-{topic}", token) == [ALARM]
    (subscription,) = cloud.get(f"/v2/queues/alarm-1-{topic}/subscriptions", token)["subscriptions"]
    assert (subscription["subscriber"], subscription["ttl"]) == (HOOK, 3600)


def test_an_alarm_goes_to_a_signed_url(
    cloud: Cloud, member: str, aodh: str, heat: dict[str, Any], tmp_path: Path
) -> None:
    """The action is the query string that ``OS::Zaqar::SignedQueueURL`` of Heat offers."""
    notify(cloud, aodh, tmp_path, f"zaqar://?{heat['query_str']}")
    assert cloud.bodies("stack", cloud.token(member)) == [ALARM]


def test_an_alarm_goes_to_the_project_of_a_trust(cloud: Cloud, member: str, aodh: str, tmp_path: Path) -> None:
    trust = cloud.keystone.trust(member, aodh, cloud.project)
    notify(cloud, aodh, tmp_path, f"trust+zaqar://{trust}:delete@?queue_name=trusted")
    assert cloud.bodies("trusted", cloud.token(member)) == [ALARM]
