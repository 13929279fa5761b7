# SPDX-License-Identifier: Apache-2.0
"""A service with two WebSocket processes, whose processes are killed while messages are pushed to their connections."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.acceptance.backends import Backend
from tests.acceptance.push_listeners import Listeners
from tests.acceptance.server import START_SECONDS, STOP_SECONDS, Server, kill, running, wait_until
from tests.acceptance.test_notifications import NOTIFIER, Notifier, configured, has_started, received, subscribe
from tests.acceptance.webhook_sinks import Sink, Sinks
from tests.acceptance.working_clients import Client, Recorder
from zaqar import app, conf
from zaqar.model import QUEUE, WAITING, Delivery, Posted, QueueName

PROJECT, QUEUE_NAME = "shop", "all"
WEBSOCKET = "zaqar.cmd.websocket"
OF_ONE_POST = 5
LOOK_SECONDS = 0.5
_LATER = 10.0**11
"""A time, in seconds since the epoch, at which all leases have expired."""
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Size:
    """The amount of work. ``staying`` and ``returning`` are numbers of connections, ``kills`` of killed processes."""

    messages: int
    staying: int
    returning: int
    kills: int
    post_seconds: float
    """Pause after a post, so that messages are posted while processes are killed."""
    patience: float
    """Seconds until everything has arrived."""


SMALL = Size(60, 10, 4, 3, 0.3, 120.0)
FULL = Size(2000, 100, 20, 60, 0.1, 900.0)


class Poster(threading.Thread):
    """Posts numbers in order. It repeats each post until it is acknowledged, and keeps the ids of these messages."""

    def __init__(self, server: Server, size: Size) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.begun = 0
        """The smallest number that was not posted yet."""
        self._size = size
        self._client = Client(server, PROJECT, Recorder())
        self._ending = threading.Event()

    def end(self) -> None:
        """Stop posting, even if some numbers were not posted."""
        self._ending.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        while len(self.ids) < self._size.messages and not self._ending.wait(self._size.post_seconds):
            numbers = range(len(self.ids), len(self.ids) + OF_ONE_POST)
            self.begun = numbers.stop
            messages = [{"body": {"n": number}, "ttl": 3600} for number in numbers]
            answer = self._client.ask("POST", f"/v2/queues/{QUEUE_NAME}/messages", {"messages": messages})
            if answer is not None:
                self.ids += (href.rpartition("/")[2] for href in answer[1]["resources"])
        self._client.close()


class WebSocketProcess:
    """A WebSocket server beside the one of ``zaqar-server``."""

    def __init__(self, config: Path, state_dir: Path) -> None:
        self.log = state_dir.parent / "websocket.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WEBSOCKET, "--config-file", str(config), "--bind", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ZAQAR_STATE_DIR": str(state_dir)},
            )

    @property
    def url(self) -> str:
        """The address at which it listens. Waits until it does."""
        found = wait_until(lambda: re.findall(r" (ws://[\d.]+:\d+)\.", self.log.read_text()), seconds=START_SECONDS)
        return str(found[0])

    def close(self) -> int:
        """End the process with SIGTERM. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()


@dataclass
class DeadSubscription:
    """The subscription of a connection whose process was killed. Times are in seconds after the kill."""

    died: float
    """On the monotonic clock."""
    unlisted: float | None = None
    """When a listing of subscriptions first had no such subscription."""
    dropped: float | None = None
    """When its note was first seen to be gone. A notifier removes the note after it has dropped the deliveries."""


class RemovalWatch(threading.Thread):
    """Watches the API and the stores until the subscriptions of dead connections and their deliveries are gone."""

    def __init__(self, server: Server, config: Path, connections: Callable[[], dict[str, float]]) -> None:
        """``connections`` returns the ids of the subscriptions of dead connections, and when each died."""
        super().__init__()
        self.dead: dict[str, DeadSubscription] = {}
        self.most_waiting = 0
        """The greatest number of deliveries that waited for dead connections at one time."""
        self.slow = 0.0
        """Seconds by which the observations took longer than the pause between them, as on a busy machine."""
        self._server = server
        self._config = config
        self._connections = connections
        self._client = Client(server, PROJECT, Recorder())
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        os.environ["ZAQAR_STATE_DIR"] = str(self._server.state_dir)
        try:
            self._parts = app.build(conf.load([f"--config-file={self._config}"]))
        finally:
            del os.environ["ZAQAR_STATE_DIR"]
        self._store = self._parts.placement.all_stores()[0].store
        row = self._parts.queues.row(QueueName(PROJECT, QUEUE, QUEUE_NAME))
        assert row is not None
        self._uid = row.uid
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self.join()
        self._client.close()
        self._parts.close()

    @property
    def left(self) -> dict[str, DeadSubscription]:
        """The subscriptions of which something is left."""
        return {id_: each for id_, each in self.dead.items() if each.dropped is None}

    def run(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            for id_, died in self._connections().items():
                self.dead.setdefault(id_, DeadSubscription(died))
            if self.left:
                began = time.monotonic()
                self._look()
                self.slow += max(0.0, time.monotonic() - began - LOOK_SECONDS)

    def _look(self) -> None:
        listed = self.listed()
        if listed is None:
            return
        noted = self._noted()
        waiting = 0
        for id_, each in self.left.items():
            now = time.monotonic() - each.died
            if id_ in listed:
                waiting += self._count_waiting(id_)
            elif each.unlisted is None:
                each.unlisted = now
            if each.unlisted is not None and id_ not in noted:
                each.dropped = now
        self.most_waiting = max(self.most_waiting, waiting)

    def _noted(self) -> set[str]:
        """The ids of the subscriptions in the notes of nodes."""
        nodes = self._parts.management.nodes
        return {
            note.subscription_id
            for node_id in nodes.list_expired(now=_LATER, limit=1000)
            for note in nodes.list_subscriptions(node_id=node_id, limit=1000)
        }

    def _count_waiting(self, id_: str) -> int:
        return self._store.delivery_log.count(queue_uid=self._uid, subscription_id=id_)[WAITING]

    def listed(self) -> dict[str, str] | None:
        """The subscribers of the queue by the ids of their subscriptions; None if the request failed."""
        found: dict[str, str] = {}
        path = f"/v2/queues/{QUEUE_NAME}/subscriptions?limit=20"
        while True:
            answer = self._client.ask("GET", path)
            if answer is None:
                return None
            page = answer[1]["subscriptions"]
            if not page:
                return found
            found.update((each["id"], each["subscriber"]) for each in page)
            path = answer[1]["links"][0]["href"]

    def undelivered(self) -> tuple[list[Posted], list[Delivery]]:
        """The first posts and deliveries that a notifier would take after all leases and back-offs have expired.

        No other process may use the store meanwhile.
        """
        terms: dict[str, Any] = {"owner": "test", "until": _LATER + 1, "now": _LATER, "limit": 100}
        return self._store.outbox.take(**terms), self._store.deliveries.take(**terms, most_of_one=100, without=())

    def stored(self, *, later: float = 0.0) -> list[str]:
        """The dead subscriptions whose deliveries take space, reachable or not, after a sweep so many seconds later."""
        while self._store.sweep(now=time.time() + later, limit=1000).removed == 1000:
            pass
        terms: dict[str, Any] = {"queue_uid": self._uid, "state": None, "before": None, "limit": 1}
        return [id_ for id_ in self.dead if self._store.delivery_log.list_before(subscription_id=id_, **terms)]


@dataclass
class Run:
    """The events of a run. The service goes on running, without the second process of each kind."""

    size: Size
    server: Server
    poster: Poster
    sink: Sink
    staying: Listeners
    returning: Listeners
    watch: RemovalWatch
    websocket_kills: list[float]
    """Times on the monotonic clock."""
    kills: Counter[str] = field(default_factory=Counter)
    """By kind of process."""
    last_kill: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    """The exit status of the second process of each kind after SIGTERM."""
    seconds: float = 0.0
    """From the first post until everything had arrived."""

    def tracebacks(self) -> list[str]:
        """The tracebacks in the logs."""
        texts = {path.name: path.read_text() for path in self.server.state_dir.parent.glob("*.log")}
        assert len(texts) == 3
        return [
            f"{name}: {text[text.index(_TRACEBACK) :][:3000]}" for name, text in texts.items() if _TRACEBACK in text
        ]

    def is_complete(self) -> bool:
        """Whether each acknowledged message has arrived. Connections that subscribed again need only later messages."""
        posted = self.poster.ids
        if self.poster.is_alive() or len(self.returning.open) < self.size.returning:
            return False
        connections = [*self.staying.connections, *self.returning.open]
        is_pushed = all(set(posted[each.begun :]) <= each.numbers.keys() for each in connections)
        return is_pushed and set(posted) <= received(self.sink)

    def missing(self) -> str:
        """A description of the messages that have not arrived, for an assertion."""
        posted = self.poster.ids
        counts = {
            name: [len(set(posted[each.begun :]) - each.numbers.keys()) for each in listeners.connections]
            for name, listeners in {"stay": self.staying, "return": self.returning}.items()
        }
        return (
            f"of {len(posted)} that were posted are missing: {counts}, {len(set(posted) - received(self.sink))} of the "
            f"webhook; closed: {[each.code for each in self.staying.closed]}; kills: {self.kills}"
        )


def run_with_kills(backend: Backend | None, folder: Path, size: Size, stack: ExitStack) -> Run:
    """Post messages while a process is killed each second, until everything has arrived.

    ``stack`` ends the processes that run on afterwards.
    """
    config = stack.enter_context(configured(backend, folder))
    sink = Sink()
    stack.enter_context(Sinks(sink))
    options = ("--config-file", str(config), "--workers", "2")
    server = stack.enter_context(running(folder / "state", options=options))
    subscribe(server, QUEUE_NAME, sink)
    poster = Poster(server, size)
    common: dict[str, Any] = {"project": PROJECT, "queue": QUEUE_NAME, "begun": lambda: poster.begun}
    returning = Listeners(server.websocket_url, count=size.returning, returning=True, **common)
    kills: list[float] = []
    statuses: dict[str, int] = {}
    with ExitStack() as beside:
        notifier = Notifier(config, server.state_dir)
        beside.callback(lambda: statuses.update(notifier=notifier.close()))
        websocket = WebSocketProcess(config, server.state_dir)
        beside.callback(lambda: statuses.update(websocket=websocket.close()))
        beside.callback(poster.end)
        watch = stack.enter_context(RemovalWatch(server, config, lambda: _deaths(returning, kills)))
        staying = Listeners(websocket.url, count=size.staying, **common)
        run = Run(size, server, poster, sink, staying, returning, watch, kills, statuses=statuses)
        with staying, returning:
            _post_and_kill(run, notifier)
    return run


def _post_and_kill(run: Run, notifier: Notifier) -> None:
    kills = _kill_in_turn(run, notifier)
    began = time.monotonic()
    run.poster.start()
    left = run.size.kills
    while left > run.size.kills - SMALL.kills or not run.is_complete():
        assert time.monotonic() < began + run.size.patience, run.missing()
        time.sleep(1.0)
        # After the last kill the loop goes on, so that the remaining messages can arrive.
        if left:
            run.kills[next(kills)] += 1
            run.last_kill = time.monotonic()
            left -= 1
    run.seconds = time.monotonic() - began


def _kill_in_turn(run: Run, notifier: Notifier) -> Iterator[str]:
    """Kill one process at each step. Yields its kind.

    A process that is still starting is passed over, because its death would not hurt the service.
    """
    server = run.server

    def kill_websocket() -> bool:
        pids = server.parts(WEBSOCKET)
        if is_up := len(run.returning.open) == run.size.returning:
            run.websocket_kills.append(time.monotonic())
            kill(pids)
        return bool(pids) and is_up

    def kill_worker() -> bool:
        kill(server.workers()[:1])
        return True

    def kill_notifier_of_server() -> bool:
        pids = server.parts(NOTIFIER)
        if is_up := all(has_started(pid, server.log) for pid in pids):
            kill(pids)
        return bool(pids) and is_up

    def kill_second_notifier() -> bool:
        if is_up := notifier.has_started():
            notifier.kill_and_start_again()
        return is_up

    kinds = {"WebSocket": kill_websocket, "API": kill_worker, "notifier": kill_notifier_of_server}
    one_round = [
        *kinds.items(),
        ("WebSocket", kill_websocket),
        ("API", kill_worker),
        ("notifier", kill_second_notifier),
    ]
    for kind, kill_one in itertools.cycle(one_round):
        if kill_one():
            yield kind


def _deaths(returning: Listeners, kills: list[float]) -> dict[str, float]:
    """The ids of the subscriptions of dead connections, and when the process of each was killed."""
    return {
        each.subscription_id: max((at for at in kills if at <= each.closed_at), default=each.closed_at)
        for each in returning.closed
    }
