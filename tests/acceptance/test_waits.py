# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for messages on each HTTP server: their number, clients that disconnect, the end of a worker."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import Server, children, wait_until
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
LONG = 20
"""Seconds for which clients ask to wait. A test in which nothing ends the wait early takes that long, and fails."""

MOST_SECONDS, MOST_TIMES = 0.5, 5.0
"""The time limit of requests beside many waiting ones: seconds, or so many times their time alone."""

THREADS = 4
CLAIMS = "/v2/queues/q/claims"
APPLICATION = """
import os, time
from zaqar.service.claims import Claims
from zaqar.wsgi import application

attempt = Claims._attempt

def slow(*arguments):
    # The test has the client go away between the attempt and the answer.
    found = attempt(*arguments)
    while found.is_served and found.answer.claim.ttl == 61 and not os.path.exists("gone"):
        time.sleep(0.05)
    return found

Claims._attempt = slow
"""


def _gunicorn(port: int, *more: str) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "--workers", "1", "--bind", f"127.0.0.1:{port}"]
    return [*command, *more, "slow_claims:application"]


def _bounded(port: int, *more: str) -> list[str]:
    return _gunicorn(port, "--config", str(ROOT / "etc" / "gunicorn.conf.py"), *more)


def _gthread(port: int, *more: str) -> list[str]:
    return _gunicorn(port, "--worker-class", "gthread", "--threads", str(THREADS), *more)


def _granian(port: int, *more: str) -> list[str]:
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--workers", "1"]
    return [*command, "--blocking-threads", str(THREADS), *more, "slow_claims:application"]


def _uwsgi(port: int, *more: str) -> list[str]:
    command = [str(Path(sys.executable).parent / "uwsgi"), "--http-socket", f"127.0.0.1:{port}", "--master"]
    command += ["--processes", "1", "--threads", str(THREADS), "--lazy-apps", "--need-app"]
    # As in etc/uwsgi.ini, SIGTERM lets running requests end.
    command += ["--worker-reload-mercy", "8", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all"]
    return [*command, "--module", "slow_claims:application", *more]


COMMANDS = {"gunicorn": _bounded, "gthread": _gthread, "granian": _granian, "uwsgi": _uwsgi}
WITH_THREADS = ("gthread", "granian", "uwsgi")


@contextmanager
def serving(name: str, folder: Path, *more: str, lines: str = "", ulimit: str = "") -> Iterator[Server]:
    """One worker of the service under this server. ``ulimit`` are arguments of the shell's ulimit."""
    folder.mkdir(exist_ok=True)
    port, log = free_port(), folder / "log"
    (folder / "zaqar.conf").write_text(f"[DEFAULT]\ndefault_log_levels = zaqar=INFO\n{lines}")
    (folder / "slow_claims.py").write_text(APPLICATION)
    environment = {
        **os.environ,
        "ZAQAR_CONFIG_FILE": str(folder / "zaqar.conf"),
        "ZAQAR_STATE_DIR": str(folder / "state"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
    }
    command = COMMANDS[name](port, *more)
    if ulimit:
        command = ["/bin/sh", "-c", f'ulimit {ulimit} && exec "$@"', "sh", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    server = Server("127.0.0.1", port, folder / "state", log, process)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """One server of each kind, started together."""
    with ExitStack() as stack, ThreadPoolExecutor(len(COMMANDS)) as pool:
        folder = tmp_path_factory.mktemp("waits")

        def start(name: str) -> Server:
            return stack.enter_context(serving(name, folder / name, ulimit="-Sn 256"))

        yield dict(zip(COMMANDS, pool.map(start, COMMANDS), strict=True))


@dataclass
class Client:
    """A client of one project."""

    server: Server
    project: str

    def headers(self) -> dict[str, str]:
        return {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": self.project}

    def open(self, method: str, path: str, body: Any = None) -> http.client.HTTPConnection:
        """Send a request without reading the answer."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE)
        connection.request(method, path, None if body is None else json.dumps(body), self.headers())
        return connection

    def ask(self, method: str, path: str, body: Any = None) -> tuple[http.client.HTTPResponse, Any]:
        return read(self.open(method, path, body))

    def post(self, *bodies: Any, queue: str = "q") -> None:
        messages = [{"body": body, "ttl": 300} for body in bodies]
        response, _ = self.ask("POST", f"/v2/queues/{queue}/messages", {"messages": messages})
        assert response.status == 201

    def counts(self) -> tuple[int, int]:
        """The numbers of free and claimed messages."""
        messages = self.ask("GET", "/v2/queues/q/stats")[1]["messages"]
        return messages["free"], messages["claimed"]


def read(connection: http.client.HTTPConnection) -> tuple[http.client.HTTPResponse, Any]:
    """Read the whole answer."""
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response, json.loads(text) if text else None


def bodies(answer: tuple[http.client.HTTPResponse, Any]) -> list[Any]:
    response, document = answer
    assert response.status in (200, 201, 204), document
    return [message["body"] for message in document["messages"]] if document else []


# -- requests that may wait --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gunicorn", *WITH_THREADS])
def test_a_post_ends_the_wait_on_each_server(servers: dict[str, Server], name: str) -> None:
    client = Client(servers[name], f"wakes-{name}")
    opened = [
        client.open("POST", f"{CLAIMS}?wait={LONG}"),
        client.open("GET", f"/v2/queues/other/messages?echo=true&wait={LONG}"),
    ]
    client.post(1)
    client.post(2, queue="other")
    assert [bodies(read(each)) for each in opened] == [[1], [2]]


def test_all_threads_except_one_may_wait(servers: dict[str, Server]) -> None:
    """Other requests are served meanwhile, and one more request that would wait is answered at once."""
    on_each(all_threads_but_one_wait, servers, WITH_THREADS)


def on_each(check: Callable[[Server, str], None], servers: dict[str, Server], names: Sequence[str]) -> None:
    """Check these servers at the same time, because most of the time is waiting."""
    with ThreadPoolExecutor(len(names)) as pool:
        checks = {name: pool.submit(check, servers[name], name) for name in names}
    failed = {name: error for name, running in checks.items() if (error := running.exception()) is not None}
    for name, error in failed.items():
        error.add_note(f"the server is {name}; failed: {', '.join(failed)}")
        raise error


def all_threads_but_one_wait(server: Server, name: str) -> None:
    client = Client(server, f"threads-{name}")
    text = f"a worker has {THREADS}. At most {THREADS - 1} requests"
    wait_until(lambda: text in server.log.read_text())
    for _ in range(5):
        began = time.monotonic()
        waiting = [client.open("POST", f"{CLAIMS}?wait={LONG}") for _ in range(THREADS - 1)]
        # A request that came too early would take the place of one of these.
        wait_until_held(server, THREADS - 1)
        refused, _ = client.ask("POST", f"{CLAIMS}?wait={LONG}")
        assert [client.ask("GET", "/v2/queues/q")[0].status for _ in range(20)] == [200] * 20
        all_wait = not select.select([each.sock for each in waiting], [], [], 0)[0]
        answers = [read(each)[0] for each in waiting]
        assert 5 <= time.monotonic() - began < LONG
        if all_wait:
            break
        # On a busy machine that took the 5 s for which the requests wait.
    assert all_wait
    assert (refused.status, refused.getheader("Retry-After")) == (204, "1")
    assert [(each.status, each.getheader("Retry-After")) for each in answers] == [(204, None)] * (THREADS - 1)


# -- clients that disconnect -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gunicorn", *WITH_THREADS])
def test_a_disconnected_client_gets_no_message(servers: dict[str, Server], name: str) -> None:
    """granian notices it only at the answer. Then the claim is released, and the next client gets the message."""
    client = Client(servers[name], f"gone-{name}")
    gone = client.open("POST", f"{CLAIMS}?wait={LONG}")
    time.sleep(0.3)
    there = client.open("POST", f"{CLAIMS}?wait={LONG}")
    time.sleep(0.3)
    gone.close()
    client.post(1)
    assert bodies(read(there)) == [1]


@pytest.mark.parametrize("name", ["gunicorn", "gthread", "uwsgi"])
def test_a_client_that_has_sent_its_next_request_is_still_connected(servers: dict[str, Server], name: str) -> None:
    client = Client(servers[name], f"pipelines-{name}")
    head = "".join(f"{header}: {value}\r\n" for header, value in client.headers().items())
    with socket.create_connection((client.server.host, client.server.port), PATIENCE) as sock:
        request = f"POST {CLAIMS}?wait={LONG} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{head}\r\n"
        sock.sendall((request + f"GET /v2/queues/q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{head}\r\n").encode())
        time.sleep(0.3)
        client.post(1)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert bodies((response, json.loads(response.read()))) == [1]


@pytest.mark.parametrize("name", ["gunicorn", *WITH_THREADS])
def test_a_claim_whose_client_got_the_answer_is_kept(servers: dict[str, Server], name: str) -> None:
    client = Client(servers[name], f"served-{name}")
    for number in range(20):
        if number % 2:
            client.post(number)
            assert bodies(client.ask("POST", f"{CLAIMS}?wait={LONG}")) == [number]
        else:
            opened = client.open("POST", f"{CLAIMS}?wait={LONG}")
            client.post("x" * 50_000)
            assert bodies(read(opened)) == ["x" * 50_000]
    time.sleep(0.3)
    assert client.counts() == (0, 20)


@pytest.mark.parametrize("name", ["gunicorn", *WITH_THREADS])
def test_a_claim_whose_client_disconnects_before_the_answer_is_released(servers: dict[str, Server], name: str) -> None:
    client = Client(servers[name], f"late-{name}")
    gone = client.open("POST", f"{CLAIMS}?wait={LONG}", {"ttl": 61, "grace": 60})
    client.post(1)
    wait_until(lambda: client.counts() == (0, 1))
    gone.close()
    (client.server.log.parent / "gone").touch()
    wait_until(lambda: client.counts() == (1, 0))


# -- the end of a worker -----------------------------------------------------------------------------------------------


class Waiting:
    """Clients that wait, each on a connection of its own."""

    def __init__(self, client: Client, count: int) -> None:
        self._threads = [threading.Thread(target=self._ask, args=(client, n)) for n in range(count)]
        self.answers: list[tuple[int, Any]] = []
        self.errors: list[Exception] = []
        for thread in self._threads:
            thread.start()

    def _ask(self, client: Client, number: int) -> None:
        try:
            response, document = client.ask("POST", f"/v2/queues/q{number % 7}/claims?wait={LONG}")
        except (OSError, http.client.HTTPException) as exc:
            self.errors.append(exc)
        else:
            self.answers.append((response.status, document))

    def end(self) -> list[tuple[int, Any]]:
        """Read all answers. Fails if a connection was closed without one."""
        for thread in self._threads:
            thread.join()
        assert self.errors == []
        return self.answers


def wait_until_held(server: Server, connections: int) -> None:
    """Wait until the workers have so many connections, and have read the requests on them."""
    port = f":{server.port:04X}"

    def count() -> int:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # Established (01) at the server's end, and with nothing left to read.
        return sum(
            each[1].endswith(port) and each[3] == "01" and each[4].endswith(":00000000") and each[9] != "0"
            for each in lines
        )

    wait_until(lambda: count() >= connections)
    time.sleep(0.5)


# -- a neighbour -------------------------------------------------------------------------------------------------------


def test_waiting_clients_of_one_project_do_not_delay_another_project(servers: dict[str, Server]) -> None:
    """The connections need more open files than the server's soft limit, so it has raised its limit."""
    server = servers["gunicorn"]
    waiting_project, quiet = Client(server, "waiting"), Client(server, "quiet")

    def slowest() -> float:
        """The 99th percentile of the seconds that a post or claim takes."""
        taken = []
        for number in range(100):
            began = time.monotonic()
            quiet.post(number)
            assert bodies(quiet.ask("POST", CLAIMS)) == [number]
            taken.append(time.monotonic() - began)
        return sorted(taken)[98]

    alone = slowest()
    waiting = [waiting_project.open("POST", f"/v2/queues/q{n % 50}/claims?wait={LONG}") for n in range(500)]
    try:
        # One more request of that project may not wait, but requests of others may.
        wait_until(lambda: waiting_project.ask("POST", f"{CLAIMS}?wait=1")[0].getheader("Retry-After") == "1")
        beside = slowest()
        opened = quiet.open("POST", f"{CLAIMS}?wait={LONG}")
        quiet.post("last")
        assert bodies(read(opened)) == ["last"]
    finally:
        for each in waiting:
            each.close()
    # The slots of disconnected clients are free long before their requests would time out.
    wait_until(
        lambda: waiting_project.ask("POST", f"{CLAIMS}?wait=1")[0].getheader("Retry-After") is None, seconds=LONG / 2
    )
    assert beside <= max(MOST_SECONDS, MOST_TIMES * alone), (beside, alone)


# -- the end of the servers of this module -----------------------------------------------------------------------------


def test_a_reload_or_the_end_answers_all_waiting_requests_at_once(servers: dict[str, Server]) -> None:
    """To be run last on this server."""
    server = servers["gunicorn"]
    client = Client(server, "drained")
    (before,) = children(server.process.pid)
    for number in (signal.SIGHUP, signal.SIGTERM):
        began = time.monotonic()
        waiting = Waiting(client, 200)
        wait_until_held(server, 200)
        server.process.send_signal(number)
        assert waiting.end() == [(204, None)] * 200
        assert time.monotonic() - began < LONG, "the requests were answered only at their time-out"
        if number == signal.SIGHUP:
            # The new worker admits waiting requests.
            wait_until(lambda: len(now := children(server.process.pid)) == 1 and now != [before])
            opened = client.open("POST", f"{CLAIMS}?wait={LONG}")
            client.post(1)
            assert bodies(read(opened)) == [1]
    assert server.process.wait(PATIENCE) == 0


def test_servers_with_threads_end_in_time(servers: dict[str, Server]) -> None:
    """To be run last on these servers."""
    on_each(ends_in_time, servers, ("granian", "uwsgi"))


def ends_in_time(server: Server, name: str) -> None:
    waiting = Waiting(Client(server, f"drained-{name}"), THREADS - 1)
    wait_until_held(server, THREADS - 1)
    server.process.send_signal(signal.SIGTERM)
    assert waiting.end() == [(204, None)] * (THREADS - 1)
    server.process.wait(LONG / 2)
