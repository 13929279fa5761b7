# SPDX-License-Identifier: Apache-2.0
"""Pre-signed URLs in use: by python-zaqarclient, under each server, and while keys are rotated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport import errors

from tests.acceptance import raw_http
from tests.acceptance.server import HTTP_COMMAND, Server, free_port, running, wait_until

ROOT = Path(__file__).parents[2]
OLD, NEW = "o" * 32, "n" * 32
MESSAGES = "/v2/queues/q/messages"
POST = b'{"messages": [{"body": "x", "ttl": 300}]}'


def write_keys(folder: Path, secret_key: str, *previous: str) -> Path:
    file = folder / "zaqar.conf"
    file.write_text(f"[signed_url]\nsecret_key = {secret_key}\nprevious_secret_keys = {','.join(previous)}\n")
    return file


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    config = write_keys(folder, OLD)
    with running(folder / "state", options=("--config-file", str(config), *options), command=HTTP_COMMAND) as server:
        yield server


def share(server: Server, project: str, **wanted: Any) -> dict[str, Any]:
    reply = raw_http.ask(server, "POST", "/v2/queues/q/share", project=project, document=wanted)
    assert reply.status == 200, reply.body
    shared: dict[str, Any] = reply.json
    return shared


def headers_of(shared: dict[str, Any]) -> list[bytes]:
    """The headers of a signed request, without the project."""
    values = {
        "URL-Signature": shared["signature"],
        "URL-Paths": ",".join(shared["paths"]),
        "URL-Methods": ",".join(shared["methods"]),
        "URL-Expires": shared["expires"],
    }
    return [f"{name}: {value}".encode() for name, value in values.items()]


# -- under each server -----------------------------------------------------------------------------------------------


def _gunicorn(port: int, _: Path) -> list[str]:
    return [*HTTP_COMMAND[1:], "--bind", f"127.0.0.1:{port}", "--workers", "1"]


def _granian(port: int, _: Path) -> list[str]:
    return [*HTTP_COMMAND[1:], "--server", "granian", "--bind", f"127.0.0.1:{port}", "--workers", "1"]


def _uwsgi(port: int, folder: Path) -> list[str]:
    sample = (ROOT / "etc" / "uwsgi.ini").read_text()
    sample = sample.replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace("/etc/zaqar/", f"{folder}/")
    (folder / "uwsgi.ini").write_text(sample)
    return [str(Path(sys.executable).parent / "uwsgi"), "--ini", str(folder / "uwsgi.ini")]


TELLS_THE_TARGET = {"gunicorn": True, "granian": False, "uwsgi": True}


SERVERS = {"gunicorn": _gunicorn, "granian": _granian, "uwsgi": _uwsgi}


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    name, folder = request.param, tmp_path_factory.mktemp("served")
    port, log = free_port(), folder / "log"
    arguments = SERVERS[name](port, folder)
    command = arguments if name == "uwsgi" else [sys.executable, *arguments]
    environment = {
        **os.environ,
        "ZAQAR_STATE_DIR": str(folder / "state"),
        "ZAQAR_CONFIG_FILE": str(write_keys(folder, OLD)),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    server = Server("127.0.0.1", port, folder / "state", log, process)
    try:
        server.wait_until_ready()
        if name == "uwsgi":
            # uWSGI does not end on a SIGTERM that comes while one of its processes still loads.
            wait_until(lambda: log.read_text().count("WSGI app 0") >= 2)
        yield name, server
    finally:
        server.close()


def test_python_zaqarclient_works_with_a_signature(served: tuple[str, Server]) -> None:
    project, (_, server) = uuid.uuid4().hex, served
    auth: dict[str, Any] = {"backend": "noauth", "options": {"os_project_id": project}}
    owner = zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth})
    signed = owner.queue("q").signed_url(
        paths=["messages", "claims"], ttl_seconds=3600, methods=["GET", "POST", "DELETE", "PATCH"]
    )
    options = {name: signed[name] for name in ("paths", "expires", "methods", "signature")}
    auth = {"backend": "signed-url", "options": {**options, "os_project_id": signed["project"]}}
    guest = zaqarclient.Client(server.url, version=2, conf={"auth_opts": auth})
    queue = guest.queue("q")
    queue.post([{"body": number, "ttl": 300} for number in range(3)])
    assert [message.body for message in queue.messages(echo=True)] == [0, 1, 2]
    claim = queue.claim(ttl=60, grace=60, limit=2)
    taken = list(claim)
    assert [message.body for message in taken] == [0, 1]
    claim.update(ttl=90, grace=60)
    taken[0].delete()
    claim.delete()
    assert [message.body for message in queue.pop(count=1)] == [1]
    assert [message.body for message in owner.queue("q").messages(echo=True)] == [2]
    refused: list[Callable[[], Any]] = [
        queue.delete,
        queue.metadata,
        queue.purge,
        lambda: list(guest.queue("other").messages()),
        lambda: list(guest.queues()[0]),
        queue.signed_url,
    ]
    for call in refused:
        with pytest.raises(errors.ResourceNotFound):
            call()


def test_the_guest_in_the_documentation_works(served: tuple[str, Server]) -> None:
    page = (ROOT / "docs" / "signed_urls.rst").read_text()
    code = page[page.index("   from zaqarclient") :].partition("\n\n``openstack")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    auth = {"backend": "noauth", "options": {"os_project_id": uuid.uuid4().hex}}
    owner = zaqarclient.Client(served[1].url, version=2, conf={"auth_opts": auth})
    guest = names["guest_of"](owner, served[1].url)
    guest.queue("mail").post([{"body": "ann", "ttl": 300}])
    assert [message.body for message in owner.queue("mail").messages(echo=True)] == ["ann"]
    with pytest.raises(errors.ResourceNotFound):
        list(guest.queue("mail").messages())


def asked(server: Server, target: str, *headers: bytes, project: str) -> raw_http.Reply:
    request = raw_http.request("GET", target, b"Connection: close", *headers, project=project)
    (reply,) = raw_http.talk(server, request).replies
    return reply


def test_signatures_are_checked_alike_under_every_server(served: tuple[str, Server]) -> None:
    name, server = served
    project = uuid.uuid4().hex
    good = headers_of(share(server, project, methods=["GET", "POST"]))
    assert asked(server, MESSAGES, *good, project=project).status == 200
    assert asked(server, f"{MESSAGES}?echo=true", *good, project=project).status == 200
    refusals = [asked(server, MESSAGES, *good, project="other")]
    for header in (*good, f"X-Project-ID: {project}".encode()):
        # The header comes twice: a server joins both values, so the list differs from the one that was signed.
        refusals.append(asked(server, MESSAGES, header, *good, project=project))
        if header in good:
            missing = [each for each in good if each != header]
            empty = header.partition(b":")[0] + b":"
            if not header.startswith(b"URL-Signature"):
                refusals.append(asked(server, MESSAGES, *missing, project=project))
            refusals.append(asked(server, MESSAGES, *missing, empty, project=project))
    targets = [
        "/v2/queues/q2/messages",
        f"{MESSAGES}/",
        f"{MESSAGES};x",
        f"/{MESSAGES}",
        "/v2/queues//q/messages",
        f"{MESSAGES}/a%2Fb",
        f"{MESSAGES}/%2e%2e",
        f"{MESSAGES}/../../../queues",
        "/v2/queues/other%2F..%2Fq/messages",
    ]
    if TELLS_THE_TARGET[name]:
        targets += ["/v2/queues/%71/messages", "/v2/queues/q%2Fmessages"]
    else:
        # This server passes on only the decoded path, and the decoded path was signed.
        assert asked(server, "/v2/queues/%71/messages", *good, project=project).status == 200
    refusals += [asked(server, target, *good, project=project) for target in targets]
    assert {reply.status for reply in refusals} == {404}
    assert {reply.body for reply in refusals} == {refusals[0].body}
    assert good[0].partition(b": ")[2].decode() not in server.log.read_text()


# -- rotation --------------------------------------------------------------------------------------------------------


class Posters:
    """Threads that post with one signature inside the context, and count the answers."""

    def __init__(self, server: Server, project: str, headers: list[bytes], threads: int = 1) -> None:
        self.statuses: Counter[int | str] = Counter()
        self._request = raw_http.request("POST", MESSAGES, b"Connection: close", *headers, project=project, body=POST)
        self._server = server
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                (reply,) = raw_http.talk(self._server, self._request).replies
                self.statuses[reply.status] += 1
            except (OSError, AssertionError, ValueError) as exc:
                self.statuses[repr(exc)] += 1
            # The workers that are started meanwhile need the processors too.
            self._end.wait(0.01)

    def __enter__(self) -> Posters:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_keys_of_signatures_are_rotated_under_load(tmp_path: Path) -> None:
    project = uuid.uuid4().hex
    with serving(tmp_path, "--workers", "1") as server:
        old = headers_of(share(server, project, methods=["POST"], expires="2100-01-01"))

        def reload_until(is_over: Callable[[], bool]) -> None:
            """Send SIGHUP, and wait until 20 answers in a row, from any worker, show that the reload is over."""
            server.process.send_signal(signal.SIGHUP)
            in_a_row: list[bool] = []

            def is_seen() -> bool:
                in_a_row.append(is_over())
                return all(in_a_row[-20:]) and len(in_a_row) >= 20

            wait_until(is_seen, seconds=60)

        def signs_anew() -> bool:
            return headers_of(share(server, project, methods=["POST"], expires="2100-01-01")) != old

        with Posters(server, project, old) as posters:
            wait_until(lambda: posters.statuses[201] > 20, seconds=60)
            write_keys(tmp_path, NEW, OLD)
            reload_until(signs_anew)
            before = posters.statuses[201]
            wait_until(lambda: posters.statuses[201] > before + 20, seconds=60)
        assert set(posters.statuses) == {201}, posters.statuses
        new = headers_of(share(server, project, methods=["POST"], expires="2100-01-01"))
        assert new[0] != old[0]

        by_hand = Counter[int]()

        def is_refused() -> bool:
            request = raw_http.request("POST", MESSAGES, b"Connection: close", *old, project=project, body=POST)
            (status,) = raw_http.talk(server, request).statuses
            by_hand[status] += 1
            return status == 404

        with Posters(server, project, new) as newer, Posters(server, project, old) as older:
            write_keys(tmp_path, NEW)
            reload_until(is_refused)
            refused = older.statuses[404]
            wait_until(lambda: older.statuses[404] > refused + 20, seconds=60)
        assert set(newer.statuses) == {201}, newer.statuses
        assert set(older.statuses) == {201, 404}, older.statuses
        accepted = sum(counts[201] for counts in (posters.statuses, newer.statuses, older.statuses, by_hand))
        stats = raw_http.ask(server, "GET", "/v2/queues/q/stats", project=project).json
        assert stats["messages"]["total"] == accepted
        text = server.log.read_text()
        assert "no key has made the signature" in text
        for secret in (OLD, NEW, old[0].partition(b": ")[2].decode()):
            assert secret not in text
        # A few hundred refusals make at most a line a minute in each process.
        assert text.count("requests with a signature") <= 2 * len(server.workers())
