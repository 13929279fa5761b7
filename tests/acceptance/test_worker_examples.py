# SPDX-License-Identifier: Apache-2.0
"""The workers in the guide work as it says."""

from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

from tests.acceptance.programs import find
from tests.acceptance.server import running, wait_until
from tests.acceptance.working_clients import Client, Recorder
from tests.servers import end_with_parent

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def commands(url: str, project: str) -> dict[str, list[str]]:
    """The command that starts each worker, by the queue on which it works."""
    for program in ("curl", "jq"):
        find(program, package=program)
    return {
        "python": [sys.executable, str(EXAMPLES / "worker.py"), url, project, "python"],
        "shell": ["sh", str(EXAMPLES / "worker.sh"), url, project, "shell", "sed", "s/^/done /"],
    }


def test_workers_of_the_guide_wait_for_messages_and_delete_them(tmp_path: Path) -> None:
    project = uuid.uuid4().hex
    with (
        running(tmp_path / "state", options=("--workers", "1")) as server,
        closing(Client(server, project, Recorder())) as client,
    ):
        workers = []
        try:
            for queue, command in commands(server.url, project).items():
                with (tmp_path / queue).open("wb") as output:
                    workers.append(
                        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=end_with_parent)
                    )
            for number in range(3):
                for queue in ("python", "shell"):
                    message = {"body": {"number": number}, "ttl": 300, "delay": number % 2}
                    assert client.ask("POST", f"/v2/queues/{queue}/messages", {"messages": [message]})
                    # The next message is posted while the worker waits.
                    output = tmp_path / queue
                    wait_until(lambda output=output, number=number: len(output.read_text().splitlines()) > number)  # type: ignore[misc]
            for queue in ("python", "shell"):
                lines = (tmp_path / queue).read_text().replace(" ", "").splitlines()
                assert lines == [f'done{{"number":{number}}}' for number in range(3)]
                stats = f"/v2/queues/{queue}/stats"
                wait_until(lambda stats=stats: (client.ask("GET", stats) or (0, {}))[1]["messages"]["total"] == 0)  # type: ignore[misc]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
