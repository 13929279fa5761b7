# SPDX-License-Identifier: Apache-2.0
"""What waiting claims and streams cost, and how soon a message reaches them.

``python docs/decisions/measure_waiting.py MODE`` starts services with folders and ports of their own, and the servers
of the stores as the tests do, so it needs what the extra ``test`` installs. It is run in a copy of the repository:

``delay``   one host, two workers: from a POST until a claim that waits has the message, for each store
``hosts``   the same if the claim waits at another service, with its own state directory, on the same store: without and
            with what tells processes of posts
``calls``   calls to the store for each post while many claims wait for one queue, or streams follow it
``idle``    many claims that wait in one worker: memory for each, and CPU of the worker
``post``    CPU of a POST while nobody waits, beside another copy of the repository (``--before FOLDER``)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import servers  # noqa: E402
from tests.acceptance import backends  # noqa: E402
from zaqar.benchmarks import cpu  # noqa: E402

PROJECT = "measured"
AT_ONCE = 100
START_SECONDS = 60.0
WAIT = 20
CONFIG = """
[transport]
max_waiting_clients = 20000
max_waiting_clients_per_project = 20000
max_streams = 20000
max_streams_per_project = 20000
"""
STORES = {each.name: each for each in (backends.POSTGRESQL, backends.REDIS, backends.CLUSTER, backends.MONGODB)}
CHANNELS = {
    "postgresql": ("listen", "drivers:message_store:sqlalchemy"),
    "mongodb": ("change_stream", "drivers:message_store:mongodb"),
}
"""The option that has a store tell of posts, and its group. Redis does it without being told to."""

# -- services --------------------------------------------------------------------------------------------------------


class Service:
    """gunicorn with the workers of ``zaqar-server``, without its other processes."""

    def __init__(self, folder: Path, config: str, *, workers: int, application: str = "zaqar.wsgi:application") -> None:
        self.port = servers.free_port()
        folder.mkdir(parents=True)
        (folder / "zaqar.conf").write_text(config)
        self._log = folder / "log"
        environment = {
            **os.environ,
            "ZAQAR_CONFIG_FILE": str(folder / "zaqar.conf"),
            "ZAQAR_STATE_DIR": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        }
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:zaqar.cmd.server.gunicorn_settings",
            "-w",
            str(workers),
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "-b", f"127.0.0.1:{self.port}", application],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not the current directory, whose package would be imported whatever PYTHONPATH says.
                cwd=folder,
                env=environment,
                preexec_fn=servers.end_with_parent,
            )

    async def await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, EOFError), contextlib.closing(Client(self.port)) as client:
                await client.ask("GET", "/", expected=300)
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start:\n{self._log.read_text()}")
            await asyncio.sleep(0.05)

    @property
    def worker(self) -> int:
        (pid,) = cpu.tree([self.process.pid]) - {self.process.pid}
        return pid

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@contextlib.asynccontextmanager
async def serving(
    config: str, *, count: int = 1, workers: int = 1, application: str = "zaqar.wsgi:application"
) -> AsyncIterator[list[Service]]:
    """So many services, each with a state directory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = [
            Service(Path(folder) / str(n), config, workers=workers, application=application) for n in range(count)
        ]
        try:
            for each in started:
                await each.await_ready()
            yield started
        finally:
            for each in started:
                each.stop()


@contextlib.contextmanager
def store_of(name: str) -> Iterator[str]:
    """The configuration for a store, whose server runs meanwhile."""
    if name == "sqlite":
        yield CONFIG
        return
    backend = STORES[name]
    with backends.started(backend) as server, tempfile.TemporaryDirectory() as folder:
        yield backend.write_config(server, Path(folder) / "zaqar.conf").read_text() + CONFIG


def counted() -> Callable[..., Any]:
    """The application with a count of the calls to its message store, as JSON at ``/calls``."""
    from zaqar.storage.base import MessageStore
    from zaqar.storage.sqlalchemy.store import SqlMessageStore

    calls: Counter[str] = Counter()

    def count(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return method(*args, **kwargs)

        return call

    for name in MessageStore.__abstractmethods__:
        setattr(SqlMessageStore, name, count(name, getattr(SqlMessageStore, name)))
    from zaqar.wsgi import application

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] != "/calls":
            return application(environ, start_response)
        body = json.dumps(calls).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return serve


# -- clients ---------------------------------------------------------------------------------------------------------


class Client:
    """One HTTP connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._headers = f"Host: h\r\nClient-ID: {uuid.uuid4()}\r\nX-Project-ID: {PROJECT}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: Any = None, headers: str = "") -> asyncio.StreamReader:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}{headers}Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        return reader

    async def ask(self, method: str, path: str, body: Any = None, *, expected: int = 0) -> Any:
        reader = await self.send(method, path, body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(answer.split(" ", 2)[1])
        length = re.search(r"(?i)^content-length: *(\d+)", answer, re.MULTILINE)
        text = await reader.readexactly(int(length[1])) if length else b""
        if status >= 300 and status != expected:
            raise RuntimeError(f"{method} {path}: {status} {text!r}")
        return json.loads(text) if text else None

    async def post(self, queue: str, body: Any) -> None:
        await self.ask("POST", f"/v2/queues/{queue}/messages", {"messages": [{"body": body, "ttl": 600}]})

    async def claim(self, queue: str, wait: int = WAIT) -> list[Any]:
        path = f"/v2/queues/{queue}/claims?limit=1&wait={wait}"
        claim = await self.ask("POST", path, {"ttl": 600, "grace": 60})
        return [] if claim is None else claim["messages"]

    async def follow(self, queue: str, seen: Callable[[], None]) -> None:
        reader = await self.send("GET", f"/v2/queues/{queue}/messages", headers="Accept: text/event-stream\r\n")
        while line := await reader.readline():
            if line.startswith((b"event: message", b"event: open")):
                seen()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()


# -- what is measured ------------------------------------------------------------------------------------------------


def quantiles(seconds: list[float]) -> str:
    marks = statistics.quantiles(seconds, n=100, method="inclusive")
    p50, p99, most = (1000 * each for each in (marks[49], marks[98], max(seconds)))
    return f"{p50:8.1f} {p99:8.1f} {most:8.1f}"


async def measure_delays(post_to: int, wait_at: int, options: argparse.Namespace) -> list[float]:
    """Seconds from the beginning of a POST until a claim that waits, of some, has the message."""
    delays: list[float] = []
    queue = "delays"

    async def wait() -> None:
        client = Client(wait_at)
        while True:
            for message in await client.claim(queue):
                if message["body"] is not None:
                    delays.append(time.monotonic() - message["body"])

    # A queue that a post creates is found by the look once a second.
    with contextlib.closing(Client(post_to)) as poster:
        await poster.post(queue, None)
    waiters = [asyncio.create_task(wait()) for _ in range(options.waiters)]
    await asyncio.sleep(2.0)
    with contextlib.closing(Client(post_to)) as poster:
        for number in range(options.posts):
            await poster.post(queue, time.monotonic())
            # Another worker may accept the next connection.
            if number % 10 == 9:
                poster.close()
                poster = Client(post_to)
            await asyncio.sleep(options.pause)
        deadline = time.monotonic() + 10
        while len(delays) < options.posts and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    for each in waiters:
        each.cancel()
    await asyncio.wait(waiters)
    if len(delays) < options.posts:
        raise RuntimeError(f"{options.posts - len(delays)} messages did not arrive")
    return delays


async def measure_delay(options: argparse.Namespace) -> None:
    print(f"From a POST to a claim that waits: one host, 2 workers, {options.waiters} claims, {options.posts} posts.\n")
    print(f"{'':20} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for name in options.stores:
        with store_of(name) as config:
            async with serving(config, workers=2) as (service,):
                print(f"{name:20} {quantiles(await measure_delays(service.port, service.port, options))}")


async def measure_hosts(options: argparse.Namespace) -> None:
    print(f"The same with two services, each with its own state directory; {options.posts} posts.\n")
    print(f"{'':32} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for name in options.stores:
        if name == "sqlite":
            continue
        with store_of(name) as config:
            variants = {name: config}
            if name in CHANNELS:
                option, group = CHANNELS[name]
                variants[f"{name}, {option} = true"] = config.replace(f"[{group}]", f"[{group}]\n{option} = true")
            for title, each in variants.items():
                async with serving(each, count=2) as (here, there):
                    delays = await measure_delays(here.port, there.port, options)
                print(f"{title:32} {quantiles(delays)}")


async def open_all(count: int, make: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    tasks: list[asyncio.Task[Any]] = []
    for first in range(0, count, AT_ONCE):
        tasks += [asyncio.create_task(make()) for _ in range(first, min(first + AT_ONCE, count))]
        await asyncio.sleep(0.1)
    return tasks


async def measure_calls(options: argparse.Namespace) -> None:
    print("Calls to the message store and CPU of the worker for each post, on SQLite.")
    print("Not counted are the calls of the look that is made once a second.\n")
    async with serving(CONFIG, application="measure_waiting:counted()") as (service,):
        with contextlib.closing(Client(service.port)) as client:
            for what in ("claims that wait", "streams"):
                queue = what.split()[0]
                seen = Counter[str]()
                if what == "streams":
                    follow = lambda: Client(service.port).follow(queue, lambda: seen.update(["event"]))  # noqa: E731, B023
                    tasks = await open_all(options.clients, follow)
                    while seen["event"] < options.clients:
                        await asyncio.sleep(0.05)
                else:
                    tasks = await open_all(options.clients, lambda: Client(service.port).claim(queue))  # noqa: B023
                    await asyncio.sleep(2.0)
                before, used = Counter(await client.ask("GET", "/calls")), cpu.read_usage([service.worker])
                for number in range(10):
                    await client.post(queue, number)
                    await asyncio.sleep(1.0)
                spent = cpu.spent(used, cpu.read_usage([service.worker]))
                calls = Counter(await client.ask("GET", "/calls")) - before
                calls.pop("positions", None)
                named = ", ".join(f"{name} {number / 10:.1f}" for name, number in calls.most_common())
                print(f"{options.clients} {what}: {calls.total() / 10:.1f} ({named}), {spent * 100:.1f} ms of CPU")
                if what == "streams":
                    print(f"  {seen['event'] - options.clients} messages were sent")
                for each in tasks:
                    each.cancel()
                await asyncio.wait(tasks)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure_idle(options: argparse.Namespace) -> None:
    async with serving(CONFIG) as (service,):
        with contextlib.closing(Client(service.port)) as client:
            await client.post("other", 0)
            pid = service.worker
            memory, used = resident_bytes(pid), cpu.read_usage([pid])
            tasks = await open_all(options.waiting, lambda: Client(service.port).claim("idle"))
            await asyncio.sleep(2.0)
            spent = cpu.spent(used, cpu.read_usage([pid]))
            grown = resident_bytes(pid) - memory
            print(f"{options.waiting} claims that wait in one worker, on SQLite")
            print(f"  memory  {grown / options.waiting / 1024:.1f} KiB each, {(memory + grown) / 2**20:.0f} MiB in all")
            print(f"  to begin  {1e6 * spent / options.waiting:.0f} us of CPU each")
            before = cpu.read_usage([pid])
            await asyncio.sleep(options.seconds)
            spent = cpu.spent(before, cpu.read_usage([pid]))
            print(f"  idle  {spent / options.seconds:.2%} of a core in {options.seconds:.0f} s")
            for each in tasks:
                each.cancel()
            await asyncio.wait(tasks)


async def measure_post(options: argparse.Namespace) -> None:
    if options.before is None:
        raise SystemExit("post: give --before FOLDER, a copy of the repository as it was")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        arguments = []
        for name, code in {"now": ROOT, "before": options.before.resolve()}.items():
            # Each imports the package of its own copy.
            os.environ["PYTHONPATH"] = str(code)
            service = Service(Path(folder) / name, "", workers=1)
            stack.callback(service.stop)
            await service.await_ready()
            arguments += ["--url", f"http://127.0.0.1:{service.port}", "--pid", str(service.process.pid)]
        del os.environ["PYTHONPATH"]
        command = [
            sys.executable,
            "-m",
            "zaqar.benchmarks.main",
            "rows",
            "--rounds",
            str(options.rounds),
            "--count",
            "100",
        ]
        print("Nobody waits. The first service is this copy, the second is the other one.\n", flush=True)
        subprocess.run([*command, *arguments], check=True, cwd=ROOT)


MODES = {
    "delay": measure_delay,
    "hosts": measure_hosts,
    "calls": measure_calls,
    "idle": measure_idle,
    "post": measure_post,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--stores", nargs="+", choices=["sqlite", *STORES], default=["sqlite", *STORES])
    parser.add_argument("--posts", type=int, default=200, help="that are timed")
    parser.add_argument("--pause", type=float, default=0.05, help="after each of them, in seconds")
    parser.add_argument("--waiters", type=int, default=8, help="claims that wait for them")
    parser.add_argument("--clients", type=int, default=1000, help="claims that wait, or streams, of calls")
    parser.add_argument("--waiting", type=int, default=2000, help="claims that wait, of idle")
    parser.add_argument("--seconds", type=float, default=10, help="how long idle lasts; at most 15")
    parser.add_argument("--before", type=Path, help="another copy of the repository, of post")
    parser.add_argument("--rounds", type=int, default=11, help="of post")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(MODES[options.mode](options))


if __name__ == "__main__":
    main()
