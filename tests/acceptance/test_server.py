# SPDX-License-Identifier: Apache-2.0
"""``zaqar-server`` as its user sees it: its output, the faults that it survives, and its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from tests.acceptance import raw_http
from tests.acceptance.server import (
    COMMAND,
    HTTP_COMMAND,
    START_SECONDS,
    Server,
    free_port,
    kill,
    running,
    wait_until,
)
from zaqar import app, conf
from zaqar.transport.wsgi.app import make_app

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
MESSAGES = "/v2/queues/q/messages"
POST = b'{"messages": [{"body": "x", "ttl": 300}]}'
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "p", "Content-Type": "application/json"}


def ask(server: Server, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request over a new connection. Returns status and document."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, HEADERS)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None
    finally:
        connection.close()


def stored(server: Server) -> int:
    status, document = ask(server, "GET", "/v2/queues/q/stats")
    assert status == 200
    return int(document["messages"]["total"])


def run_again(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=START_SECONDS, check=False)


def banner(server: Server) -> str:
    wait_until(lambda: "Ctrl-C" in server.log.read_text())
    return server.log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do not stop it."""
    with running(tmp_path_factory.mktemp("server") / "state", options=("--workers", "2")) as server:
        yield server


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_banner_names_address_store_and_durability(server: Server) -> None:
    text = banner(server)
    assert f"listens on {server.url} (gunicorn, 2 workers)" in text
    assert f"Messages are kept in {server.state_dir}/zaqar.db" in text
    assert "survives: process crash and power cut" in text
    assert stat_mode(server.state_dir) == 0o700


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def open_to_others(folder: Path) -> list[str]:
    """The files and folders in the folder that other users could open."""
    return [str(each) for each in (folder, *folder.rglob("*")) if each.lstat().st_mode & 0o077]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_files_of_the_server_are_for_their_owner_only(tmp_path: Path) -> None:
    """The server's processes write into an existing folder that is open to all, with a umask of 0."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with umask(0), running(state, options=("--workers", "1")) as server:
        banner(server)
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
        wait_until(lambda: any((state / "notifiers").glob("*.sock")))
        assert {each.name for each in state.iterdir()} >= {"zaqar.db", "zaqar.db-wal", "zaqar-server.pid", "notifiers"}
        assert open_to_others(state) == []


def test_the_commands_in_the_banner_work(server: Server) -> None:
    *lines, follow = re.findall(r"^ +(curl .*)$", banner(server), flags=re.MULTILINE)
    answers = [_paste(line) for line in lines]
    posted, claimed, listed = answers
    (href,) = posted["resources"]
    assert claimed["messages"][0]["body"] == "hello"
    assert claimed["messages"][0]["href"].startswith(f"{href}?claim_id=")
    assert [message["body"] for message in listed["messages"]] == ["hello"]
    assert _first_message(follow)["body"] == "hello"


@pytest.mark.parametrize("page", ["README.rst", "docs/getting_started.rst"])
def test_the_command_for_a_stream_in_the_documentation_works(server: Server, page: str) -> None:
    text = (ROOT / page).read_text()
    (stream,) = re.findall(r"^ +(?:\$ )?(curl .*text/event-stream.*)$", text, flags=re.MULTILINE)
    url = f"{server.url}/v2/queues/{page.partition('.')[0].replace('/', '-')}"
    variables = f"H='-H Client-ID:{uuid.uuid4()} -H X-Project-ID:demo -H Content-Type:application/json'; Q={url}; "
    posted = _paste(f"""{variables} curl -s $H $Q/messages -d '{{"messages": [{{"body": {{"to": "ann"}}}}]}}'""")
    assert "resources" in posted
    assert _first_message(stream, variables)["body"] == {"to": "ann"}


def _first_message(stream: str, variables: str = "") -> Any:
    """The first message in the output of a command that does not end by itself."""
    command = f"{variables}exec {stream} --max-time {PATIENCE}"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, b"")
            while next(lines) != b"event: message\n":
                pass
            return json.loads(next(lines).removeprefix(b"data: "))
        finally:
            process.kill()


def _paste(line: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return json.loads(done.stdout)


def test_without_arguments_the_state_is_in_the_home_of_the_user(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_STATE_HOME": ""}
    config = tmp_path / "zaqar.conf"
    config.write_text(f"[drivers:transport:wsgi]\nport = {free_port()}\n")
    with subprocess.Popen(
        [*COMMAND],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "ZAQAR_CONFIG_FILE": str(config)},
    ) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(PATIENCE) == 0
    assert config.read_text().split()[-1] in first
    assert f"{tmp_path}/.local/state/zaqar/zaqar.db" in second


def test_a_port_in_use_stops_the_start(server: Server, tmp_path: Path) -> None:
    done = run_again("--bind", f"127.0.0.1:{server.port}", "--state-dir", str(tmp_path / "other"))
    assert done.returncode == 1
    assert done.stderr == f"zaqar-server: Cannot listen on 127.0.0.1:{server.port}: Address already in use.\n"
    assert server.answers()


def test_a_port_in_use_stops_the_start_with_granian(server: Server, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{server.port}"
    done = run_again("--server", "granian", "--bind", bind, "--state-dir", str(tmp_path / "other"))
    assert done.returncode == 1
    assert done.stderr == f"zaqar-server: Cannot listen on {bind}: Address already in use.\n"


def test_a_state_directory_in_use_stops_the_start(server: Server) -> None:
    done = run_again("--bind", f"127.0.0.1:{free_port()}", "--state-dir", str(server.state_dir))
    assert done.returncode == 1
    pid = server.process.pid
    expected = f"zaqar-server: Another zaqar-server (process {pid}) is using the state directory {server.state_dir}.\n"
    assert done.stderr == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[transport]\nmax_claim_ttl = soon\n", r"\[transport\] max_claim_ttl: .*'soon'"),
        ("[drivers]\nmessage_store = nosuch\n", r"\[drivers\] message_store: there is no driver 'nosuch'; installed: "),
        ("[DEFAULT]\nstate_dir = /proc/nosuch\n", r"The state directory /proc/nosuch cannot be made: "),
    ],
)
def test_a_startup_error_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "zaqar.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {tmp_path}/state\n{text}")
    done = run_again("--config-file", str(config), "--bind", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert re.fullmatch(rf"zaqar-server: {complaint}.*\n", done.stderr)
    assert done.stdout == ""


def test_a_configuration_file_reaches_the_workers(tmp_path: Path) -> None:
    config = tmp_path / "zaqar.conf"
    config.write_text("[transport]\nmax_messages_post_size = 20\n")
    options = ("--config-file", str(config), "--workers", "1")
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        status, document = ask(server, "POST", MESSAGES, POST)
    assert status == 400
    assert "20" in document["description"]


def parts_of(server: Server) -> list[int]:
    """The processes that the supervisor started."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- faults that it survives -------------------------------------------------------------------------------------------


def test_messages_survive_a_restart(tmp_path: Path) -> None:
    options = ("--workers", "1")
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        assert stored(server) == 1


def test_killed_workers_are_replaced(server: Server) -> None:
    before = set(server.workers())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(server.workers()) - before) == len(before))
    assert ask(server, "POST", MESSAGES, POST)[0] == 201


@pytest.mark.parametrize("name", ["gunicorn", "granian"])
def test_killed_parts_are_restarted(tmp_path: Path, name: str) -> None:
    with running(tmp_path / "state", options=("--server", name, "--workers", "1")) as server:
        parts = parts_of(server)
        for pid in parts:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(parts_of(server)) - set(parts)) == len(parts))
        # The port stays open meanwhile: the request waits for the new API process, and is not refused.
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
        assert "giving up" not in server.log.read_text()


def test_the_port_is_reserved_while_the_http_server_starts(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state_dir, log = tmp_path / "state", tmp_path / "log"
    command = [*COMMAND, "--server", "granian", "--bind", f"127.0.0.1:{port}", "--state-dir", str(state_dir)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    server = Server("127.0.0.1", port, state_dir, log, process)
    try:
        # The server listens before it starts any part.
        wait_until(lambda: not refuses(server))
        assert not server.masters()
        while not server.answers():
            with socket.socket() as intruder:
                intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    intruder.bind(("127.0.0.1", port))
            time.sleep(0.02)
        text = banner(server)
        # granian warns about the number of threads, which an operator cannot change.
        assert "threads" not in text and "WARNING" not in text
    finally:
        server.close()


def test_a_killed_server_leaves_no_processes(tmp_path: Path) -> None:
    with running(tmp_path / "state", options=("--workers", "1")) as server:
        pids = server.processes()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE)
        wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids))
    with running(tmp_path / "state", options=("--workers", "1"), command=HTTP_COMMAND) as server:
        assert server.answers()


@pytest.mark.parametrize("name", ["gunicorn", "granian"])
def test_a_reload_interrupts_no_request(tmp_path: Path, name: str) -> None:
    config = tmp_path / "zaqar.conf"
    config.write_text("")
    options = ("--server", name, "--config-file", str(config), "--workers", "2")
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
        config.write_text("[transport]\nmax_messages_post_size = 20\n")
        server.process.send_signal(signal.SIGHUP)
        statuses = []

        def is_refused() -> bool:
            statuses.append(ask(server, "POST", MESSAGES, POST)[0])
            return statuses[-20:] == [400] * 20

        wait_until(is_refused)
        assert set(statuses) <= {201, 400}
        assert server.process.poll() is None


@pytest.mark.parametrize(("name", "broken"), [("gunicorn", '"queues:create": "role:'), ("granian", None)])
def test_a_reload_with_a_broken_policy_keeps_the_rules(tmp_path: Path, name: str, broken: str | None) -> None:
    """The policy file is half written or missing: the rules that were read stay in use, even after SIGHUP.

    A worker that is started then has the same rules, although it cannot read them from the file.
    """
    config, policy = tmp_path / "zaqar.conf", tmp_path / "policy.yaml"
    config.write_text("")
    policy.write_text('"messages:create": "role:member"\n')
    options = ("--server", name, "--config-file", str(config), "--workers", "2")
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        workers = set(server.workers())
        if broken is None:
            policy.unlink()
        else:
            policy.write_text(broken)
        assert ask(server, "POST", MESSAGES, POST)[0] == 403
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP changes nothing" in server.log.read_text())
        assert ask(server, "POST", MESSAGES, POST)[0] == 403
        assert set(server.workers()) == workers
        said = server.log.read_text()
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if "policy" in line]
        assert line.startswith("zaqar-server: SIGHUP changes nothing, the configuration and policy in use stay: ")
        if name == "granian":
            # granian takes it for a crash loop if a worker lives for less than 3.5 s.
            time.sleep(3.6)
        kill(workers := server.workers())
        wait_until(lambda: set(server.workers()).isdisjoint(workers) and len(server.workers()) == len(workers))
        wait_until(server.answers)
        assert [ask(server, "POST", MESSAGES, POST)[0] for _ in range(20)] == [403] * 20
        policy.write_text('"messages:create": ""\n"queue:create": "role:member"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(server, "POST", MESSAGES, POST)[0] == 201)
        assert server.log.read_text().count("there is no rule 'queue:create', so it decides nothing.") == 1


# -- slow clients ------------------------------------------------------------------------------------------------------

DRIBBLERS = 8
DRIBBLE_SECONDS = 6


@pytest.mark.parametrize("name", ["gunicorn", "granian"])
def test_slow_clients_do_not_block_others(tmp_path: Path, name: str) -> None:
    whole = raw_http.request("POST", MESSAGES, project="slow", body=POST)
    head, body = whole[: -len(POST)], whole[-len(POST) :]
    with ExitStack() as stack:
        options = ("--server", name, "--workers", "1")
        server = stack.enter_context(running(tmp_path / "state", options=options, command=HTTP_COMMAND))
        in_headers = [stack.enter_context(raw_http.connect(server)) for _ in range(DRIBBLERS)]
        in_body = [stack.enter_context(raw_http.connect(server)) for _ in range(DRIBBLERS)]
        for sock in in_body:
            sock.sendall(head)
        end = threading.Event()
        dribbling = threading.Thread(target=_dribble, args=(end, {head: in_headers, body: in_body}))
        dribbling.start()
        served = []
        deadline = time.monotonic() + DRIBBLE_SECONDS
        while time.monotonic() < deadline or len(served) <= DRIBBLE_SECONDS:
            # A request that waits for a slow client needs half a minute, so it does not end within this time.
            served.append(_is_served_within(server, seconds=20))
        end.set()
        dribbling.join()
        assert all(served)


def _dribble(end: threading.Event, clients: dict[bytes, list[socket.socket]]) -> None:
    for position in range(min(len(data) for data in clients)):
        for data, sockets in clients.items():
            for sock in sockets:
                sock.sendall(data[position : position + 1])
        if end.wait(1):
            return


def _is_served_within(server: Server, *, seconds: float) -> bool:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=seconds)
    try:
        connection.request("POST", MESSAGES, POST, HEADERS)
        return connection.getresponse().status == 201
    finally:
        connection.close()


# -- the end -----------------------------------------------------------------------------------------------------------


def refuses(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) != 0


@pytest.mark.parametrize(
    ("name", "number"), [("gunicorn", signal.SIGTERM), ("gunicorn", signal.SIGINT), ("granian", signal.SIGTERM)]
)
def test_a_running_request_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: signal.Signals
) -> None:
    with ExitStack() as stack:
        options = ("--server", name, "--workers", "1")
        server = stack.enter_context(running(tmp_path / "state", options=options, command=HTTP_COMMAND))
        running_one, idle = (stack.enter_context(raw_http.connect(server)) for _ in range(2))
        idle.sendall(raw_http.request("GET", "/v2/queues"))
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        request = raw_http.request("POST", MESSAGES, project="p", body=POST)
        running_one.sendall(request[:-5])
        # So that a worker has taken the previous request, on a busy machine as well.
        for _ in range(5):
            wait_until(server.answers)
            time.sleep(0.2)
        server.process.send_signal(number)
        wait_until(lambda: refuses(server))
        running_one.sendall(request[-5:])
        assert raw_http.listen(running_one).statuses == [201]
        assert server.process.wait(PATIENCE) == 0
    assert stored_in(tmp_path / "state", monkeypatch) == 1


def stored_in(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of messages that another process finds in the database after the server has ended."""
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(state_dir))
    with closing(app.build(conf.load([]))) as parts:
        answer = testing.TestClient(make_app(parts)).simulate_get("/v2/queues/q/stats", headers=HEADERS)
    return int(answer.json["messages"]["total"])


@pytest.mark.parametrize("name", ["gunicorn", "granian"])
@pytest.mark.parametrize("moment", ["nothing", "masters", "workers"])
def test_sigterm_while_a_part_starts_ends_it_at_once(tmp_path: Path, name: str, moment: str) -> None:
    # The server would wait 8 s, the time of running requests, for a worker that missed the signal. The test tries again
    # if the machine may have stood still.
    assert any(_seconds_to_end(tmp_path / f"state{attempt}", name, moment) < 6 for attempt in range(3))


def _seconds_to_end(state_dir: Path, name: str, moment: str) -> float:
    """How long the end takes if SIGTERM comes at this moment of the start."""
    log = state_dir.with_suffix(".log")
    command = [*COMMAND, "--server", name, "--workers", "2", "--bind", f"127.0.0.1:{free_port()}"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--state-dir", str(state_dir)], stdout=output, stderr=output)
    server = Server("127.0.0.1", 0, state_dir, log, process)
    seen = {"nothing": lambda: parts_of(server), "masters": server.masters, "workers": lambda: server.workers()[1:]}
    wait_until(seen[moment])
    pids = server.processes()
    began = time.monotonic()
    # The exit status is the signal if zaqar-server had not begun to supervise its parts yet.
    assert server.terminate() in (0, -signal.SIGTERM)
    took = time.monotonic() - began
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids))
    return took


def test_idle_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(tmp_path / "state", options=("--workers", "2"), command=HTTP_COMMAND))
        for _ in range(20):
            sock = stack.enter_context(raw_http.connect(server))
            sock.sendall(raw_http.request("GET", "/v2/queues"))
            assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
        pids = server.processes()
        assert server.terminate() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "killed" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
