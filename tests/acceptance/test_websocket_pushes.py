# SPDX-License-Identifier: Apache-2.0
"""Notifications to WebSocket connections, by real processes: in order, complete, and gone with the connection."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.exceptions import WebSocketException

from tests.acceptance.backends import MONGODB, POSTGRESQL, REDIS, Backend
from tests.acceptance.crowd import Client, Ledger
from tests.acceptance.pushed import Listeners
from tests.acceptance.server import Server, kill, running
from tests.acceptance.sinks import Sink, Sinks
from tests.acceptance.test_notifications import Notifier, configured, notifier_of, received, subscribe
from tests.websocket import JSON, MSGPACK, WebSocket

PROJECT = "shop"
WEBSOCKET = "zaqar.cmd.websocket"

GONE_SECONDS = 30.0
"""How long the subscriptions of a killed process may stay."""

FULL = os.environ.get("ZAQAR_PUSHES") == "full"
"""Whether the test of all faults has the size that the service promises, which takes minutes for each store."""

MESSAGES, CONNECTIONS = (2000, 100) if FULL else (60, 10)
OF_ONE_POST = 5
PATIENCE = 900.0 if FULL else 120.0


class Service:
    """A running service with WebSocket, and a client of its HTTP API."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.websocket_url
        self._client = Client(server, PROJECT, Ledger())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.ask(method, path, body)
        assert answer is not None, f"{method} {path} was not answered"
        return answer[1]

    def post(self, queue: str, *numbers: int, **fields: Any) -> list[str]:
        messages = [{"body": {"n": number}, "ttl": 3600, **fields} for number in numbers]
        answer = self.ask("POST", f"/v2/queues/{queue}/messages", {"messages": messages})
        return [href.rpartition("/")[2] for href in answer["resources"]]

    def subscriptions(self, queue: str) -> list[dict[str, Any]]:
        page: list[dict[str, Any]] = self.ask("GET", f"/v2/queues/{queue}/subscriptions?limit=20")["subscriptions"]
        return page

    def connect(self, **options: Any) -> WebSocket:
        return WebSocket(self.url, project=PROJECT, **options)


def options_of(config: Path) -> tuple[str, ...]:
    return ("--config-file", str(config), "--workers", "2")


CONFIG = f"""
[transport]
message_encryption_key = {"ab" * 32}
[drivers:transport:websocket]
notification_bind = 127.0.0.1
write_timeout = 1
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """On SQLite. The test of all faults is on every store, and so are those of the subscriptions (tests/api)."""
    folder = tmp_path_factory.mktemp("pushes")
    with configured(None, folder) as config:
        with config.open("a") as file:
            file.write(CONFIG)
        with running(folder / "state", options=options_of(config)) as server, Service(server) as service:
            yield service


def is_served(service: Service) -> bool:
    """Whether connections can be subscribed: the process has its node."""
    try:
        with service.connect() as socket:
            return socket.request("subscription_create", {"queue_name": "first"}).status == 201
    except (OSError, WebSocketException):
        return False


def until(condition: Callable[[], object], complaint: str, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_what_is_posted_over_http_is_pushed_in_the_format_of_the_subscription(service: Service, form: Any) -> None:
    queue = f"formats-{form.name}"
    with service.connect(form=form) as socket:
        assert socket.request("subscription_create", {"queue_name": queue, "ttl": 600}).status == 201
        (id_,) = service.post(queue, 1)
        assert socket.push() == {
            "body": {"n": 1},
            "ttl": 3600,
            "queue_name": queue,
            "Message_Type": "Notification",
            "id": id_,
        }


def test_a_filter_and_many_messages_keep_their_order(service: Service) -> None:
    with service.connect() as all_, service.connect() as some:
        assert all_.request("subscription_create", {"queue_name": "order"}).status == 201
        chosen = list(range(0, 60, 3))
        options = {"filter": {"n": chosen}}
        assert some.request("subscription_create", {"queue_name": "order", "options": options}).status == 201
        for first in range(0, 60, 10):
            service.post("order", *range(first, first + 10))
        assert [all_.push()["body"]["n"] for _ in range(60)] == list(range(60))
        assert [some.push()["body"]["n"] for _ in chosen] == chosen


def test_a_connection_that_closes_leaves_no_subscription(service: Service) -> None:
    with service.connect() as kept:
        assert kept.request("subscription_create", {"queue_name": "closing"}).status == 201
        with service.connect() as socket:
            assert socket.request("subscription_create", {"queue_name": "closing"}).status == 201
            assert len(service.subscriptions("closing")) == 2
        with service.connect() as gone:
            assert gone.request("subscription_create", {"queue_name": "closing"}).status == 201
            gone.abort()
        until(lambda: len(service.subscriptions("closing")) == 1, "a closed connection is still subscribed")
        service.post("closing", 1)
        assert kept.push()["body"] == {"n": 1}


def test_a_delivery_is_in_the_log_and_can_be_sent_again(service: Service) -> None:
    with service.connect() as socket:
        id_ = socket.request("subscription_create", {"queue_name": "log"}).body["subscription_id"]
        (message, other) = service.post("log", 1, 2)
        assert [socket.push()["body"]["n"] for _ in range(2)] == [1, 2]
        path = f"/v2/queues/log/subscriptions/{id_}/deliveries"
        until(
            lambda: [each["state"] for each in service.ask("GET", path)["deliveries"]] == ["done", "done"],
            "the deliveries are not in the log",
        )
        assert [len(each["attempts"]) for each in service.ask("GET", path)["deliveries"]] == [1, 1]
        service.ask("POST", f"{path}/{message}/resend")
        assert socket.push()["id"] == message
        assert other != message


def test_an_encrypted_queue_is_pushed_in_plain_text(service: Service) -> None:
    service.ask("PUT", "/v2/queues/secret", {"_enable_encrypt_messages": True})
    with service.connect() as socket:
        assert socket.request("subscription_create", {"queue_name": "secret"}).status == 201
        service.post("secret", 7)
        assert socket.push()["body"] == {"n": 7}


def test_a_reader_that_is_too_slow_is_closed_and_holds_up_no_other_one(service: Service) -> None:
    text = "x" * 240_000
    with service.connect() as quick, service.connect() as slow:
        for socket in (quick, slow):
            assert socket.request("subscription_create", {"queue_name": "slow"}).status == 201
        # It reads nothing from now on: the library pauses when some frames are unread.
        count = 60
        received = []
        for number in range(count):
            service.ask("POST", "/v2/queues/slow/messages", {"messages": [{"body": [number, text], "ttl": 60}]})
            received.append(quick.push()["body"][0])
        assert received == list(range(count))
        until(lambda: len(service.subscriptions("slow")) == 1, "the slow reader is still subscribed")
        # 1006 if the close frame could not be sent, as it reads nothing.
        assert slow.closed()[0] in (1006, 1013)


def test_a_killed_websocket_process_leaves_no_subscription_and_no_deliveries(service: Service) -> None:
    with service.connect() as socket:
        assert socket.request("subscription_create", {"queue_name": "killed"}).status == 201
        began = time.monotonic()
        kill([service.server.part(WEBSOCKET)])
    service.post("killed", 1)
    until(
        lambda: service.subscriptions("killed") == [],
        "a subscription outlives its process",
        seconds=GONE_SECONDS,
    )
    assert time.monotonic() - began < GONE_SECONDS
    # The process that was started in its place takes subscriptions.
    until(lambda: is_served(service), "the WebSocket server was not started again")
    with service.connect() as again:
        assert again.request("subscription_create", {"queue_name": "killed"}).status == 201
        service.post("killed", 2)
        assert again.push()["body"] == {"n": 2}


class Poster(threading.Thread):
    """Posts numbers in order, each post until it was acknowledged, and notes the ids of those that were."""

    def __init__(self, service: Service, queue: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self._client = Client(service.server, PROJECT, Ledger())
        self._queue = queue

    def run(self) -> None:
        while len(self.ids) < MESSAGES:
            numbers = range(len(self.ids), len(self.ids) + OF_ONE_POST)
            messages = [{"body": {"n": number}, "ttl": 3600} for number in numbers]
            answer = self._client.ask("POST", f"/v2/queues/{self._queue}/messages", {"messages": messages})
            if answer is not None:
                self.ids += (href.rpartition("/")[2] for href in answer[1]["resources"])
            time.sleep(0.02)
        self._client.close()


def is_complete(poster: Poster, listeners: Listeners, sink: Sink) -> bool:
    everything = set(range(MESSAGES))
    arrived = all(set(numbers) >= everything for numbers in listeners.numbers)
    return not poster.is_alive() and arrived and received(sink) >= set(poster.ids)


def missing(poster: Poster, listeners: Listeners) -> str:
    counts = [MESSAGES - len(set(numbers)) for numbers in listeners.numbers]
    return f"{len(poster.ids)} were posted; of each connection are missing: {counts}; closed: {listeners.closed}"


def check_order(listeners: Listeners) -> None:
    """A post whose answer was lost is posted again, so a number may come twice; the first time it has its place."""
    for numbers in listeners.numbers:
        assert list(dict.fromkeys(numbers)) == list(range(MESSAGES))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "backend",
    (None, POSTGRESQL, REDIS, MONGODB),
    ids=lambda backend: backend.name if backend else "sqlite",
)
def test_whatever_is_killed_an_open_connection_gets_each_message_in_order(
    backend: Backend | None, tmp_path: Path
) -> None:
    sink = Sink()
    with (
        configured(backend, tmp_path) as config,
        Sinks(sink),
        running(tmp_path / "state", options=options_of(config)) as server,
        Service(server) as service,
    ):
        subscribe(server, "all", sink)
        notifier = Notifier(config, server.state_dir)
        poster = Poster(service, "all")
        victims = itertools.cycle(
            (
                lambda: kill(notifier_of(server)[:1]),
                lambda: kill(server.workers()[:1]),
                notifier.kill_and_start_again,
            )
        )
        try:
            with Listeners(service.url, project=PROJECT, queue="all", count=CONNECTIONS) as listeners:
                poster.start()
                deadline = time.monotonic() + PATIENCE
                strikes = 0
                while not is_complete(poster, listeners, sink):
                    assert time.monotonic() < deadline, f"missing: {missing(poster, listeners)}"
                    time.sleep(1.0)
                    # In the end nothing is killed any more, so that what is left can arrive.
                    if strikes < (60 if FULL else 4):
                        next(victims)()
                        strikes += 1
                poster.join()
                check_order(listeners)
                assert listeners.closed == {}
        finally:
            # It may have been started again a moment ago, and not handle signals yet.
            assert notifier.close() in (0, -signal.SIGTERM)
        until(lambda: [each["subscriber"] for each in service.subscriptions("all")] == [sink.url], "left behind")
