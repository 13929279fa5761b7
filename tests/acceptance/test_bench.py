# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench`` measures a service in processes of its own, as an operator runs both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import Server, running

COMMAND = (sys.executable, "-m", "zaqar.benchmarks.main")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("bench") / "state") as server:
        yield server


def run(service: Server, *arguments: str, status: int = 0) -> dict[str, Any]:
    mode = [argument for argument in arguments[:1] if not argument.startswith("-")]
    target = ["--url", service.url, "--pid", str(service.process.pid), "--json"]
    done = subprocess.run(
        [*COMMAND, *mode, *target, *arguments[len(mode) :]], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout)["measured"]
    return measured


def test_load_has_every_role_at_work(service: Server) -> None:
    found = run(service, "-t", "1.5", "-pp", "2", "-pw", "1", "-cw", "2", "-ow", "1", "-qno", "2")
    assert set(found["operations"]) >= {"producer POST 1", "consumer claim 10", "observer list 10"}
    for operation in found["operations"].values():
        assert operation["requests"] > 0
        assert operation["errors"] == {}
        assert 0 < operation["p50"] <= operation["p99"]
    assert found["messages"]["posted"] == found["operations"]["producer POST 1"]["requests"]
    assert 0 < found["messages"]["deleted"] <= found["messages"]["posted"]
    assert found["cpu"] > 0
    assert found["store_cpu"] is None


def test_a_role_without_workers_stays_away_and_named_queues_stay(service: Server, tmp_path: Path) -> None:
    queues = tmp_path / "queues.json"
    queues.write_text('["kept"]')
    posted = run(service, "-t", "0.5", "-cw", "0", "-ow", "0", "-q", str(queues))
    assert set(posted["operations"]) == {"producer POST 1"}
    consumed = run(service, "-t", "0.5", "-pw", "0", "-op", "0", "-cl", "1", "-q", str(queues))
    assert set(consumed["operations"]) == {"consumer claim 1", "consumer delete 1"}
    assert consumed["messages"]["deleted"] > 0


def test_rows_show_the_cpu_of_the_whole_process_tree(service: Server) -> None:
    found = run(service, "rows", "--rounds", "1", "--count", "20")
    for row in found["rows"]:
        (figures,) = row["figures"]
        assert (row["name"], figures["requests"], figures["errors"]) == (row["name"], 20, {})
        assert figures["cpu"] > 0


def test_errors_are_told_and_the_command_fails(service: Server, tmp_path: Path) -> None:
    messages = tmp_path / "messages.json"
    messages.write_text('[{"body": 1, "ttl": 1}]')
    found = run(service, "-t", "0.5", "-cw", "0", "-ow", "0", "-m", str(messages), status=1)
    operation = found["operations"]["producer POST 1"]
    assert operation["requests"] == 0
    assert set(operation["errors"]) == {"status 400"}
