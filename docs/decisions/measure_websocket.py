# SPDX-License-Identifier: Apache-2.0
"""What WebSocket connections cost: idle ones, requests beside the same ones over HTTP, and pushes.

``python docs/decisions/measure_websocket.py`` starts ``zaqar-server`` on SQLite, with a folder and ports of its own. It
measures three things one after the other (``--only`` picks one):

``idle``      connections on which nothing is said: memory for each, and CPU of the process that holds them
``requests``  the same operations over WebSocket and HTTP, in turns and at the same pace: CPU of the server for each
``pushes``    connections that are subscribed, each to a queue of its own: how long after the POST a message is there

It needs Linux, for ``/proc``, and as many open files as connections (``ulimit -n``), in the server and here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PROJECTS = 10
AT_ONCE = 100
"""Connections that are opened at the same time."""

START_SECONDS = 60.0
CONFIG = """
[drivers:transport:websocket]
max_connections = 100000
max_connections_per_project = 100000
ping_interval = {ping_interval}
"""

# -- the server ------------------------------------------------------------------------------------------------------


class Server:
    """``zaqar-server`` with one HTTP worker, so that either API has one process."""

    def __init__(self, folder: Path, ping_interval: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = folder / "zaqar.conf"
        config.write_text(CONFIG.format(ping_interval=ping_interval))
        self._log = folder / "log"
        command = [sys.executable, "-m", "zaqar.cmd.server.main", "--bind", f"127.0.0.1:{self.port}", "--workers", "1"]
        command += ["--websocket-bind", "127.0.0.1:0", "--state-dir", str(folder / "state")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--config-file", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        self.url = self._await_url()
        parts = {_module(pid): pid for pid in _children(self._process.pid)}
        self.websocket = parts["zaqar.cmd.websocket"]
        self.notifier = parts["zaqar.cmd.notifier"]
        ((self.http, *_),) = [below for pid in _children(self._process.pid) if (below := _children(pid))]

    def _await_url(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.findall(r"(ws://[\d.:]*\d)\.\n", self._log.read_text())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start:\n{self._log.read_text()}")
            time.sleep(0.05)
        return str(found[-1])

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _module(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("-m") + 1] if "-m" in words else ""


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- clients ---------------------------------------------------------------------------------------------------------


class Client:
    """One connection, which asks one thing at a time. Pushes go to ``pushed``."""

    def __init__(self, connection: ClientConnection, project: str) -> None:
        self._connection = connection
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}

    async def ask(self, action: str, body: dict[str, Any]) -> Any:
        await self._connection.send(json.dumps({"action": action, "headers": self._headers, "body": body}))
        reply = json.loads(await self._connection.recv())
        if reply["headers"]["status"] >= 400:
            raise RuntimeError(f"{action}: {reply['body']}")
        return reply["body"]

    async def listen(self, pushed: Callable[[Any], None]) -> None:
        async for frame in self._connection:
            pushed(json.loads(frame)["body"])


async def open_clients(stack: AsyncExitStack, url: str, count: int) -> list[Client]:
    """Connections of some projects in turn; they are closed with the stack."""
    clients: list[Client] = []
    for first in range(0, count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, count))
        opened = [connect(url, compression=None, ping_interval=None, proxy=None, max_queue=None) for _ in some]
        connections = await asyncio.gather(*(stack.enter_async_context(each) for each in opened))
        clients += [Client(each, f"p{n % PROJECTS}") for n, each in zip(some, connections, strict=True)]
    return clients


class HttpClient:
    """The same over one HTTP connection that is kept, with no more than these requests need."""

    def __init__(self, port: int, project: str) -> None:
        self._port = port
        self._headers = f"Host: h\r\nClient-ID: {uuid.uuid4()}\r\nX-Project-ID: {project}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(answer.split(" ", 2)[1])
        length = re.search(r"(?i)^content-length: *(\d+)", answer, re.MULTILINE)
        text = await reader.readexactly(int(length[1])) if length else b""
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {text!r}")
        return json.loads(text) if text else None

    def close(self) -> None:
        """The next request opens another connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


# -- the same operations over both -----------------------------------------------------------------------------------

Work = Callable[[], Awaitable[int]]
"""Makes some requests and returns how many."""

DRAFTS = [{"body": {"text": "x" * 200}, "ttl": 600} for _ in range(2)]


def over_websocket(client: Client, queue: str) -> Work:
    async def work() -> int:
        name = {"queue_name": queue}
        await client.ask("message_post", {**name, "messages": DRAFTS})
        await client.ask("message_list", {**name, "echo": True, "limit": 10})
        claimed = await client.ask("claim_create", {**name, "limit": 2, "ttl": 300, "grace": 60})
        for message in claimed["messages"]:
            ids = {"message_id": message["id"], "claim_id": claimed["claim_id"]}
            await client.ask("message_delete", {**name, **ids})
        await client.ask("queue_get_stats", name)
        return 4 + len(claimed["messages"])

    return work


def over_http(client: HttpClient, queue: str) -> Work:
    async def work() -> int:
        path = f"/v2/queues/{queue}"
        await client.ask("POST", f"{path}/messages", {"messages": DRAFTS})
        await client.ask("GET", f"{path}/messages?echo=true&limit=10")
        claimed = await client.ask("POST", f"{path}/claims?limit=2", {"ttl": 300, "grace": 60})
        for message in claimed["messages"]:
            await client.ask("DELETE", message["href"])
        await client.ask("GET", f"{path}/stats")
        return 4 + len(claimed["messages"])

    return work


async def keep_pace(works: list[Work], *, rate: float, seconds: float) -> tuple[int, float]:
    """Let all work side by side, at ``rate`` requests a second in all; the requests, and the seconds they took."""
    begin = time.monotonic()

    async def one(work: Work) -> int:
        done = 0
        await asyncio.sleep(random.random() * len(works) * 6 / rate)
        while (now := time.monotonic()) < begin + seconds:
            done += await work()
            await asyncio.sleep(max(0.0, now + len(works) * 6 / rate - time.monotonic()))
        return done

    done = sum(await asyncio.gather(*map(one, works)))
    return done, time.monotonic() - begin


# -- what is measured ------------------------------------------------------------------------------------------------


async def measure_idle(server: Server, options: argparse.Namespace) -> None:
    before = resident_bytes(server.websocket)
    async with AsyncExitStack() as stack:
        begin = time.monotonic()
        clients = await open_clients(stack, server.url, options.connections)
        opened = time.monotonic() - begin
        await asyncio.sleep(2)
        kib = (resident_bytes(server.websocket) - before) / 1024
        begun, cpu = time.monotonic(), cpu_seconds(server.websocket)
        await asyncio.sleep(options.seconds)
        share = (cpu_seconds(server.websocket) - cpu) / (time.monotonic() - begun)
        print(f"idle: {len(clients)} connections, opened in {opened:.1f} s")
        print(
            f"  memory of the process  {before / 2**20:.0f} MiB, and {kib / len(clients):.1f} KiB for each connection"
        )
        print(f"  CPU                    {share:.1%} of one core, pings every {options.ping_interval:g} s included")
        # Closing them all one after the other would take longer than measuring.
        for client in clients:
            client._connection.transport.abort()


async def measure_requests(server: Server, options: argparse.Namespace) -> None:
    costs: dict[str, list[float]] = {"WebSocket": [], "HTTP": []}
    rates: dict[str, list[float]] = {"WebSocket": [], "HTTP": []}
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, server.url, options.clients)
        https = [HttpClient(server.port, f"p{n % PROJECTS}") for n in range(options.clients)]
        for each in https:
            stack.callback(each.close)
        works = {
            "WebSocket": [over_websocket(client, f"w{n}") for n, client in enumerate(clients)],
            "HTTP": [over_http(client, f"h{n}") for n, client in enumerate(https)],
        }
        pids = {"WebSocket": server.websocket, "HTTP": server.http}
        for each in works.values():  # caches, threads and connections to the store
            await asyncio.gather(*(work() for work in each))
        for _ in range(options.rounds):
            for http in https:
                http.close()  # the server closes those that are idle for as long as a round may take
            for name, each in works.items():
                cpu = cpu_seconds(pids[name])
                done, took = await keep_pace(each, rate=options.rate, seconds=options.seconds / options.rounds)
                costs[name].append((cpu_seconds(pids[name]) - cpu) / done * 1e6)
                rates[name].append(done / took)
    print(f"requests: {options.clients} clients, {options.rate:g} requests a second asked for, {options.rounds} rounds")
    for name in costs:
        cost, rate = statistics.median(costs[name]), statistics.median(rates[name])
        print(f"  {name:10} {cost:6.0f} us of CPU for each request, at {rate:.0f} requests a second")


async def post_now(poster: HttpClient, queue: int) -> None:
    body = {"messages": [{"body": {"sent": time.time()}, "ttl": 300}]}
    await poster.ask("POST", f"/v2/queues/s{queue}/messages", body)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that should come about; at most half a minute, as then the figures say that it did not."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def measure_pushes(server: Server, options: argparse.Namespace) -> None:
    delays: list[float] = []
    posted = 0
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, server.url, options.subscribers)
        for first in range(0, len(clients), AT_ONCE):
            some = list(enumerate(clients))[first : first + AT_ONCE]
            await asyncio.gather(
                *(each.ask("subscription_create", {"queue_name": f"s{n}", "ttl": 3600}) for n, each in some)
            )
        listeners = [
            asyncio.create_task(each.listen(lambda body: delays.append(time.time() - body["sent"]))) for each in clients
        ]
        posters = [HttpClient(server.port, f"p{n}") for n in range(PROJECTS)]
        for number, poster in enumerate(posters):
            stack.callback(poster.close)
            # What is met for the first time has to be found in the stores, by each process.
            await post_now(poster, number)
        await until(lambda: len(delays) == PROJECTS)
        delays.clear()
        pids = {"WebSocket": server.websocket, "notifier": server.notifier, "HTTP": server.http}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        begin = time.monotonic()

        async def post(number: int, poster: HttpClient) -> int:
            count = 0
            interval = PROJECTS / options.messages
            await asyncio.sleep(interval * number / PROJECTS)
            while time.monotonic() < begin + options.seconds:
                at = time.monotonic()
                queue = random.randrange(number, options.subscribers, PROJECTS)
                await post_now(poster, queue)
                count += 1
                await asyncio.sleep(max(0.0, at + interval - time.monotonic()))
            return count

        posted = sum(await asyncio.gather(*(post(n, each) for n, each in enumerate(posters))))
        await until(lambda: len(delays) >= posted)
        took = time.monotonic() - begin
        shares = {name: (cpu_seconds(pid) - before[name]) / took for name, pid in pids.items()}
        for task in listeners:
            task.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    print(f"pushes: {options.subscribers} connections, {posted / options.seconds:.0f} messages a second")
    print(f"  {posted} posted, {len(delays)} pushed")
    if len(delays) > 1:
        marks = statistics.quantiles(delays, n=100)
        p50, p99, most = (seconds * 1000 for seconds in (marks[49], marks[98], max(delays)))
        print(f"  delay {p50:.1f} ms (p50), {p99:.1f} ms (p99), {most:.1f} ms (most)")
    print("  CPU   " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) + " of one core")


MEASURED = {"idle": measure_idle, "requests": measure_requests, "pushes": measure_pushes}


@contextlib.contextmanager
def running(ping_interval: float) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), ping_interval)
        try:
            yield server
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURED, help="measure just this")
    parser.add_argument("--seconds", type=float, default=60, help="how long each of them lasts")
    parser.add_argument("--connections", type=int, default=10_000, help="idle ones")
    parser.add_argument("--ping-interval", type=float, default=20, help="of the server, in seconds")
    parser.add_argument("--clients", type=int, default=50, help="that make requests side by side")
    parser.add_argument("--rate", type=float, default=1000, help="requests a second in all")
    parser.add_argument("--rounds", type=int, default=5, help="in which WebSocket and HTTP take turns")
    parser.add_argument("--subscribers", type=int, default=1000, help="connections that are subscribed")
    parser.add_argument("--messages", type=float, default=100, help="that are posted in a second, to them in all")
    options = parser.parse_args()
    if options.subscribers < PROJECTS:
        parser.error(f"--subscribers: at least {PROJECTS}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name, measure in MEASURED.items():
        if options.only in (None, name):
            # A server of its own, so that none of them works with what another has left.
            with running(options.ping_interval) as server:
                asyncio.run(measure(server, options))


if __name__ == "__main__":
    main()
