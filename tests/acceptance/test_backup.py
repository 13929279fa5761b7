# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of SQLite and PostgreSQL with the commands of ``docs/backup.rst``, while a client posts."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.backends import POSTGRESQL, started
from tests.acceptance.programs import find
from tests.acceptance.server import HTTP_COMMAND, Server, start, wait_until
from tests.acceptance.service_on_store import all_bodies
from tests.acceptance.working_clients import Client, Recorder
from tests.event_streams import ACCEPT, Parser, ServerEvent

PAGE = (Path(__file__).parents[2] / "docs" / "backup.rst").read_text()


def commands(section: str) -> list[str]:
    """The commands of a section of the page."""
    (text,) = re.findall(rf"\n{section}\n-+\n(.*?)(?:\n\w[^\n]*\n---|\Z)", PAGE, re.DOTALL)
    return re.findall(r"^ +\$ (.*)$", text, re.MULTILINE)


@dataclass
class Deployment:
    """A service on a store, and the documented commands with its own paths."""

    server: Server
    options: tuple[str, ...]
    backup: list[str]
    restore: list[str]
    path: str
    """The folders of the programs that the commands need."""

    def run(self, commands: list[str]) -> None:
        for command in commands:
            environment = {**os.environ, "PATH": f"{self.path}{os.pathsep}{os.environ['PATH']}"}
            done = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr}"

    def start_again(self) -> None:
        self.server = start(self.server.state_dir, port=self.server.port, options=self.options, command=HTTP_COMMAND)


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Deployment]:
    shell = find("sqlite3", package="sqlite3")
    options = ("--workers", "1")
    server = start(folder / "state", options=options, command=HTTP_COMMAND)
    placed = [
        command.replace("/var/lib/zaqar", str(folder / "state")).replace("/backup", str(folder))
        for command in commands("SQLite")
    ]
    deployment = Deployment(server, options, placed[:1], placed[1:], str(Path(shell).parent))
    try:
        yield deployment
    finally:
        deployment.server.close()


@contextmanager
def on_postgresql(folder: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        postgres = stack.enter_context(started(POSTGRESQL))
        options = ("--workers", "1", "--config-file", str(POSTGRESQL.write_config(postgres, folder / "zaqar.conf")))
        server = start(folder / "state", options=options, command=HTTP_COMMAND)
        placed = [
            command.replace("postgresql://zaqar@db.example.org/zaqar", postgres.uri).replace("/backup", str(folder))
            for command in commands("PostgreSQL")
        ]
        programs = str(Path(postgres.program.command[0]).parent)
        deployment = Deployment(server, options, placed[:1], placed[1:], programs)
        stack.callback(lambda: deployment.server.close())
        yield deployment


@dataclass
class Poster:
    """A client that posts one message after the other until it is stopped."""

    client: Client
    acknowledged: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            body = f"m{number}"
            if self.client.ask("POST", "/v2/queues/orders/messages", {"messages": [{"body": body}]}) is not None:
                self.acknowledged.append(body)
                number += 1

    def await_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted)


def claim_id(answer: tuple[int, Any] | None) -> str:
    """The id of a claim, from the answer to its POST."""
    assert answer is not None
    return str(answer[1]["messages"][0]["href"].partition("claim_id=")[2])


def first_events(server: Server, project: str, position: str, count: int) -> list[ServerEvent]:
    """The first events of a stream that resumes after a position."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    headers = {"Accept": ACCEPT, "Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": project}
    connection.request("GET", "/v2/queues/orders/messages", headers={**headers, "Last-Event-ID": position})
    parser, events = Parser(), list[ServerEvent]()
    response = connection.getresponse()
    while len(events) < count:
        piece = response.read1()
        assert piece, "the stream has ended"
        events += [event for event in parser.feed(piece) if event.type != ":"]
    response.close()
    connection.close()
    return events[:count]


@pytest.mark.parametrize("deploy", [on_sqlite, on_postgresql])
def test_a_restored_service_has_everything_that_was_acknowledged_before_the_backup(
    deploy: Callable[[Path], Any], tmp_path: Path
) -> None:
    with deploy(tmp_path) as deployment:
        recorder = Recorder()
        client = Client(deployment.server, "shop", recorder)
        poster = Poster(Client(deployment.server, "shop", recorder))
        claims, messages = "/v2/queues/orders/claims", "/v2/queues/orders/messages"
        thread = threading.Thread(target=poster.run)
        thread.start()
        try:
            poster.await_more(20)
            claimed = client.ask("POST", f"{claims}?limit=3", {"ttl": 3600, "grace": 60})
            before = list(poster.acknowledged)
            deployment.run(deployment.backup)
            poster.await_more(20)
            later = client.ask("POST", f"{claims}?limit=3", {"ttl": 3600, "grace": 60})
            poster.await_more(20)
        finally:
            poster.stopping.set()
            thread.join()
            poster.client.close()
        everything = all_bodies(client, "orders")
        assert list(everything.values()) == poster.acknowledged
        deleted = list(everything)[len(before) - 1]
        client.ask("DELETE", f"{messages}/{deleted}")
        client.close()
        assert deployment.server.terminate() == 0

        deployment.run(deployment.restore)
        deployment.start_again()

        restored = all_bodies(client, "orders")
        assert len(before) <= len(restored) < len(everything)
        assert list(restored.values()) == poster.acknowledged[: len(restored)]
        assert deleted in restored
        (last,) = [*everything][-1:]
        opened, reset = first_events(deployment.server, "shop", last, 2)
        assert (opened.type, reset.type, json.loads(reset.data)["reason"]) == ("open", "reset", "lost")
        # A claim of the time before the backup is live, a later one is unknown, and its messages are free.
        client.ask("PATCH", f"{claims}/{claim_id(claimed)}", {"ttl": 600, "grace": 60})
        assert recorder.wrong_answers == []
        client.ask("PATCH", f"{claims}/{claim_id(later)}", {"ttl": 600, "grace": 60})
        assert [": 404 " in answer for answer in recorder.wrong_answers] == [True]
        again = client.ask("POST", f"{claims}?limit=3", {"ttl": 3600, "grace": 60})
        assert again is not None and later is not None
        assert [each["body"] for each in again[1]["messages"]] == [each["body"] for each in later[1]["messages"]]
        # The service works on, and uses the numbers of lost messages again.
        posted = client.ask("POST", messages, {"messages": [{"body": "new"}]})
        assert posted is not None and posted[1]["resources"][0].rpartition("/")[2] in everything
        client.close()
