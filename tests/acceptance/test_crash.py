# SPDX-License-Identifier: Apache-2.0
"""Money tests: the processes of the service are killed while clients post, claim and delete; every answer holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.check_answers import await_progress, settle_accounts
from tests.acceptance.server import HTTP_COMMAND, kill, running, start
from tests.acceptance.working_clients import Crowd


@dataclass(frozen=True)
class Pace:
    """How processes are killed: a worker each ``pause`` seconds, and half-way the masters, which look after workers.

    granian takes it for a crash loop when a worker lives for less than 3.5 seconds.
    """

    server: str
    kills: int
    pause: float


PACES = (Pace("gunicorn", 10, 0.5), Pace("granian", 6, 1.5))


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: pace.server)
def test_workers_die_and_every_answer_holds(tmp_path: Path, pace: Pace) -> None:
    with running(
        tmp_path / "state", options=("--server", pace.server, "--workers", "3"), command=HTTP_COMMAND
    ) as server:
        crowd = Crowd(server)
        crowd.start()
        try:
            for number in range(pace.kills):
                await_progress(crowd, pace.pause)
                is_half_way = number == pace.kills // 2
                kill(server.masters() if is_half_way else server.workers()[:1])
            await_progress(crowd, pace.pause)
        finally:
            crowd.stop()
        settle_accounts(crowd)


def test_the_whole_service_dies_and_every_answer_holds(tmp_path: Path) -> None:
    options = ("--workers", "2")
    server = start(tmp_path / "state", options=options)
    crowd = Crowd(server)
    crowd.start()
    try:
        for _ in range(2):
            await_progress(crowd)
            server.kill()
            server = start(server.state_dir, port=server.port, options=options)
        await_progress(crowd)
        crowd.stop()
        settle_accounts(crowd)
    finally:
        crowd.stop()
        server.close()
