# SPDX-License-Identifier: Apache-2.0
"""The stores behind a running service: how to start a server of each, to configure it, and to kill and restart it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers

AWAY_SECONDS = 2.0
"""How long a killed backend stays away. Clients send requests during this time."""


@dataclass(frozen=True)
class Backend:
    """``name`` is the kind of server, ``options`` are the lines of the driver's groups.

    ``kill_and_restore`` kills the server, or a part of it, and starts it again.

    ``signal`` sends a signal to every process of the server: SIGSTOP keeps its connections open and silent.
    """

    name: str
    driver: str
    options: Callable[[Any], dict[str, str]]
    kill_and_restore: Callable[[Any], None]
    signal: Callable[[Any, int], None]

    def start_again(self, server: Any) -> None:
        """Start the server again after SIGKILL to all its processes."""
        for program in _programs(server):
            program.start()

    def write_config(self, server: Any, path: Path) -> Path:
        """A file for ``--config-file`` with both stores on the server."""
        lines = ["[drivers]", f"message_store = {self.driver}", f"management_store = {self.driver}"]
        for store in ("message_store", "management_store"):
            lines.append(f"[drivers:{store}:{self.driver}]")
            lines += [f"{name} = {value}" for name, value in self.options(server).items()]
        path.write_text("\n".join(lines) + "\n")
        return path


def _restart(server: Any) -> None:
    server.kill()
    time.sleep(AWAY_SECONDS)
    server.start()


def _new_primary(server: servers.MongoSet) -> None:
    """Kill the primary, let the others elect one, and bring it back."""
    primary = server.primary()
    assert primary is not None
    primary.kill()
    time.sleep(AWAY_SECONDS)
    primary.start()


def _fail_over(server: servers.RedisSentinel) -> None:
    """Kill the master, let Sentinel promote the replica, and bring the old master back, as a replica of the new one."""
    pair = (server.master, server.replica)
    old, new = pair if server.master_port() == server.master.program.port else reversed(pair)
    old.kill()
    server.fail_over_after_a_second()
    server.await_switch_to(new.program.port)
    old.start()
    old.program.wait_until(lambda: old.client().info("replication")["role"] == "slave")


def _restart_node(server: servers.RedisCluster) -> None:
    _restart(server.nodes[0])


def _programs(server: Any) -> list[servers.Program]:
    if isinstance(server, servers.MongoSet):
        return server.members
    if isinstance(server, servers.RedisCluster):
        return [node.program for node in server.nodes]
    if isinstance(server, servers.RedisSentinel):
        return [server.master.program, server.replica.program, server.sentinel]
    return [server.program]


def _signal(server: Any, number: int) -> None:
    if number == signal.SIGKILL and isinstance(server, servers.Postgres):
        server.kill()
        return
    for program in _programs(server):
        program.signal(number)
    if isinstance(server, servers.Postgres):
        # PostgreSQL serves each connection in a process of its own.
        for pid in servers.processes_in(server.program.folder / "data"):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _uri(server: Any) -> dict[str, str]:
    return {"uri": server.uri}


REDIS = Backend("redis", "redis", _uri, _restart, _signal)
CLUSTER = Backend("redis-cluster", "redis", _uri, _restart_node, _signal)
SENTINEL = Backend(
    "redis-sentinel",
    "redis",
    # A write is acknowledged only after the replica has it, so a fail-over loses none.
    lambda server: {"uri": server.uri, "wait_replicas": "1"},
    _fail_over,
    _signal,
)
MONGODB = Backend("mongodb", "mongodb", _uri, _new_primary, _signal)
POSTGRESQL = Backend("postgresql", "sqlalchemy", lambda server: {"uri": _migrated(server)}, _restart, _signal)
BACKENDS = (REDIS, CLUSTER, SENTINEL, MONGODB, POSTGRESQL)


def _migrated(server: servers.Postgres) -> str:
    """The database of this server, with its schema, made by the command that an operator uses."""
    from zaqar.cmd import db_manage

    if db_manage.main(["--uri", server.uri, "check_migration"]):
        assert db_manage.main(["--uri", server.uri, "upgrade"]) == 0
    return server.uri


@contextmanager
def started(backend: Backend) -> Iterator[Any]:
    """Start a server for one test. If its program is missing, the test is skipped, or fails with ``CI=true``."""
    server = servers.own(servers.KINDS[backend.name])
    try:
        yield server
    finally:
        server.stop()


every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name, scope="session")
