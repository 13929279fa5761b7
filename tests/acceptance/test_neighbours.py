# SPDX-License-Identifier: Apache-2.0
"""A project's webhook gets its messages in time, whatever other projects post, subscribe to or delete.

A quiet project has one queue and one subscriber that answers at once. It posts at a steady pace, first alone and then
beside a neighbour of each kind. The neighbour's cost is the difference, on the same machine in the same minute.
The tests of one store share a service; the second of them adds a notifier to it. The first dead letters come half a
minute after the start of the service. The neighbour with dead letters beside one notifier is therefore in the third
test, so that no test waits for them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.backends import REDIS, started
from tests.acceptance.event_loop_thread import EventLoopThread
from tests.acceptance.server import HTTP_COMMAND, Server, free_port, running
from tests.acceptance.test_notifications import Notifier
from tests.acceptance.webhook_sinks import Sink, Sinks

SECONDS = float(os.environ.get("ZAQAR_NEIGHBOUR_SECONDS", "2"))
"""For how long the quiet project posts alone, and beside each neighbour."""

PAUSE = SECONDS / 120
PATIENCE = 60.0
MOST_SECONDS = 1.0
"""The delay allowed to 99 of 100 messages beside a neighbour, on a quiet machine."""

ATTEMPTS = 3
MOST_TIMES = 5.0
"""On a busy machine: how many times the delay without a neighbour is allowed."""

CONFIG = """
[DEFAULT]
admin_mode = True
pooling = True
[transport]
max_messages_post_size = 8388608
[notification]
webhook_allowed_networks = 127.0.0.0/8
"""


# -- the service and its users -----------------------------------------------------------------------------------------


class Project:
    """One tenant."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": name, "X-Roles": "admin"}

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        body = None if document is None else json.dumps(document)
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=PATIENCE)
        try:
            connection.request(method, f"/v2{path}", body, self._headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        assert response.status < 300, (method, path, response.status, text)
        return json.loads(text) if text else None

    def post(self, queue: str, *bodies: Any) -> None:
        self.ask("POST", f"/queues/{queue}/messages", {"messages": [{"body": body, "ttl": 600} for body in bodies]})

    def subscribe(self, queue: str, url: str, **options: Any) -> None:
        self.ask("POST", f"/queues/{queue}/subscriptions", {"subscriber": url, "ttl": 600, "options": options})

    def subscribe_all(self, queue: str, urls: Sequence[str]) -> None:
        """Subscribe them at the same time, so that the store makes several with one sync of the disk."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda url: self.subscribe(queue, url), urls))


@dataclass
class QuietProject:
    """The project whose messages must arrive in time."""

    server: Server
    sink: Sink

    def __post_init__(self) -> None:
        self._project = Project(self.server, "quiet")
        self._project.subscribe("mail", self.sink.url)

    def delays(self, seconds: float = SECONDS) -> list[float]:
        """Seconds from each post to its arrival, the longest last; infinite if it did not arrive."""
        run = uuid.uuid4().hex
        posted = 0
        due = began = time.monotonic()
        while time.monotonic() < began + seconds:
            self._project.post("mail", {"run": run, "at": time.time()})
            posted += 1
            due += PAUSE
            time.sleep(max(0.0, due - time.monotonic()))
        deadline = time.monotonic() + PATIENCE
        while len(found := self._arrivals(run)) < posted and time.monotonic() < deadline:
            time.sleep(0.05)
        return sorted(found.values()) + [math.inf] * (posted - len(found))

    def _arrivals(self, run: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for receipt in list(self.sink.receipts):
            body = receipt.document["body"]
            if body["run"] == run:
                found.setdefault(receipt.webhook_id, receipt.at - body["at"])
        return found


def percentile(delays: list[float]) -> float:
    return delays[int(len(delays) * 0.99)]


# -- misbehaving receivers ---------------------------------------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and never answer."""
    await reader.read(-1)


async def _send_interim_answers_forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send interim answers forever (RFC 8297)."""
    await reader.readuntil(b"\r\n\r\n")
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" * 50)
        await writer.drain()
        await asyncio.sleep(0.001)


@contextmanager
def receivers(serve: Serve, hosts: list[str]) -> Iterator[list[str]]:
    """URLs of receivers: one port on several loopback addresses. Each address is a separate target for the notifier."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # The peer has closed the connection, or the test ends.
        finally:
            writer.close()

    async def listen() -> None:
        async with await asyncio.start_server(answer, hosts, port) as server:
            listening.set()
            await server.serve_forever()

    port, listening = free_port(), threading.Event()
    with EventLoopThread() as loop:
        loop.begin(listen())
        assert listening.wait(PATIENCE)
        yield [f"http://{host}:{port}/hook" for host in hosts]


# -- neighbours --------------------------------------------------------------------------------------------------------
#
# Each prepares itself, and yields the step that begins to disturb the quiet project.


@dataclass
class Environment:
    """The resources of neighbours. ``silent`` is the server of the pool ``silent``, which is stopped."""

    server: Server
    config: Path
    silent: Any
    busy: Sink
    failing_sink: Sink
    quiet: QuietProject

    def __post_init__(self) -> None:
        self.failing_project = FailingProject(self)


Begin = Callable[[], object]
Neighbour = Callable[[Environment], AbstractContextManager[Begin]]


@contextmanager
def many_conditions(environment: Environment) -> Iterator[Begin]:
    """40 subscriptions with 150 conditions each, and one post of 100 bodies of 600 words."""
    project = Project(environment.server, "conditions")
    for number in range(40):
        conditions = [{"prefix": f"no-{number}-{condition}"} for condition in range(150)]
        project.subscribe("q", f"{environment.busy.url}?{number}", filter={"words": conditions})
    words = [f"word{number}" for number in range(600)]
    yield lambda: project.post("q", *({"words": words, "number": number} for number in range(100)))
    project.ask("DELETE", "/queues/q")


@contextmanager
def a_big_post(environment: Environment) -> Iterator[Begin]:
    """60 subscriptions and one post of 5,000 messages."""
    project = Project(environment.server, "big")
    project.subscribe_all("q", [f"{environment.busy.url}?{number}" for number in range(60)])
    yield lambda: project.post("q", *range(5_000))
    project.ask("DELETE", "/queues/q")


class FailingProject(threading.Thread):
    """A project whose deliveries fail, a few each second, and become dead letters 30 s later, after the last retry.

    Its dead letter queue is on the pool ``silent``.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self._project = Project(environment.server, "failing")
        self._project.ask("PUT", "/queues/dead", {"_flavor": "silent-only"})
        policy = {"retries_with_no_delay": 0, "minimum_delay_retries": 0, "maximum_delay_retries": 0}
        policy |= {"minimum_delay": 1, "maximum_delay": 11, "retry_backoff_function": "exponential"}
        for number in range(3):
            url = f"{environment.failing_sink.url}?{number}"
            self._project.subscribe("q", url, dead_letter_queue="dead", _retry_policy=policy)
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(1.0):
            self._project.post("q", "x")

    def wait_for_a_dead_letter(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._project.ask("GET", "/queues/dead/stats")["messages"]["total"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def end(self) -> None:
        self._end.set()
        self.join()
        self._project.ask("DELETE", "/queues/q")


@contextmanager
def dead_letters_for_a_silent_store(environment: Environment) -> Iterator[Begin]:
    """Each second deliveries are given up whose dead letter queue is on a pool that does not answer."""
    environment.failing_project.wait_for_a_dead_letter()
    try:
        yield lambda: environment.silent.program.signal(signal.SIGSTOP)
    finally:
        environment.silent.program.signal(signal.SIGCONT)


@contextmanager
def receivers_that_hang(environment: Environment) -> Iterator[Begin]:
    """Three projects with 100 receivers each that never answer."""
    projects = [Project(environment.server, f"hanging-{number}") for number in range(3)]
    hosts = [[f"127.1.{number}.{host + 1}" for host in range(100)] for number in range(len(projects))]
    with receivers(_hang, [host for some in hosts for host in some]) as urls:
        for number, project in enumerate(projects):
            project.subscribe_all("q", urls[100 * number : 100 * (number + 1)])

        def begin() -> None:
            for project in projects:
                project.post("q", *range(3))

        yield begin
        for project in projects:
            project.ask("DELETE", "/queues/q")


@contextmanager
def endless_interim_answers(environment: Environment) -> Iterator[Begin]:
    """20 receivers that send interim answers forever."""
    project = Project(environment.server, "endless")
    with receivers(_send_interim_answers_forever, [f"127.2.0.{host + 1}" for host in range(20)]) as urls:
        project.subscribe_all("q", urls)
        yield lambda: project.post("q", *range(5))
        project.ask("DELETE", "/queues/q")


NEIGHBOURS = (endless_interim_answers, receivers_that_hang, many_conditions, a_big_post)
WITH_DEAD_LETTERS = (dead_letters_for_a_silent_store,)


# -- the test ----------------------------------------------------------------------------------------------------------


@contextmanager
def service(store: str, folder: Path, silent: Any) -> Iterator[tuple[Server, Path]]:
    """The service with two pools, ``home`` and ``silent``, and its configuration file."""
    config = folder / "zaqar.conf"
    with ExitStack() as stack:
        text = CONFIG
        uri = f"sqlite:///{folder}/pool.db"
        if store == "redis":
            uri = stack.enter_context(started(REDIS)).uri
            text += f"[drivers]\nmanagement_store = redis\n[drivers:management_store:redis]\nuri = {uri}\n"
        config.write_text(text)
        options = ("--config-file", str(config), "--workers", "1")
        server = stack.enter_context(running(folder / "state", options=options, command=HTTP_COMMAND))
        admin = Project(server, "admin")
        for name, where in {"home": uri, "silent": silent.uri}.items():
            admin.ask("PUT", f"/pools/{name}", {"uri": where, "weight": 100 if name == "home" else 1})
        admin.ask("PUT", "/flavors/silent-only", {"pool_list": ["silent"]})
        yield server, config


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    busy, failing_sink, sink = Sink(), Sink("failing"), Sink()
    with ExitStack() as stack:
        silent = stack.enter_context(started(REDIS))
        stack.enter_context(Sinks(busy, failing_sink, sink))
        folder = tmp_path_factory.mktemp(request.param)
        server, config = stack.enter_context(service(request.param, folder, silent))
        environment = Environment(server, config, silent, busy, failing_sink, QuietProject(server, sink))
        environment.failing_project.start()
        stack.callback(environment.failing_project.end)
        yield environment


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("notifiers", "neighbours"),
    [(1, NEIGHBOURS), (2, NEIGHBOURS + WITH_DEAD_LETTERS), (1, WITH_DEAD_LETTERS)],
    ids=["one-notifier", "two-notifiers", "one-notifier-and-dead-letters"],
)
def test_a_neighbour_does_not_delay_the_messages_of_others(
    environment: Environment, notifiers: int, neighbours: Sequence[Neighbour]
) -> None:
    quiet = environment.quiet
    with ExitStack() as stack:
        for _ in range(notifiers - 1):
            notifier = Notifier(environment.config, environment.server.state_dir)
            stack.callback(notifier.close)
            notifier.wait_until_started()
        quiet.delays(SECONDS / 4)  # The notifier has to know the queue and the target.
        alone = percentile(quiet.delays())
        beside: dict[str, float] = {}
        for neighbour in neighbours:
            for _ in range(ATTEMPTS):
                beside[neighbour.__name__] = delay_beside(neighbour, environment)
                if beside[neighbour.__name__] <= most(alone):
                    break
                # A busy machine delays messages now and then. A service that is not fair delays them each time.
                alone = max(alone, percentile(quiet.delays()))
    print(f"{notifiers} notifiers: 99 % within {alone:.3f} s alone, beside:")
    for name, delay in beside.items():
        print(f"  {name:32} {delay:6.3f} s, {delay / alone:5.1f} times")
    late = {name: delay for name, delay in beside.items() if delay > most(alone)}
    assert not late, f"alone {alone:.3f} s"


def most(alone: float) -> float:
    """The delay allowed beside a neighbour."""
    return max(MOST_SECONDS, MOST_TIMES * alone)


def delay_beside(neighbour: Neighbour, environment: Environment) -> float:
    with neighbour(environment) as begin:
        beginning = threading.Thread(target=begin)
        beginning.start()
        delay = percentile(environment.quiet.delays())
        beginning.join()
    return delay
