# SPDX-License-Identifier: Apache-2.0
"""The application under other servers and at other paths: gunicorn, granian and uWSGI as an operator starts them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zaqarclient.queues import client as zaqarclient

from tests.acceptance import raw_http
from tests.acceptance.server import HTTP_COMMAND, START_SECONDS, Server, free_port, wait_until
from tests.acceptance.test_server import HEADERS, MESSAGES, POST, ROOT, ask, open_to_others, stored, umask

BIN = Path(sys.executable).parent


def assert_one_answer_to_each_project(server: Server) -> None:
    """Under each server a project id must be printable ASCII without a comma; otherwise a 400 says so."""
    for project in (b"a b", b"a/b", b"~"):
        assert ask_as(server, project) == (200, ["q"]), project
    for project in (b"caf\xc3\xa9", b"caf\xe9", b"\xff", b"\xe2\x82\xac", b"a,b", b"a\tb", b"x" * 257, b""):
        status, description = ask_as(server, project)
        assert (status, "X-Project-ID" in description, "ASCII" in description) == (400, True, True), (
            project,
            description,
        )


def ask_as(server: Server, project: bytes) -> tuple[int, Any]:
    """PUT a queue as a project with these bytes as its id, and list its queues. Returns status and names or error."""
    answers = []
    for method, path in (("PUT", "/v2/queues/q"), ("GET", "/v2/queues")):
        with raw_http.connect(server) as sock:
            head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nClient-ID: {HEADERS['Client-ID']}\r\n"
            head += "Content-Length: 0\r\nConnection: close\r\n"
            sock.sendall(head.encode() + b"X-Project-ID: " + project + b"\r\n\r\n")
            response = http.client.HTTPResponse(sock)
            response.begin()
            answers.append((response.status, json.loads(response.read() or b"null")))
    status, document = answers[-1]
    assert (answers[0][0] in (201, 204)) == (status == 200)
    return status, [queue["name"] for queue in document["queues"]] if status == 200 else document["description"]


def _gunicorn(port: int, _: Path) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "zaqar.wsgi:application"]


def _gunicorn_sample(port: int, _: Path) -> list[str]:
    sample = str(ROOT / "etc" / "gunicorn.conf.py")
    bind = f"127.0.0.1:{port}"
    return [sys.executable, "-m", "gunicorn", "--config", sample, "--bind", bind, "zaqar.wsgi:application"]


def _granian(port: int, _: Path) -> list[str]:
    return [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "zaqar.wsgi:application"]


def _uwsgi_sample(port: int, folder: Path) -> list[str]:
    sample = (ROOT / "etc" / "uwsgi.ini").read_text()
    sample = sample.replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace("/etc/zaqar/", f"{folder}/")
    (folder / "uwsgi.ini").write_text(sample)
    return [str(BIN / "uwsgi"), "--ini", str(folder / "uwsgi.ini")]


MOUNT = "/messaging"


def _granian_mounted(port: int, folder: Path) -> list[str]:
    return [*_granian(port, folder), "--url-path-prefix", MOUNT]


def _uwsgi_mounted(port: int, folder: Path) -> list[str]:
    command = _uwsgi_sample(port, folder)
    file = folder / "uwsgi.ini"
    mount = f"mount = {MOUNT}=zaqar.wsgi:application\nmanage-script-name = true"
    file.write_text(file.read_text().replace("module = zaqar.wsgi:application", mount))
    return command


def _zaqar_server(port: int, folder: Path) -> list[str]:
    command = [*HTTP_COMMAND, "--workers", "1", "--bind", f"127.0.0.1:{port}"]
    return [*command, "--state-dir", str(folder / "state")]


@pytest.mark.parametrize("command", [_zaqar_server, _gunicorn, _granian_mounted, _uwsgi_mounted])
def test_the_application_works_below_a_mount_path(tmp_path: Path, command: Any) -> None:
    """Every link leads to the named resource, also if python-zaqarclient follows it."""
    port, log = free_port(), tmp_path / "log"
    (tmp_path / "zaqar.conf").write_text("")
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path / "state")}
    if command in (_zaqar_server, _gunicorn):
        environment["SCRIPT_NAME"] = MOUNT
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port, tmp_path), stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path
        )
    server = Server("127.0.0.1", port, tmp_path / "state", log, process, MOUNT)
    try:
        server.wait_until_ready()
        assert ask(server, "GET", MOUNT)[1]["versions"][0]["links"] == [{"href": f"{MOUNT}/v2/", "rel": "self"}]
        assert ask(server, "GET", f"{MOUNT}/v2/")[1]["resources"]["rel/ping"]["href"] == f"{MOUNT}/v2/ping"
        status, posted = ask(server, "POST", MOUNT + MESSAGES, POST)
        assert status == 201
        assert ask(server, "GET", posted["resources"][0])[1]["href"] == posted["resources"][0]
        _follow_as_a_client(server)
        for outside in ("/", "/v2/", MESSAGES, f"{MOUNT}x/v2/ping", f"{MOUNT}v2/ping", f"{MOUNT}{MOUNT}/v2/ping"):
            # Other servers serve such paths too, or answer with a 500.
            if command is _zaqar_server:
                assert ask(server, "GET", outside)[0] == 404, outside
        if command is _uwsgi_mounted:
            # uWSGI does not end on a SIGTERM that comes while one of its processes still loads.
            wait_until(lambda: log.read_text().count("WSGI app 0") == 2)
    finally:
        server.close()


def _follow_as_a_client(server: Server) -> None:
    """Follow ``next``. python-zaqarclient appends it to the URL that it was given, which contains the mount path."""
    auth = {"backend": "noauth", "options": {"os_project_id": "pages"}}
    client = zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth})
    names = [f"q{number:02}" for number in range(5)]
    for name in names:
        client.queue(name, force_create=True).post([{"body": name, "ttl": 300}] * 5)
    assert [queue.name for queue in client.queues(limit=2)[0].stream()] == names
    queue = client.queue("q00", auto_create=False)
    assert [message.body for message in queue.messages(limit=2, echo=True).stream()] == ["q00"] * 5


@pytest.mark.parametrize("command", [_gunicorn, _gunicorn_sample, _granian, _uwsgi_sample])
def test_other_servers_serve_the_application(tmp_path: Path, command: Any) -> None:
    port = free_port()
    (tmp_path / "zaqar.conf").write_text("")
    log = tmp_path / "log"
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path / "state")}
    arguments = command(port, tmp_path)
    with log.open("wb") as output, umask(0):
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path)
    server = Server("127.0.0.1", port, tmp_path / "state", log, process)
    try:
        server.wait_until_ready()
        assert ask(server, "GET", "/v2/ping") == (204, None)
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
        assert stored(server) == 1
        assert open_to_others(server.state_dir) == []
        assert_one_answer_to_each_project(server)
        if command is _uwsgi_sample:
            # uWSGI does not end on a SIGTERM that comes while one of its processes still loads.
            wait_until(lambda: log.read_text().count("WSGI app 0") == 2)
    finally:
        server.close()


@pytest.mark.parametrize("command", [_gunicorn_sample, _granian, _uwsgi_sample])
def test_a_new_policy_reaches_all_workers_of_other_servers(tmp_path: Path, command: Any) -> None:
    """SIGHUP after ``zaqar.cmd.server.preflight``: no request is lost, and a later change of the file has no effect."""
    port, log, policy = free_port(), tmp_path / "log", tmp_path / "policy.yaml"
    (tmp_path / "zaqar.conf").write_text("")
    policy.write_text('"messages:create": "role:member"\n')
    environment = {
        **os.environ,
        "ZAQAR_STATE_DIR": str(tmp_path / "state"),
        "ZAQAR_CONFIG_FILE": str(tmp_path / "zaqar.conf"),
        "ZAQAR_POLICY_SNAPSHOT": str(tmp_path / "policy.json"),
    }

    def check() -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "zaqar.cmd.server.preflight"]
        return subprocess.run(
            arguments, env=environment, cwd=tmp_path, timeout=START_SECONDS, check=False, capture_output=True, text=True
        )

    assert check().returncode == 0
    arguments = [*command(port, tmp_path), *(["--workers", "2"] if command is _granian else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path)
    server = Server("127.0.0.1", port, tmp_path / "state", log, process)
    try:
        server.wait_until_ready()
        if command is _uwsgi_sample:
            # uWSGI mixes up signals that come while one of its processes still loads.
            wait_until(lambda: log.read_text().count("WSGI app 0") == 2)
        assert ask(server, "POST", MESSAGES, POST)[0] == 403
        policy.write_text('"messages:create": ""\n')
        assert check().returncode == 0
        policy.write_text('"messages:create": "role:')
        process.send_signal(signal.SIGHUP)
        statuses = []

        def is_open() -> bool:
            statuses.append(ask(server, "POST", MESSAGES, POST)[0])
            return statuses[-20:] == [201] * 20

        wait_until(is_open)
        assert set(statuses) == {403, 201}
        if command is _uwsgi_sample:
            wait_until(lambda: "chain reloading complete" in log.read_text())
        done = check()
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("[oslo_policy] policy_file: while scanning")
    finally:
        server.close()


@pytest.mark.parametrize("command", [_gunicorn, _granian, _uwsgi_sample])
def test_a_configuration_that_cannot_be_served_ends_other_servers_with_one_sentence(
    tmp_path: Path, command: Any
) -> None:
    (tmp_path / "zaqar.conf").write_text("[transport]\nmax_message_ttl = soon\n")
    environment = {**os.environ, "ZAQAR_CONFIG_FILE": str(tmp_path / "zaqar.conf")}
    done = subprocess.run(
        command(free_port(), tmp_path),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode not in (0, None)
    assert "zaqar.wsgi: [transport] max_message_ttl: " in done.stdout + done.stderr
    # uWSGI interrupts the other worker. If that one is importing, it prints a traceback of KeyboardInterrupt.
    assert "StartupError" not in done.stdout + done.stderr
