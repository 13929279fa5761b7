# SPDX-License-Identifier: Apache-2.0
"""The WebSocket server in real processes: connections, limits that protect clients from each other, and its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.backends import REDIS, started
from tests.acceptance.server import Server, free_port, running, wait_until
from tests.websocket import FORMATS, Format, WebSocket

PATIENCE = 60.0
MODULE = "zaqar.cmd.websocket"
CLIENT = str(uuid.uuid4())

MOST_SECONDS, MOST_TIMES = 1.0, 20.0
"""The delay allowed beside a bad neighbour: seconds on a quiet machine, or so many times the delay alone."""


def message(text: Any = "x") -> dict[str, Any]:
    return {"body": text, "ttl": 300}


def post(client: WebSocket, queue: str = "q", *bodies: Any) -> int:
    return client.request("message_post", {"queue_name": queue, "messages": [*map(message, bodies or ("x",))]}).status


def ask(server: Server, method: str, path: str, document: Any = None) -> Any:
    """Send a request over HTTP, as an administrator. Returns the document of the answer."""
    headers = {"Client-ID": CLIENT, "X-Project-ID": "admin", "X-Roles": "admin", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, None if document is None else json.dumps(document), headers)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    assert response.status < 300, text
    return json.loads(text) if text else None


@contextmanager
def serving(
    folder: Path, config: str = "", *options: str, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    file = folder / "zaqar.conf"
    file.write_text(config)
    options = ("--workers", "1", "--config-file", str(file), *options)
    with running(folder / "state", options=options, environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do not stop it, with limits that a test can reach."""
    config = """
[cors]
allowed_origin = https://ui.example
[transport]
max_messages_post_size = 300000
[drivers:transport:websocket]
max_connections_per_project = 40
write_timeout = 1
"""
    with serving(tmp_path_factory.mktemp("websocket"), config) as server:
        yield server


@contextmanager
def alone(folder: Path, config: str = "", *, limit: int | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start ``zaqar-websocket`` alone. Yields it and its URL; ``limit`` is the hard limit of open files."""
    file = folder / "zaqar.conf"
    file.write_text(f"[DEFAULT]\nstate_dir = {folder}/state\n{config}")
    command = [sys.executable, "-m", MODULE, "--bind", "127.0.0.1:0", "--config-file", str(file)]
    if limit is not None:
        command = ["bash", "-c", f'ulimit -n {limit} && exec "$@"', "bash", *command]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output, text=True)
    try:
        found = wait_until(lambda: re.search(r"listens on (ws://\S+)\.\n", log.read_text()), seconds=PATIENCE)
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE)


# -- operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_message_is_posted_and_pushed_in_each_format(server: Server, name: str) -> None:
    form: Format = FORMATS[name]
    with WebSocket(server.websocket_url, project=name, form=form) as client:
        created = client.request("queue_create", {"queue_name": "q", "metadata": {"colour": "blue"}})
        assert (created.status, created.body) == (201, "Queue q created.")
        assert created.request["body"] == {"queue_name": "q", "metadata": {"colour": "blue"}}
        body = {"text": "Ünicode \U0001f98a", "numbers": [1, -2, 2**53, 0.5], "nothing": None}
        assert post(client, "q", body) == 201
        claimed = client.request("claim_create", {"queue_name": "q", "ttl": 60, "grace": 60})
        assert claimed.status == 201
        assert [each["body"] for each in claimed.body["messages"]] == [body]
        # The messages that were posted over WebSocket can be read over HTTP.
        assert claimed.body["messages"][0]["claim_id"] == claimed.body["claim_id"]


def test_notifications_come_in_the_order_of_the_posts(server: Server) -> None:
    with WebSocket(server.websocket_url, project="news") as client, ThreadPoolExecutor(1) as pool:
        assert client.request("subscription_create", {"queue_name": "q", "ttl": 300}).status == 201

        def produce() -> list[int]:
            with WebSocket(server.websocket_url, project="news") as other:
                return [post(other, "q", number) for number in range(30)]

        posting = pool.submit(produce)
        # Notifications are never taken for replies to the requests in between.
        replies = [client.request("queue_get", {"queue_name": "q"}).status for _ in range(50)]
        assert set(replies) == {200}
        assert posting.result() == [201] * 30
        assert [client.push()["body"] for _ in range(30)] == list(range(30))


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with WebSocket(server.websocket_url, project="pipeline") as client:
        for number in range(200):
            client.send(client.frame("message_post", {"queue_name": "q", "messages": [message(number)]}))
        assert [client.reply().status for _ in range(200)] == [201] * 200
        seen: list[Any] = []
        marker: dict[str, str] = {}
        while page := client.request("message_list", {"queue_name": "q", "echo": True, **marker}).body["messages"]:
            seen += [each["body"] for each in page]
            marker = {"marker": page[-1]["id"]}
        assert seen == list(range(200))


def test_both_formats_can_be_mixed_on_one_connection(server: Server) -> None:
    with WebSocket(server.websocket_url, project="both") as client:
        for form in (*FORMATS.values(), *FORMATS.values()):
            assert client.request("queue_list", form=form).status == 200


# -- origins that may connect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://ui.example", "own"])
def test_a_page_of_an_allowed_origin_may_connect(server: Server, origin: str) -> None:
    url = server.websocket_url
    value = url.replace("ws://", "http://") if origin == "own" else origin
    with WebSocket(url, project="page", origin=value) as client:
        assert client.request("queue_list").status == 200


def test_a_page_of_another_origin_may_not_connect(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        WebSocket(server.websocket_url, origin="https://evil.example")
    assert caught.value.response.status_code == 403
    assert json.loads(caught.value.response.body or b"")["description"].startswith("Pages of this origin may not")


def test_an_http_request_to_the_port_is_426(server: Server) -> None:
    host, _, port = server.websocket_url.removeprefix("ws://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    connection.request("GET", "/v2/queues")
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"]) == (426, "application/json")
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Server"] is None
    assert json.loads(response.read())["description"] == "This port speaks WebSocket only."
    connection.close()


def test_a_project_with_many_connections_does_not_keep_others_out(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(server.websocket_url, project="many")) for _ in range(41)]
        assert [client.request("queue_list").status for client in clients[:40]] == [200] * 40
        clients[40].send(clients[40].frame("queue_list"))
        assert clients[40].closed()[0] == 4429
        with WebSocket(server.websocket_url, project="few") as other:
            assert other.request("queue_list").status == 200
        clients[0].close()
        wait_until(lambda: is_served(server, "many"))


def is_served(server: Server, project: str) -> bool:
    with WebSocket(server.websocket_url, project=project) as client:
        try:
            return client.request("queue_list").status == 200
        except ConnectionClosed:
            return False


def test_a_frame_that_is_too_large_is_refused(server: Server) -> None:
    with WebSocket(server.websocket_url, project="large") as client:
        assert post(client, "q", "x" * 290_000) == 201
        # The reply names the limit that the frame exceeds. A frame far beyond the limit is not read to its end.
        assert post(client, "q", "x" * 310_000) == 400
        client.send(client.frame("message_post", {"queue_name": "q", "messages": [message("x" * 400_000)]}))
        assert client.closed()[0] == 1009


def test_silent_sockets_and_slow_handshakes_do_not_delay_others(server: Server) -> None:
    host, _, port = server.websocket_url.removeprefix("ws://").partition(":")
    with WebSocket(server.websocket_url, project="quick") as client:
        without = percentile([timed(lambda: post(client)) for _ in range(20)])
    with ExitStack() as stack:
        for number in range(300):
            sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            sock.sendall((b"", b"GET / HTTP/1.1\r\nHost:", b"\x16\x03\x01\x00")[number % 3])
        with WebSocket(server.websocket_url, project="quick") as client:
            beside = percentile([timed(lambda: post(client)) for _ in range(20)])
    assert beside < max(MOST_SECONDS, MOST_TIMES * without)


# -- no delay by others ------------------------------------------------------------------------------------------------


def timed(call: Callable[[], int], expected: int = 201) -> float:
    began = time.monotonic()
    assert call() == expected
    return time.monotonic() - began


def percentile(delays: list[float]) -> float:
    return sorted(delays)[int(len(delays) * 0.9)]


class Neighbours:
    """Clients that post one message after another until the end, each as soon as the previous one is answered."""

    def __init__(self, url: str, projects: list[str], queue: str) -> None:
        self.statuses: list[int] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(url, each, queue)) for each in projects]

    def _post(self, url: str, project: str, queue: str) -> None:
        with WebSocket(url, project=project) as client:
            while not self._end.is_set():
                self.statuses.append(post(client, queue))

    def __enter__(self) -> Neighbours:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def test_a_busy_project_does_not_delay_another(server: Server) -> None:
    with WebSocket(server.websocket_url, project="modest") as client:
        post(client)
        without = percentile([timed(lambda: post(client)) for _ in range(20)])
        with Neighbours(server.websocket_url, ["greedy"] * 30, "q") as greedy:
            wait_until(lambda: len(greedy.statuses) > 30)
            beside = percentile([timed(lambda: post(client)) for _ in range(20)])
    assert beside < max(MOST_SECONDS, MOST_TIMES * without)
    assert set(greedy.statuses) <= {201, 503}


POOLS = """
[DEFAULT]
admin_mode = True
pooling = True
"""


def test_a_silent_store_does_not_take_all_threads(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(started(REDIS))
        server = stack.enter_context(serving(tmp_path, POOLS))
        url = server.websocket_url
        ask(server, "PUT", "/v2/pools/home", {"uri": f"sqlite:///{tmp_path}/pool.db", "weight": 100})
        ask(server, "PUT", "/v2/pools/silent", {"uri": silent.uri, "weight": 1})
        for name in ("home", "silent"):
            ask(server, "PUT", f"/v2/flavors/{name}", {"pool_list": [name]})
        projects = [f"p{number}" for number in range(10)]
        for project in (*projects, "quiet"):
            with WebSocket(url, project=project) as client:
                name = "home" if project == "quiet" else "silent"
                created = client.request("queue_create", {"queue_name": "q", "metadata": {"_flavor": name}})
                assert created.status == 201
                assert post(client) == 201
        client = stack.enter_context(WebSocket(url, project="quiet"))
        without = percentile([timed(lambda: post(client)) for _ in range(20)])
        REDIS.signal(silent, signal.SIGSTOP)
        try:
            with Neighbours(url, projects * 8, "q") as neighbours:
                delays = []
                # No client waits long for a refusal.
                while len(delays) < 40 or len(neighbours.statuses) <= 40:
                    delays.append(timed(lambda: post(client)))
                    time.sleep(0.1)
                assert percentile(delays) < max(MOST_SECONDS, MOST_TIMES * without)
                assert set(neighbours.statuses) == {503}
                REDIS.signal(silent, signal.SIGCONT)
                wait_until(lambda: 201 in neighbours.statuses[-80:])
        finally:
            REDIS.signal(silent, signal.SIGCONT)


def test_a_client_that_reads_nothing_is_closed_and_does_not_delay_others(server: Server) -> None:
    with ExitStack() as stack:
        url = server.websocket_url
        client = stack.enter_context(WebSocket(url, project="p"))
        assert client.request("subscription_create", {"queue_name": "q", "ttl": 300}).status == 201
        host, _, port = url.removeprefix("ws://").partition(":")
        sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        raw = WebSocket(url, project="p", sock=sock, max_queue=1)
        raw.library.protocol.max_message_size = None
        assert raw.request("subscription_create", {"queue_name": "q", "ttl": 300}).status == 201
        raw.library.recv_messages.pause()
        assert subscribers(client) == 2
        with WebSocket(url, project="p") as producer:
            for number in range(40):
                assert post(producer, "q", [number, "x" * 250_000]) == 201
                assert client.push()["body"][0] == number
        # The connection is closed, and its subscription removed, although the client never closed its socket.
        wait_until(lambda: subscribers(client) == 1)


def subscribers(client: WebSocket) -> int:
    return len(client.request("subscription_list", {"queue_name": "q"}).body["subscriptions"])


# -- the end, and reloads ----------------------------------------------------------------------------------------------


def send_post(client: WebSocket) -> None:
    """Send a post whose reply is not awaited; return when the server has read it."""
    client.send(client.frame("message_post", {"queue_name": "q", "messages": [message()]}))
    assert client.library.ping().wait(PATIENCE)


def assert_ended_in_time(server: Server) -> None:
    """Assert that the end took under 10 seconds: zaqar-server kills a part that takes longer, and logs it."""
    assert "did not end" not in server.log.read_text()


def test_sigterm_lets_running_actions_finish(tmp_path: Path) -> None:
    with started(REDIS) as backend:
        config = REDIS.write_config(backend, tmp_path / "redis.conf").read_text()
        # The post may wait for the store for as long as this machine takes.
        config = config.replace(backend.uri, f"{backend.uri}?socket_timeout=60")
        with serving(tmp_path, config) as server, WebSocket(server.websocket_url, project="p") as client:
            idle = WebSocket(server.websocket_url, project="p")
            assert post(client) == 201
            REDIS.signal(backend, signal.SIGSTOP)
            send_post(client)
            # These actions are not begun.
            for _ in range(2):
                client.send(client.frame("message_post", {"queue_name": "q", "messages": [message()]}))
            server.process.send_signal(signal.SIGTERM)
            # A connection without a running action is closed at once.
            assert idle.closed() == (1001, "The server ends.")
            REDIS.signal(backend, signal.SIGCONT)
            assert client.reply().status == 201
            assert client.closed()[0] == 1001
            assert server.process.wait(PATIENCE) == 0
            assert_ended_in_time(server)


def test_sigterm_ends_the_server_in_time_while_a_store_is_silent(tmp_path: Path) -> None:
    with started(REDIS) as backend:
        config = REDIS.write_config(backend, tmp_path / "redis.conf").read_text()
        with serving(tmp_path, config) as server, ExitStack() as stack:
            clients = [stack.enter_context(WebSocket(server.websocket_url, project=f"p{n}")) for n in range(8)]
            assert [post(client) for client in clients] == [201] * 8
            REDIS.signal(backend, signal.SIGSTOP)
            try:
                for client in clients:
                    send_post(client)
                server.process.send_signal(signal.SIGTERM)
                for client in clients:
                    assert client.reply().status == 503
                    assert client.closed()[0] == 1001
                assert server.process.wait(PATIENCE) == 0
                assert_ended_in_time(server)
            finally:
                REDIS.signal(backend, signal.SIGCONT)


def test_a_killed_server_is_restarted_at_its_port(server: Server) -> None:
    url, pid = server.websocket_url, server.part(MODULE)
    with WebSocket(url, project="killed") as client:
        assert post(client) == 201
        os.kill(pid, signal.SIGKILL)
        assert client.closed()[0] == 1006
    # The port stays open meanwhile: the connection waits for the next process.
    with WebSocket(url, project="killed") as client:
        assert post(client) == 201
    assert server.part(MODULE) != pid
    wait_until(server.answers)


def test_a_reload_keeps_connections_and_subscriptions(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    with serving(tmp_path) as server, WebSocket(server.websocket_url, project="p") as client:
        pid = server.part(MODULE)
        assert client.request("subscription_create", {"queue_name": "q", "ttl": 300}).status == 201
        (tmp_path / "zaqar.conf").write_text("[transport]\nmax_messages_post_size = 100\n")
        policy.write_text('"queues:create": "role:member"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: post(client, "q", "x" * 200) == 400)
        assert client.request("queue_create", {"queue_name": "other"}).status == 403
        assert post(client, "q", "short") == 201
        pushed = [client.push()["body"]]
        while pushed[-1] != "short":
            pushed.append(client.push()["body"])
        assert set(pushed[:-1]) <= {"x" * 200}
        # A configuration with a mistake changes nothing.
        policy.write_text('"queues:create": "role:')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP changes nothing" in server.log.read_text())
        assert client.request("queue_create", {"queue_name": "other"}).status == 403
        policy.write_text("{}\n")
        (tmp_path / "zaqar.conf").write_text("")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.request("queue_create", {"queue_name": "other"}).status == 201)
        assert post(client, "q", "y" * 200) == 201
        assert client.push()["body"] == "y" * 200
        assert server.part(MODULE) == pid


# -- how it is started -------------------------------------------------------------------------------------------------


def test_the_websocket_server_reads_its_configuration_file(tmp_path: Path) -> None:
    file, port = tmp_path / "zaqar.conf", free_port()
    file.write_text(f"[drivers]\ntransport = websocket\n[drivers:transport:websocket]\nport = {port}\n")
    command = [
        sys.executable,
        "-m",
        "zaqar.cmd.server.main",
        "--config-file",
        str(file),
        "--state-dir",
        f"{tmp_path}/state",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline().endswith(f" listens on ws://127.0.0.1:{port}.\n")
        with WebSocket(f"ws://127.0.0.1:{port}", project="p") as client:
            assert client.request("subscription_create", {"queue_name": "q", "ttl": 300}).status == 201
            assert post(client) == 201
            assert client.push()["body"] == "x"
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(PATIENCE) == 0


def test_the_command_in_the_banner_works(server: Server) -> None:
    wait_until(lambda: "Ctrl-C" in server.log.read_text())
    command, frame = re.findall(r"second line in it:\n +(.*)\n +(.*)\n", server.log.read_text())[-1]
    with (
        subprocess.Popen(command.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{frame}\n")
        process.stdin.flush()
        shown = read_until(process, "subscription_id")
        with WebSocket(server.websocket_url, project="demo") as client:
            assert post(client, "greetings", "hello") == 201
        shown += read_until(process, "Message_Type")
        assert '"body":"hello"' in shown


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    shown = ""
    while word not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    return shown


def test_the_websocket_server_runs_alone(tmp_path: Path) -> None:
    with alone(tmp_path) as (process, url):
        with WebSocket(url, project="p") as client:
            assert post(client) == 201
            process.send_signal(signal.SIGTERM)
            assert client.closed()[0] == 1001
        assert process.wait(PATIENCE) == 0


def test_a_port_in_use_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        for module, option in ((MODULE, "--bind"), ("zaqar.cmd.server.main", "--websocket-bind")):
            command = [sys.executable, "-m", module, option, bind]
            if module != MODULE:
                command += ["--bind", "127.0.0.1:0"]
            environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path / "state")}
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
            )
            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert f": Cannot listen on {bind}: Address already in use." in line


def test_the_limit_of_open_files_limits_connections(tmp_path: Path) -> None:
    with alone(tmp_path, "[drivers:transport:websocket]\nmax_connections = 400\n", limit=300) as (_, url):
        said = (tmp_path / "log").read_text()
        assert "max_connections: 400 need 696 open files, and this process may have 300" in said
        with ExitStack() as stack:
            clients = [stack.enter_context(WebSocket(url, project="p")) for _ in range(28)]
            assert clients[-1].request("queue_list").status == 200
            with pytest.raises(InvalidStatus) as caught:
                WebSocket(url)
            assert caught.value.response.status_code == 503
