# SPDX-License-Identifier: Apache-2.0
"""A snapshot that is made while a client posts, and a server that is started on it, as ``docs/backup.rst`` says."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.conformance.queue_client import QueueClient, bodies
from tests.conformance.redis.conftest import OpenStore

RUNS_WITH = "redis"


@pytest.mark.parametrize("program", [servers.find_redis, servers.find_redis_8, servers.find_valkey])
def test_a_restored_snapshot_has_everything_that_was_acknowledged_before_it(
    program: Callable[[], Path], open_store: OpenStore
) -> None:
    setup = servers.RedisSetup(program)
    source = servers.own(lambda: servers.Redis(setup=setup))
    target = servers.own(lambda: servers.Redis(setup=setup))
    try:
        orders = QueueClient(open_store(source.uri))
        acknowledged: list[str] = []
        stopping = threading.Event()

        def post() -> None:
            while not stopping.is_set():
                body = f"m{len(acknowledged)}"
                orders.post(body)
                acknowledged.append(body)

        thread = threading.Thread(target=post)
        thread.start()
        source.program.wait_until(lambda: len(acknowledged) > 50)
        claim_id, _ = orders.claim(3)
        before = len(acknowledged)
        # BGSAVE is done when LASTSAVE is later; a server that has just started has saved nothing.
        source.client().bgsave()
        source.program.wait_until(lambda: source.client().info("persistence")["rdb_bgsave_in_progress"] == 0)
        source.program.wait_until(lambda: len(acknowledged) > before + 50)
        stopping.set()
        thread.join()

        target.kill()
        for file in target.program.folder.glob("appendonly*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        shutil.copy(source.program.folder / "dump.rdb", target.program.folder)
        command = target.program.command
        target.program.command = [*command, "--appendonly", "no"]
        target.start()
        target.client().config_set("appendonly", "yes")
        target.program.wait_until(lambda: target.client().info("persistence")["aof_rewrite_in_progress"] == 0)
        target.kill()
        target.program.command = command
        target.start()

        orders.store = open_store(target.uri)
        restored = bodies(orders.listing(claimed=True))
        assert before <= len(restored) < len(acknowledged)
        assert restored == acknowledged[: len(restored)]
        orders.release(claim_id)
        assert orders.post("new") == [len(restored) + 1]
    finally:
        source.stop()
        target.stop()
