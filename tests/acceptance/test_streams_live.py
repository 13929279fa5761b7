# SPDX-License-Identifier: Apache-2.0
"""Streams resume without a gap on each store, while connections are cut and processes of the service and stores die.

Eight writers post numbered messages, some of them delayed. Claimers claim them, release some and delete others. Fifty
readers are cut at random times and resume with the last marker they have seen.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.backends import CLUSTER, MONGODB, POSTGRESQL, REDIS, Backend, started
from tests.acceptance.crowd import Client, Ledger
from tests.acceptance.event_streams import Readers
from tests.acceptance.server import Server, kill, start, wait_until

SECONDS = float(os.environ.get("ZAQAR_STREAM_SECONDS", "6"))
"""How long messages are posted."""

WRITERS, CLAIMERS, READERS = 8, 3, 50
CUT_SECONDS = 2.0
DELAYS = (0, 0, 0, 1, 2)
PROJECT, QUEUE = "shop", "orders"
OPTIONS = ("--workers", "2")
NUMBER_LENGTH = 12
"""Of the number of a message, at the end of its id."""
PATIENCE_SECONDS = 60.0
CLOCK_SECONDS = 0.01
"""By which two clocks of a host may differ."""

STORES = (None, POSTGRESQL, REDIS, CLUSTER, MONGODB)
each_store = pytest.mark.parametrize(
    "backend", STORES, ids=lambda backend: backend.name if backend is not None else "sqlite"
)


@dataclass
class Posts:
    """What the writers posted. ``not_before`` is the earliest time at which a delayed body may be seen."""

    not_before: dict[tuple[int, int], float] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    """Ids whose delete was asked for."""


class Traffic:
    """The writers and claimers, each a thread."""

    def __init__(self, server: Server) -> None:
        self.posts = Posts()
        self.ledger = Ledger()
        self._server = server
        self._ending = threading.Event()
        work = [(self._write, number) for number in range(WRITERS)] + [(self._claim, n) for n in range(CLAIMERS)]
        self._threads = [threading.Thread(target=self._run, args=each) for each in work]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def client(self) -> Client:
        return Client(self._server, PROJECT, self.ledger)

    def _run(self, work: Any, number: int) -> None:
        client = self.client()
        try:
            work(client, number)
        finally:
            client.close()

    def _write(self, client: Client, writer: int) -> None:
        counter = itertools.count()
        while not self._ending.wait(random.uniform(0.0, 0.8)):
            messages = []
            for number in itertools.islice(counter, random.randint(1, 3)):
                delay = random.choice(DELAYS)
                messages.append({"body": {"w": writer, "n": number, "delay": delay}, "ttl": 3600, "delay": delay})
                if delay:
                    self.posts.not_before[writer, number] = time.monotonic() + delay
            answer = None
            # A post whose answer is lost is made again, so that each number comes, some of them twice.
            while answer is None:
                answer = client.ask("POST", f"/v2/queues/{QUEUE}/messages", {"messages": messages})
            self.posts.acknowledged |= {href.rpartition("/")[2] for href in answer[1]["resources"]}

    def _claim(self, client: Client, number: int) -> None:
        while not self._ending.wait(random.uniform(0.0, 0.2)):
            answer = client.ask("POST", f"/v2/queues/{QUEUE}/claims?limit=4", {"ttl": 300, "grace": 60})
            if answer is None or answer[1] is None:
                continue
            messages = answer[1]["messages"]
            for message in messages[: random.randint(0, 1)]:
                self.posts.deleted.add(message["id"])
                client.ask("DELETE", message["href"])
            if random.random() < 0.9:
                client.ask("DELETE", f"/v2/queues/{QUEUE}/claims/{messages[0]['href'].rpartition('=')[2]}")


@dataclass
class Service:
    """The service on a store, which may be started again, at the same port. ``store`` is the server of the store."""

    server: Server
    backend: Backend | None
    store: Any
    options: tuple[str, ...]

    def restart(self) -> None:
        """Kill all of it, and start it again."""
        self.server.kill()
        self.server = start(self.server.state_dir, port=self.server.port, options=self.options)

    def kill_worker(self) -> None:
        kill(self.server.workers()[:1])

    def restart_store(self) -> None:
        """Kill the server of the store, or one of several, and start it again. The embedded one dies with its user."""
        if self.backend is not None:
            self.backend.hurt(self.store)


@contextmanager
def serving(backend: Backend | None, folder: Path) -> Iterator[Service]:
    """A service with this store behind it."""
    with ExitStack() as stack:
        store, options = None, OPTIONS
        if backend is not None:
            store = stack.enter_context(started(backend))
            options += ("--config-file", str(backend.write_config(store, folder / "zaqar.conf")))
        service = Service(start(folder / "state", options=options), backend, store, options)
        stack.callback(lambda: service.server.close())
        yield service


@dataclass
class Run:
    """What the readers have seen, and what was in the queue in the end."""

    readers: Readers
    posts: Posts
    left: dict[str, Any]
    """The bodies of the messages by their ids, in order."""


def suffer(service: Service) -> None:
    """Kill workers, the whole service and the store, for about ``SECONDS``."""
    strikes = (
        service.kill_worker,
        service.kill_worker,
        service.restart,
        service.kill_worker,
        service.restart_store,
        service.kill_worker,
    )
    for strike in strikes:
        time.sleep(SECONDS / len(strikes))
        strike()


def everything(client: Client, queue: str = QUEUE) -> dict[str, Any]:
    """The bodies of all messages of the queue, claimed ones too, by their ids and in order."""
    found: dict[str, Any] = {}
    path = f"/v2/queues/{queue}/messages?echo=true&include_claimed=true&limit=20"
    while True:
        answer = wait_until(lambda path=path: client.ask("GET", path))  # type: ignore[misc]
        if not answer[1]["messages"]:
            return found
        found.update((message["id"], message["body"]) for message in answer[1]["messages"])
        path = answer[1]["links"][0]["href"]


def missing(readers: Readers, left: dict[str, Any]) -> dict[str, list[str]]:
    """The messages that a reader should have seen and has not, by the name of the reader."""
    found = {}
    for reader in readers.all:
        begin = "" if reader.from_start else reader.connections[0].position or ""
        if lacking := [id_ for id_ in left if id_ > begin and id_ not in reader.ids]:
            found[reader.name] = lacking
    return found


def run(backend: Backend | None, folder: Path) -> Run:
    with serving(backend, folder) as service:
        server = service.server
        traffic = Traffic(server)
        client = traffic.client()
        first = {"messages": [{"body": {"w": -1, "n": 0, "delay": 0}, "ttl": 3600}]}
        assert client.ask("POST", f"/v2/queues/{QUEUE}/messages", first) is not None
        with Readers(
            server.host,
            server.port,
            websocket_url=lambda: service.server.websocket_url,
            project=PROJECT,
            queue=QUEUE,
            count=READERS,
            most_seconds=CUT_SECONDS,
        ) as readers:
            try:
                wait_until(lambda: all(reader.connections for reader in readers.all))
                traffic.start()
                suffer(service)
            finally:
                traffic.stop()
            time.sleep(max(DELAYS))
            left = everything(client)
            readers.is_cutting = False
            deadline = time.monotonic() + PATIENCE_SECONDS
            while missing(readers, left) and time.monotonic() < deadline:
                time.sleep(0.05)
        client.close()
    assert traffic.ledger.wrong_answers == []
    assert traffic.ledger.lost_answers, "nobody was disturbed"
    return Run(readers, traffic.posts, left)


# -- the judgement ----------------------------------------------------------------------------------------------------


def number_of(id_: str) -> int:
    return int(id_[-NUMBER_LENGTH:], 16)


def is_delayed(body: Any) -> bool:
    return bool(body["delay"])


def no_message_is_lost(run: Run) -> None:
    assert run.posts.acknowledged - run.posts.deleted <= run.left.keys()


def each_reader_sees_each_message(run: Run) -> None:
    """Of the messages that lived the whole time, each reader has seen each one, as it was posted."""
    assert missing(run.readers, run.left) == {}
    for _, connection in run.readers.connections():
        assert all(run.left.get(seen.id, seen.body) == seen.body for seen in connection.seen)


def messages_come_in_order(run: Run) -> None:
    """Each reader sees messages without a delay for the first time in the order of their numbers."""
    for reader in run.readers.all:
        first = dict.fromkeys(seen.id for each in reader.connections for seen in each.seen if not is_delayed(seen.body))
        assert list(first) == sorted(first), reader.name


def delayed_messages_come_when_they_are_due(run: Run) -> None:
    early = [
        seen
        for _, connection in run.readers.connections()
        for seen in connection.seen
        if is_delayed(seen.body) and seen.at < run.posts.not_before[seen.body["w"], seen.body["n"]] - CLOCK_SECONDS
    ]
    assert early == []


def a_connection_repeats_nothing(run: Run) -> None:
    """It sends what comes after its marker, each message once."""
    for reader, connection in run.readers.connections():
        ids = [seen.id for seen in connection.seen]
        assert len(set(ids)) == len(ids), reader.name
        assert connection.start is None or all(id_ > connection.start for id_ in ids), reader.name


def markers_grow(run: Run) -> None:
    """A marker is never behind the one before it, nor after its own message unless that one was held back."""
    for reader, connection in run.readers.connections():
        markers = [seen.marker for seen in connection.seen]
        assert markers == sorted(markers), reader.name
        assert all(seen.marker <= seen.id or is_delayed(seen.body) for seen in connection.seen), reader.name


def a_marker_is_behind_only_while_a_message_is_held_back(run: Run) -> None:
    """If a reader that is cut now would see messages again, the first one after its marker is a delayed one."""
    bodies = {number_of(id_): body for id_, body in run.left.items()}
    for reader, connection in run.readers.connections():
        for seen in connection.seen:
            if seen.marker < seen.id:
                held = bodies.get(number_of(seen.marker) + 1)
                assert held is None or is_delayed(held), f"{reader.name}: {seen}"


JUDGEMENT = (
    no_message_is_lost,
    each_reader_sees_each_message,
    messages_come_in_order,
    delayed_messages_come_when_they_are_due,
    a_connection_repeats_nothing,
    markers_grow,
    a_marker_is_behind_only_while_a_message_is_held_back,
)


@each_store
def test_readers_that_are_cut_resume_without_a_gap(tmp_path: Path, backend: Backend | None) -> None:
    began = time.monotonic()
    story = run(backend, tmp_path)
    for judge in JUDGEMENT:
        judge(story)
    for reader in story.readers.all:
        assert reader.faults == []
        assert len(reader.connections) > 1, "it was never cut"
        assert {event.kind for each in reader.connections for event in each.other} <= {"open", "bye"}
    assert any(is_delayed(body) for body in story.left.values())
    report(story, time.monotonic() - began)


def report(story: Run, seconds: float) -> None:
    """Print the figures of a run, for ``pytest -s``."""
    sent = [seen.id for _, connection in story.readers.connections() for seen in connection.seen]
    distinct = sum(len(reader.ids) for reader in story.readers.all)
    connections = sum(len(reader.connections) for reader in story.readers.all)
    print(
        f"{len(story.left)} messages left, {len(story.posts.deleted)} deleted; {READERS} readers, {connections} "
        f"connections, {len(sent)} messages sent, {len(sent) - distinct} of them again, in {seconds:.1f} s"
    )
