# SPDX-License-Identifier: Apache-2.0
"""Notifications to WebSocket connections, by real processes: complete, in order, and removed with the connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.acceptance.server import Server, running
from tests.acceptance.test_notifications import configured
from tests.acceptance.working_clients import Client, Recorder
from tests.websocket import JSON, MSGPACK, WebSocket

PROJECT = "shop"
SECONDS = 60.0


class Service:
    """A running service with WebSocket, and a client of its HTTP API."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.websocket_url
        self._client = Client(server, PROJECT, Recorder())

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
    """On SQLite only. The test of faults runs on every store, and so do the tests of subscriptions in tests/api."""
    folder = tmp_path_factory.mktemp("pushes")
    with configured(None, folder) as config:
        with config.open("a") as file:
            file.write(CONFIG)
        with running(folder / "state", options=options_of(config)) as server, Service(server) as service:
            yield service


def until(condition: Callable[[], object], complaint: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
def test_messages_posted_over_http_are_pushed_in_the_format_of_the_subscription(service: Service, form: Any) -> None:
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


def test_many_messages_with_a_filter_are_pushed_in_order(service: Service) -> None:
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


def test_a_reader_that_is_too_slow_is_closed_and_delays_no_other(service: Service) -> None:
    text = "x" * 240_000
    with service.connect() as quick, service.connect() as slow:
        for socket in (quick, slow):
            assert socket.request("subscription_create", {"queue_name": "slow"}).status == 201
        # From now on the client reads nothing: the library pauses when some frames are unread.
        count = 60
        received = []
        for number in range(count):
            service.ask("POST", "/v2/queues/slow/messages", {"messages": [{"body": [number, text], "ttl": 60}]})
            received.append(quick.push()["body"][0])
        assert received == list(range(count))
        until(lambda: len(service.subscriptions("slow")) == 1, "the slow reader is still subscribed")
        # The code is 1006 if the close frame could not be sent, because the client reads nothing.
        assert slow.closed()[0] in (1006, 1013)
