# SPDX-License-Identifier: Apache-2.0
"""The processes of the service are killed while clients post, claim and delete: no answer becomes untrue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.check_answers import check_all_answers, wait_for_progress
from tests.acceptance.server import HTTP_COMMAND, kill, running, start
from tests.acceptance.working_clients import WorkingClients

KILLS = int(os.environ.get("ZAQAR_CRASH_KILLS", "4"))
"""The number of kills."""


@dataclass(frozen=True)
class Pace:
    """The schedule of kills: a worker each ``pause`` seconds, and half-way the masters, which supervise workers.

    granian takes it for a crash loop when a worker lives for less than 3.5 seconds.
    """

    server: str
    pause: float


PACES = (Pace("gunicorn", 0.5), Pace("granian", 1.5))


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: pace.server)
def test_after_kills_of_workers_every_answer_is_still_true(tmp_path: Path, pace: Pace) -> None:
    with running(
        tmp_path / "state", options=("--server", pace.server, "--workers", "3"), command=HTTP_COMMAND
    ) as server:
        clients = WorkingClients(server)
        clients.start()
        try:
            for number in range(KILLS):
                wait_for_progress(clients, pace.pause)
                is_half_way = number == KILLS // 2
                kill(server.masters() if is_half_way else server.workers()[:1])
            wait_for_progress(clients, pace.pause)
        finally:
            clients.stop()
        check_all_answers(clients)


def test_after_a_kill_of_the_whole_service_every_answer_is_still_true(tmp_path: Path) -> None:
    options = ("--workers", "2")
    server = start(tmp_path / "state", options=options)
    clients = WorkingClients(server)
    clients.start()
    try:
        for _ in range(max(1, KILLS // 4)):
            wait_for_progress(clients)
            server.kill()
            server = start(server.state_dir, port=server.port, options=options)
        wait_for_progress(clients)
        clients.stop()
        check_all_answers(clients)
    finally:
        clients.stop()
        server.close()
