# SPDX-License-Identifier: Apache-2.0
"""``zaqar-bench`` measures a service, each in its own processes, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import Server

COMMAND = (sys.executable, "-m", "zaqar.benchmarks.main")


RUNS_WITH = "plain_server"


@pytest.fixture
def service(plain_server: Server) -> Server:
    return plain_server


def run(service: Server, *arguments: str, status: int = 0) -> dict[str, Any]:
    mode = [argument for argument in arguments[:1] if not argument.startswith("-")]
    target = ["--url", service.url, "--pid", str(service.process.pid), "--json"]
    done = subprocess.run(
        [*COMMAND, *mode, *target, *arguments[len(mode) :]], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout)["measured"]
    return measured


def test_under_load_every_role_makes_requests(service: Server) -> None:
    for seconds in ("1.5", "15"):
        found = run(service, "-t", seconds, "-pp", "2", "-pw", "1", "-cw", "2", "-ow", "1", "-qno", "2")
        if found["messages"]["deleted"]:
            break
        # On a busy machine the consumers start too late for a short run.
    assert set(found["operations"]) >= {"producer POST 1", "consumer claim 10", "observer list 10"}
    for operation in found["operations"].values():
        assert operation["requests"] > 0
        assert operation["errors"] == {}
        assert 0 < operation["p50"] <= operation["p99"]
    assert found["messages"]["posted"] == found["operations"]["producer POST 1"]["requests"]
    assert 0 < found["messages"]["deleted"] <= found["messages"]["posted"]
    assert found["cpu"] > 0
    assert found["store_cpu"] is None


def test_a_role_without_workers_makes_no_requests_and_named_queues_are_kept(service: Server, tmp_path: Path) -> None:
    queues = tmp_path / "queues.json"
    queues.write_text('["kept"]')
    posted = run(service, "-t", "0.5", "-cw", "0", "-ow", "0", "-q", str(queues))
    assert set(posted["operations"]) == {"producer POST 1"}
    consumed = run(service, "-t", "0.5", "-pw", "0", "-op", "0", "-cl", "1", "-q", str(queues))
    assert set(consumed["operations"]) == {"consumer claim 1", "consumer delete 1"}
    assert consumed["messages"]["deleted"] > 0


def test_rows_include_the_cpu_of_the_whole_process_tree(service: Server) -> None:
    found = run(service, "rows", "--rounds", "1", "--count", "20")
    for row in found["rows"]:
        (figures,) = row["figures"]
        assert (row["name"], figures["requests"], figures["errors"]) == (row["name"], 20, {})
        assert figures["cpu"] > 0


def test_errors_are_reported_and_the_command_fails(service: Server, tmp_path: Path) -> None:
    messages = tmp_path / "messages.json"
    messages.write_text('[{"body": 1, "ttl": 1}]')
    found = run(service, "-t", "0.5", "-cw", "0", "-ow", "0", "-m", str(messages), status=1)
    operation = found["operations"]["producer POST 1"]
    assert operation["requests"] == 0
    assert set(operation["errors"]) == {"status 400"}
