# SPDX-License-Identifier: Apache-2.0
"""The service with a real Keystone, under each HTTP server: who is admitted, and requests while Keystone is away."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from keystoneauth1 import session as keystoneauth_session
from keystoneauth1.identity import v3
from zaqarclient.queues import client as zaqarclient

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, Server, free_port, wait_until
from tests.keystone import PASSWORD, Keystone

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CLIENT_ID = "3381af92-2b9e-11e3-b191-71861300734c"
MESSAGES = "/v2/queues/greetings/messages"
POST = {"messages": [{"body": "hello", "ttl": 300}]}


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    """A Keystone for this module, which sets the URL of the service and kills it."""
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


def _zaqar_server(port: int, folder: Path) -> list[str]:
    bind, state = f"127.0.0.1:{port}", str(folder / "state")
    return [*HTTP_COMMAND, "--workers", "1", "--bind", bind, "--state-dir", state]


def _granian(port: int, folder: Path) -> list[str]:
    return [*_zaqar_server(port, folder), "--server", "granian"]


def _uwsgi(port: int, folder: Path) -> list[str]:
    sample = (ROOT / "etc" / "uwsgi.ini").read_text().replace("processes = 2", "processes = 1")
    sample = sample.replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace("/etc/zaqar/", f"{folder}/")
    (folder / "uwsgi.ini").write_text(sample)
    return [str(BIN / "uwsgi"), "--ini", str(folder / "uwsgi.ini")]


COMMANDS = {"gunicorn": _zaqar_server, "granian": _granian, "uwsgi": _uwsgi}


@contextmanager
def serving(name: str, keystone: Keystone, folder: Path, lines: str = "") -> Iterator[Server]:
    """One worker of the service, listed as ``messaging`` in the catalogue of Keystone."""
    port, log = free_port(), folder / "log"
    text = f"{keystone.options(f'127.0.0.1:{port}')}[DEFAULT]\nadmin_mode = True\n[keystone_authtoken]\n{lines}\n"
    (folder / "zaqar.conf").write_text(text)
    environment = {
        **os.environ,
        "ZAQAR_CONFIG_FILE": str(folder / "zaqar.conf"),
        "ZAQAR_STATE_DIR": str(folder / "state"),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMANDS[name](port, folder), stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    server = Server("127.0.0.1", port, folder / "state", log, process)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module", params=COMMANDS)
def server(
    request: pytest.FixtureRequest, keystone: Keystone, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service under one of the servers, for the tests of this file that need no other options."""
    lines = "http_connect_timeout = 1"
    with serving(request.param, keystone, tmp_path_factory.mktemp(request.param), lines) as server:
        yield server


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float


def ask(server: Server, token: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Send a request over a new connection. ``X_Roles="admin"`` is sent as the header X-Roles."""
    sent = {"Client-ID": CLIENT_ID, **({"X-Auth-Token": token} if token else {}), **headers}
    began = time.monotonic()
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = connection.getresponse()
        text = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, json.loads(text or b"null"), time.monotonic() - began)


def test_each_server_admits_callers_by_their_token(keystone: Keystone, server: Server) -> None:
    member, stranger, admin = keystone.token(), keystone.token("stranger", "other"), keystone.token("admin", "demo")
    keystone.set_endpoint(server.url)
    assert ask(server, "", "GET", "/").status == 300
    for token in ("", "bad"):
        answer = ask(server, token, "POST", MESSAGES, POST, **{"X-Project-ID": "demo", "X-Roles": "admin"})
        assert (answer.status, answer.body["error"]["code"]) == (401, 401)
        assert answer.headers["www-authenticate"] == f'Keystone uri="{keystone.uri}"'
    assert ask(server, member, "POST", MESSAGES, POST).status == 201
    listed = ask(server, member, "GET", f"{MESSAGES}?echo=true", **{"X-Project-ID": "elsewhere"}).body["messages"]
    assert [message["body"] for message in listed] == ["hello"]
    project = keystone.id_of("project", "demo")
    # Servers make one name of these headers, or drop the second one.
    for lie in ({"X-Project-ID": project, "X-Roles": "admin"}, {"X_Project_ID": project, "X_Roles": "admin"}):
        assert ask(server, stranger, "GET", f"{MESSAGES}?echo=true", **lie).body.get("messages", []) == []
        assert ask(server, member, "GET", "/v2/health", **lie).status in (400, 403)
    # Keystone may have been away in an earlier test, and on a busy machine it may answer too late.
    well = {"reachable": True, "service_user_accepted": True}
    wait_until(lambda: ask(server, admin, "GET", "/v2/health").body["keystone"] == well)
    _use_as_published_clients(keystone, server)
    log = server.log.read_text()
    for secret in (member, stranger, admin, PASSWORD):
        assert secret not in log


def _use_as_published_clients(keystone: Keystone, server: Server) -> None:
    """keystoneauth finds the service in the catalogue; python-zaqarclient gets a token by itself."""
    account = {"username": "member", "password": PASSWORD, "project_name": "demo"}
    domains = {"user_domain_id": "default", "project_domain_id": "default"}
    session = keystoneauth_session.Session(v3.Password(auth_url=keystone.uri, **account, **domains))
    found = session.get(
        "/v2/queues", endpoint_filter={"service_type": "messaging"}, headers={"Client-ID": CLIENT_ID}
    ).json()
    assert [queue["name"] for queue in found["queues"]] == ["greetings"]
    options = {f"os_{name}": value for name, value in {**account, **domains, "auth_url": keystone.uri}.items()}
    auth = {"backend": "keystone", "options": {**options, "os_auth_token": session.get_token()}}
    client = zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth})
    assert [message.body for message in client.queue("greetings").messages(echo=True)] == ["hello"]


@pytest.mark.parametrize("name", ["gunicorn", "uwsgi"])
def test_a_service_with_a_wrong_password_logs_it_at_once(keystone: Keystone, tmp_path: Path, name: str) -> None:
    with serving(name, keystone, tmp_path, "password = wrong-one") as server:
        wait_until(lambda: "does not accept the service user of [keystone_authtoken]" in server.log.read_text())
        answer = ask(server, keystone.token(), "GET", "/v2/queues")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "wrong-one" not in server.log.read_text()


# -- Keystone is away --------------------------------------------------------------------------------------------------

KNOWN, UNKNOWN = "known", "unknown"
BETWEEN = "between"
SILENT_SECONDS = 3.5
"""Longer than the time-out of a question to Keystone."""

MOST_SECONDS, MOST_TIMES = 1.0, 4.0
"""The time limit of a request while Keystone is away: seconds on a quiet machine, or so many times the time before."""


class Load:
    """Callers with a token that the service has seen, beside callers with new tokens, until it is closed."""

    def __init__(self, server: Server, token: str, *, known: int, unknown: int) -> None:
        self._server = server
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self.phase = BETWEEN
        self.seen: list[tuple[str, str, str, Answer]] = []
        """Caller kind, phase in which the request began, phase that contains all of it or "", and the answer."""
        self.errors: list[BaseException] = []
        kinds = [KNOWN] * known + [UNKNOWN] * unknown
        self._threads = [threading.Thread(target=self._run, args=(kind, token)) for kind in kinds]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, kind: str, token: str) -> None:
        try:
            while not self._is_over.is_set():
                sent = token if kind == KNOWN else f"nobody-knows-{next(self._numbers)}"
                phase = self.phase
                answer = ask(self._server, sent, "GET", "/v2/queues")
                self.seen.append((kind, phase, phase if phase == self.phase else BETWEEN, answer))
                # Leave the processors to Keystone for a moment.
                time.sleep(0.005 if kind == KNOWN else 0.02)
        except BaseException as exc:
            self.errors.append(exc)
            raise

    def during(self, phase: str, seconds: float, *, until: int) -> None:
        """Go on for so many seconds, and until a caller with an unknown token got this status."""
        self.phase = phase
        time.sleep(seconds)
        wait_until(lambda: any(answer.status == until for answer in self.answers(UNKNOWN, phase)))
        self.phase = BETWEEN

    def median(self, kind: str, phase: str) -> float:
        """The median seconds of requests that began in this phase."""
        return statistics.median(
            answer.seconds for each, began, _, answer in self.seen if (each, began) == (kind, phase)
        )

    def answers(self, kind: str, phase: str) -> list[Answer]:
        """The answers to requests that began and ended in this phase."""
        return [answer for each, _, when, answer in list(self.seen) if (each, when) == (kind, phase)]


@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"], indirect=True)
def test_keystone_is_killed_paused_and_started_under_load(keystone: Keystone, server: Server) -> None:
    """uWSGI has 16 threads, fewer than the callers that wait for a silent Keystone."""
    token = keystone.token()
    # A token that was refused while Keystone was away is as unknown as before.
    returned, awake = keystone.token("reader"), keystone.token("reader")
    # From here on the service has seen this token.
    assert ask(server, token, "GET", "/v2/queues").status == 200
    with Load(server, token, known=3, unknown=24) as load:
        load.during("healthy", 1.0, until=401)
        keystone.kill()
        load.during("dead", 1.0, until=503)
        keystone.start()
        wait_until(lambda: ask(server, returned, "GET", "/v2/queues").status == 200, seconds=60, every=0.25)
        load.during("back", 0.5, until=401)
        keystone.signal(signal.SIGSTOP)
        try:
            load.during("silent", SILENT_SECONDS, until=503)
        finally:
            keystone.signal(signal.SIGCONT)
        wait_until(lambda: ask(server, awake, "GET", "/v2/queues").status == 200, seconds=60, every=0.25)
        load.during("well", 0.5, until=401)
    report = {
        (phase, kind): Counter(answer.status for answer in load.answers(kind, phase))
        for phase in ("healthy", "dead", "back", "silent", "well", BETWEEN)
        for kind in (KNOWN, UNKNOWN)
    }
    print(report, load.errors, file=sys.stderr)
    assert load.errors == []
    for (_, kind), statuses in report.items():
        assert set(statuses) <= ({200} if kind == KNOWN else {401, 503}), report
    for phase in ("dead", "silent"):
        for answer in load.answers(UNKNOWN, phase):
            if answer.status == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert set(answer.body) == {"title", "description"}
        # Callers with a known token do not wait for callers with unknown tokens.
        assert load.median(KNOWN, phase) < max(MOST_SECONDS, MOST_TIMES * load.median(KNOWN, "healthy")), report
