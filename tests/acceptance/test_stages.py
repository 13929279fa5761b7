# SPDX-License-Identifier: Apache-2.0
"""Stages as an operator installs them: a distribution beside the service, entry points, names in the configuration."""

from __future__ import annotations

import os
import subprocess
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from zaqarclient.queues import client as zaqarclient

from tests import plugins
from tests.acceptance.server import HTTP_COMMAND, START_SECONDS, Server, free_port, running

EXAMPLE = Path(__file__).parents[2] / "docs" / "stages"
PUBLISHED = Path(plugins.__file__).parent / "published.py"


def install_example(folder: Path) -> Path:
    """The distribution of docs/stages.rst, as its pyproject.toml describes it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    modules = project["tool"]["setuptools"]["py-modules"]
    sources = {f"{module}.py": (EXAMPLE / f"{module}.py").read_text() for module in modules}
    return plugins.install(folder, project["project"]["entry-points"], sources, name="acme_stages")


def configure(file: Path, **pipelines: str) -> tuple[str, ...]:
    lines = [f"{name}_pipeline = {stages}" for name, stages in pipelines.items()]
    file.write_text("\n".join(["[storage]", *lines, ""]))
    return "--config-file", str(file)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("stages")
    site = install_example(folder / "site")
    options = configure(
        folder / "zaqar.conf",
        queue="acme.ledgers, acme.kept",
        topic="acme.ledgers",
        message="acme.cards, zaqar.notification.notifier",
    )
    with running(
        folder / "state", options=options, environment=plugins.environment_with(site), command=HTTP_COMMAND
    ) as server:
        yield server


@pytest.fixture
def project() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def client(server: Server, project: str) -> Any:
    auth = {"backend": "noauth", "options": {"os_project_id": project}}
    return zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth})


def headers_of(project: str, **more: str) -> Mapping[str, str]:
    return {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project, **more}


def test_a_stage_of_the_documented_example_keeps_a_queue(server: Server, client: Any) -> None:
    for name in ("kept", "gone"):
        queue = client.queue(name, force_create=True)
        queue.post({"body": name, "ttl": 300})
        queue.delete()
    assert [queue.name for queue in client.queues()[0]] == ["kept"]
    assert [message.body for message in client.queue("kept").messages(echo=True)] == ["kept"]
    log = server.log.read_text()
    assert "the stage is there" in log
    assert "gone is created" in log


def test_a_typed_stage_can_refuse_requests(server: Server, client: Any, project: str) -> None:
    queue = client.queue("ledger-2026", force_create=True)
    queue.post({"body": 1, "ttl": 300})
    for path, method in (("/v2/queues/ledger-2026", "DELETE"), ("/v2/queues/ledger-2026/purge", "POST")):
        answer = requests.request(method, server.url + path, headers=headers_of(project), timeout=30)
        assert (answer.status_code, answer.json()["description"]) == (403, "A ledger is kept.")
    assert [message.body for message in queue.messages(echo=True)] == [1]


def test_a_typed_stage_changes_messages_of_queues_and_topics(server: Server, project: str) -> None:
    body = {"card": "4111111111111111", "total": 10}
    for kind in ("queues", "topics"):
        path = f"{server.url}/v2/{kind}/orders/messages"
        sent = {"messages": [{"body": body, "ttl": 300}, {"body": "card", "ttl": 300}]}
        assert requests.post(path, json=sent, headers=headers_of(project), timeout=30).status_code == 201
        found = requests.get(f"{path}?echo=true", headers=headers_of(project), timeout=30).json()["messages"]
        assert [message["body"] for message in found] == [{"card": "************1111", "total": 10}, "card"]


def test_the_extra_spec_of_the_example_is_checked(server: Server, project: str) -> None:
    def list_queues(value: str) -> int:
        headers = headers_of(project, **{"EXTRA-SPEC": value})
        return requests.get(f"{server.url}/v2/queues", headers=headers, timeout=30).status_code

    assert list_queues("acme:open sesame") == 200
    assert list_queues("acme:let me in") == 403
    assert list_queues("other:1") == 400


@pytest.mark.parametrize("http_server", ["gunicorn", "granian"])
def test_no_stage_ends_a_worker(tmp_path: Path, project: str, http_server: str) -> None:
    points = {"zaqar.storage.stages": {f"acme.{name}": f"published:{name}" for name in ("Raiser", "Exits")}}
    site = plugins.install(tmp_path / "site", points, {"published.py": PUBLISHED.read_text()})
    options = configure(tmp_path / "zaqar.conf", queue="acme.Exits", message="acme.Raiser", claim="acme.Exits")
    options += ("--server", http_server, "--workers", "1")
    with running(
        tmp_path / "state", options=options, environment=plugins.environment_with(site), command=HTTP_COMMAND
    ) as server:
        workers = server.workers()
        for _ in range(3):
            for method, path in (
                ("GET", "/v2/queues/q"),
                ("GET", "/v2/queues/q/messages"),
                ("POST", "/v2/queues/q/claims"),
            ):
                answer = requests.request(method, server.url + path, headers=headers_of(project), timeout=30)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                assert "1234" not in answer.text
        assert server.workers() == workers
        assert requests.get(server.url, timeout=30).status_code == 300
        log = server.log.read_text()
    assert "A stage failed: the published plug-in 'acme.Raiser'.before_list_messages raised an exception" in log
    assert "SystemExit: 3" in log


@pytest.mark.parametrize(
    ("pipeline", "stage", "words"),
    [
        ("claim", "acme.FailsAtLoad", "'acme.FailsAtLoad' cannot be made: RuntimeError: no licence."),
        ("topic", "acme.absent", "there is no stage 'acme.absent'; installed: acme.FailsAtLoad"),
    ],
)
def test_a_stage_that_cannot_be_loaded_stops_the_start_with_one_sentence(
    tmp_path: Path, pipeline: str, stage: str, words: str
) -> None:
    points = {"zaqar.storage.stages": {"acme.FailsAtLoad": "published:FailsAtLoad"}}
    site = plugins.install(tmp_path / "site", points, {"published.py": PUBLISHED.read_text()})
    done = subprocess.run(
        [
            *(*HTTP_COMMAND, *configure(tmp_path / "zaqar.conf", **{pipeline: stage})),
            *("--bind", f"127.0.0.1:{free_port()}", "--state-dir", str(tmp_path / "state")),
        ],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        env={**os.environ, **plugins.environment_with(site)},
    )
    assert done.returncode != 0
    assert f"[storage] {pipeline}_pipeline: {words}" in done.stderr
    assert "Traceback" not in done.stderr
