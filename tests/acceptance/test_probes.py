# SPDX-License-Identifier: Apache-2.0
"""The probes of a running server: at its start and end, when a worker is killed, and on the WebSocket port."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.acceptance.server import COMMAND, HTTP_COMMAND, Server, running, wait_until


def probe(url: str) -> tuple[int, str]:
    """The status and the text; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
    except OSError:
        return 0, ""


def is_ready(server: Server) -> bool:
    return probe(f"{server.url}/readyz")[0] == 200


def test_a_server_that_is_told_to_end_serves_on_while_it_is_not_ready(tmp_path: Path) -> None:
    environment = {"OS_DEFAULT__DRAIN_DELAY": "60"}
    with running(tmp_path / "state", command=COMMAND, environment=environment) as server:
        wait_until(lambda: is_ready(server))
        websocket = server.websocket_url.replace("ws://", "http://")
        wait_until(lambda: probe(f"{websocket}/readyz")[0] == 200)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(server))
        assert probe(f"{server.url}/readyz?verbose")[1].splitlines()[1] == "[-] drain: The server is about to end."
        assert probe(f"{websocket}/readyz") == (503, "The server is about to end.\n")
        assert probe(f"{websocket}/livez") == (200, "ok\n")
        # It is alive and serves: the balancer still sends requests until it has noticed.
        assert probe(f"{server.url}/livez") == (200, "ok\n")
        assert probe(f"{server.url}/")[0] == 300
        assert server.process.poll() is None
        # A second signal ends the delay.
        assert server.terminate() == 0
    assert not (tmp_path / "state" / "draining").exists()


def test_the_note_of_a_killed_server_does_not_make_the_next_one_unready(tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {"OS_DEFAULT__DRAIN_DELAY": "60"}
    with running(state, command=HTTP_COMMAND, environment=environment) as server:
        server.process.send_signal(signal.SIGTERM)
        wait_until((state / "draining").exists)
        server.kill()
    with running(state, command=HTTP_COMMAND) as server:
        wait_until(lambda: is_ready(server))


@pytest.mark.parametrize("http_server", ["gunicorn", "granian"])
def test_probes_are_answered_after_workers_were_killed(tmp_path: Path, http_server: str) -> None:
    options = ("--workers", "2", "--server", http_server)
    with running(tmp_path / "state", command=HTTP_COMMAND, options=options) as server:
        wait_until(lambda: is_ready(server))
        first = set(wait_until(lambda: len(server.workers()) >= 2 and server.workers()))
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.workers() and not first & set(server.workers()))
        wait_until(lambda: is_ready(server))
        assert probe(f"{server.url}/livez") == (200, "ok\n")
