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
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.acceptance.server import Server, wait_until
from tests.acceptance.service_on_store import Service, all_bodies, each_store
from tests.acceptance.stream_checks import (
    CHECKS,
    Posts,
    Run,
    a_connection_repeats_nothing,
    a_marker_is_behind_only_while_a_message_is_held_back,
    delayed_messages_come_when_they_are_due,
    each_reader_sees_each_message,
    is_delayed,
    markers_grow,
    messages_come_in_order,
    missing,
    no_message_is_lost,
)
from tests.acceptance.stream_readers import Connection, Reader, Readers, Seen
from tests.acceptance.working_clients import Client, Recorder

SECONDS = float(os.environ.get("ZAQAR_STREAM_SECONDS", "4"))
"""How long messages are posted."""

WRITERS, CLAIMERS, READERS = 8, 3, 50
CUT_SECONDS = 2.0
DELAYS = (0, 0, 0, 1, 2)
RUNS_WITH = "live"
PROJECT, QUEUE = "shop", "orders"
PATIENCE_SECONDS = 60.0


class Traffic:
    """The writers and claimers, each a thread."""

    def __init__(self, server: Server) -> None:
        self.posts = Posts()
        self.recorder = Recorder()
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
        return Client(self._server, PROJECT, self.recorder)

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
            # A post whose answer is lost is repeated, so each number is posted, some of them twice.
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


def kill_processes(service: Service) -> None:
    """Kill workers, the WebSocket process, the whole service or all that serves clients, and the store."""
    # A start of the whole service takes much CPU, so only the embedded store, which dies with it, has this kill.
    kill_all = service.restart if service.backend is None else service.kill_servers
    faults = (service.kill_worker, service.kill_websocket, kill_all, service.restart_store, service.kill_worker)
    for fault in faults:
        time.sleep(SECONDS / len(faults))
        fault()


def run(service: Service) -> Run:
    server = service.server
    traffic = Traffic(server)
    with closing(traffic.client()) as client:
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
                kill_processes(service)
            finally:
                traffic.stop()
            time.sleep(max(DELAYS))
            left = all_bodies(client, QUEUE)
            readers.is_cutting = False
            deadline = time.monotonic() + PATIENCE_SECONDS
            while missing(readers.all, left) and time.monotonic() < deadline:
                time.sleep(0.05)
    assert traffic.recorder.wrong_answers == []
    assert traffic.recorder.lost_answers, "no request was interrupted"
    return Run(readers.all, traffic.posts, left)


@each_store
def test_disconnected_readers_resume_without_a_gap(service_on: Service) -> None:
    began = time.monotonic()
    outcome = run(service_on)
    for check in CHECKS:
        check(outcome)
    for reader in outcome.readers:
        assert reader.faults == []
        assert len(reader.connections) > 1, "the reader was never disconnected"
        assert {event.kind for each in reader.connections for event in each.other} <= {"open", "bye"}
    assert any(is_delayed(body) for body in outcome.left.values())
    report(outcome, time.monotonic() - began)


def report(outcome: Run, seconds: float) -> None:
    """Print the figures of a run, for ``pytest -s``."""
    sent = [seen.id for _, connection in outcome.connections() for seen in connection.seen]
    distinct = sum(len(reader.ids) for reader in outcome.readers)
    connections = sum(len(reader.connections) for reader in outcome.readers)
    print(
        f"{len(outcome.left)} messages left, {len(outcome.posts.deleted)} deleted; {READERS} readers, {connections} "
        f"connections, {len(sent)} messages sent, {len(sent) - distinct} of them again, in {seconds:.1f} s"
    )


# -- the checks find faults -------------------------------------------------------------------------------------------


def id_of(number: int) -> str:
    return f"{'a' * 24}{number:012x}"


def body_of(number: int) -> dict[str, int]:
    """Number 3 is delayed, and due after number 5."""
    return {"w": 0, "n": number, "delay": int(number == 3)}


def seen(number: int, marker: int, at: float = 0.0) -> Seen:
    return Seen(id_of(marker), id_of(number), body_of(number), at)


def good_run() -> Run:
    """A reader that is cut after number 4, while number 3 is held back."""
    first = Connection(None, id_of(0), [seen(1, 1), seen(2, 2), seen(4, 2)])
    second = Connection(id_of(2), id_of(2), [seen(4, 2), seen(5, 2), seen(3, 5, at=9.0)])
    reader = Reader("r", False, True, connections=[first, second], ids={id_of(number) for number in range(1, 6)})
    posts = Posts({(0, 3): 8.0}, {id_of(number) for number in range(1, 6)})
    return Run([reader], posts, {id_of(number): body_of(number) for number in range(1, 6)})


def test_the_checks_accept_a_correct_run() -> None:
    for check in CHECKS:
        check(good_run())


def lose_one(run: Run) -> None:
    del run.left[id_of(2)]


def skip_one(run: Run) -> None:
    run.readers[0].ids.remove(id_of(2))


def change_a_body(run: Run) -> None:
    run.left[id_of(2)] = body_of(1)


def swap_two(run: Run) -> None:
    first = run.readers[0].connections[0].seen
    first[0], first[1] = first[1], first[0]


def show_one_early(run: Run) -> None:
    run.posts.not_before[0, 3] = 9.5


def repeat_one(run: Run) -> None:
    run.readers[0].connections[1].seen.append(seen(5, 5))


def begin_before_the_marker(run: Run) -> None:
    run.readers[0].connections[1].seen.insert(0, seen(2, 2))


def go_back(run: Run) -> None:
    run.readers[0].connections[1].seen[1] = seen(5, 1)


def stay_behind(run: Run) -> None:
    run.readers[0].connections[0].seen[1] = seen(2, 1)


FAULTS = [
    (lose_one, no_message_is_lost),
    (skip_one, each_reader_sees_each_message),
    (change_a_body, each_reader_sees_each_message),
    (swap_two, messages_come_in_order),
    (show_one_early, delayed_messages_come_when_they_are_due),
    (repeat_one, a_connection_repeats_nothing),
    (begin_before_the_marker, a_connection_repeats_nothing),
    (go_back, markers_grow),
    (stay_behind, a_marker_is_behind_only_while_a_message_is_held_back),
]


@pytest.mark.parametrize(("spoil", "check"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_each_check_finds_its_fault(spoil: Callable[[Run], None], check: Callable[[Run], None]) -> None:
    outcome = good_run()
    spoil(outcome)
    with pytest.raises(AssertionError):
        check(outcome)
