# SPDX-License-Identifier: Apache-2.0
"""nginx with the sample configuration in front of the service: requests that wait, streams and WebSocket.

The tests shorten the times of the sample configuration and of requests by the same factor.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.sync.client import connect

from tests import servers
from tests.acceptance.event_loop_thread import EventLoopThread
from tests.acceptance.nginx import OTHER_SERVER, SAMPLE, SHUTDOWN_SECONDS, Nginx, password_of
from tests.acceptance.server import Server, start, wait_until
from tests.acceptance.stream_readers import Event, events_of
from zaqar.transport.wsgi.event_streams import HEARTBEAT_SECONDS

WAIT = 2
"""Replaces the 20 seconds that a request may wait."""

READ_SECONDS = WAIT * 3
STREAM_SECONDS = int(HEARTBEAT_SECONDS) + 5
CHANGES = {
    "proxy_read_timeout 60s": f"proxy_read_timeout {READ_SECONDS}s",
    "_timeout 75s": f"_timeout {STREAM_SECONDS}s",
}
CLIENT = str(uuid.uuid4())
SECONDS = 30.0
USER = {"Authorization": password_of("shop")}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "zaqar.conf").write_text("[signed_url]\nsecret_key = a-key-that-only-this-test-has-and-knows\n")
    server = start(folder / "state", options=("--config-file", str(folder / "zaqar.conf"), "--workers", "1"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def nginx(service: Server) -> Iterator[Nginx]:
    http, websocket = f"{service.host}:{service.port}", service.websocket_url.removeprefix("ws://")
    with servers.folder_for("nginx") as folder, Nginx(http, websocket, folder, CHANGES) as proxy:
        yield proxy


class QuietStream:
    """A stream of a queue without messages, which is open while the other tests run."""

    def __init__(self, nginx: Nginx, loop: EventLoopThread) -> None:
        self.events: list[Event] = []
        self.opened = float("inf")
        """A time on the monotonic clock."""
        self._nginx = nginx
        self._reading = loop.begin(self._read())

    async def _read(self) -> None:
        async with aclosing(stream(self._nginx, "quiet")) as found:
            async for event in found:
                self.events.append(event)
                self.opened = min(self.opened, time.monotonic())

    def is_open(self) -> bool:
        """Whether the stream goes on. Raises the error of the reader if there was one."""
        if self._reading.done():
            self._reading.result()
            return False
        return True


@pytest.fixture(scope="module", autouse=True)
def quiet(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietStream]:
    """A quiet stream through an nginx of its own, which is not reloaded."""
    http, websocket = f"{service.host}:{service.port}", service.websocket_url.removeprefix("ws://")
    with (
        servers.folder_for("nginx") as folder,
        Nginx(http, websocket, folder, CHANGES) as proxy,
        EventLoopThread() as loop,
    ):
        yield QuietStream(proxy, loop)


def ask(nginx: Nginx, method: str, path: str, document: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    with closing(
        http.client.HTTPSConnection("127.0.0.1", nginx.port, timeout=SECONDS, context=nginx.tls)
    ) as connection:
        sent = {"Client-ID": CLIENT, "Content-Type": "application/json", **(headers or USER)}
        connection.request(method, path, None if document is None else json.dumps(document), sent)
        response = connection.getresponse()
        body = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, dict(response.headers), json.loads(body) if is_json and body else body


def post(nginx: Nginx, queue: str, *bodies: Any) -> list[str]:
    document = {"messages": [{"body": body, "ttl": 600} for body in bodies]}
    status, _, answer = ask(nginx, "POST", f"/v2/queues/{queue}/messages", document)
    assert status == 201, answer
    return [href.rpartition("/")[2] for href in answer["resources"]]


def stream(nginx: Nginx, queue: str, query: str = "", **headers: str) -> AsyncIterator[Event]:
    sent = {"Client-ID": CLIENT, **(headers or USER)}
    return events_of("127.0.0.1", nginx.port, f"/v2/queues/{queue}/messages{query}", sent, tls=nginx.tls)


def signed(nginx: Nginx, queue: str) -> dict[str, str]:
    """The query of a pre-signed URL."""
    expires = (datetime.now(UTC) + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%S")
    terms = {"paths": ["messages"], "methods": ["GET"], "expires": expires}
    status, _, share = ask(nginx, "POST", f"/v2/queues/{queue}/share", terms)
    assert status == 200, share
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in share.items()}


# -- limits, and servers that cannot be reached ----------------------------------------------------------------------


@contextmanager
def proxy_of(first: str, second: str | None = None, **changes: str) -> Iterator[Nginx]:
    """An nginx in front of one or two servers. ``changes`` maps the begin of settings to their new values."""
    others = {} if second is None else {OTHER_SERVER: f"server {second} "}
    for name, value in changes.items():
        (setting,) = set(re.findall(rf"(?<=[ ]){name}[ =].*?;", SAMPLE.read_text()))
        others[setting] = value
    with servers.folder_for("nginx") as folder, Nginx(first, first, folder, others) as made:
        yield made


def test_a_flood_from_one_address_is_refused() -> None:
    nobody = f"127.0.0.1:{servers.free_port()}"
    with proxy_of(nobody, rate="rate=1r/m;", burst="burst=2 nodelay;") as nginx:
        assert [ask(nginx, "GET", "/v2/queues")[0] for _ in range(3)] == [502] * 3
        status, headers, _ = ask(nginx, "GET", "/v2/queues")
        assert (status, headers["Retry-After"]) == (429, "1")


def test_too_many_requests_at_a_time_from_one_address_are_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        proxy_of(f"127.0.0.1:{silent.getsockname()[1]}", zaqar_connections="zaqar_connections 1;") as nginx,
        closing(http.client.HTTPSConnection("127.0.0.1", nginx.port, timeout=SECONDS, context=nginx.tls)) as held,
    ):
        held.request("GET", "/v2/queues", headers=USER)
        silent.settimeout(SECONDS)
        accepted, _ = silent.accept()
        with accepted:
            status, headers, _ = ask(nginx, "GET", "/v2/queues")
            assert (status, headers["Retry-After"]) == (429, "1")


def test_a_body_that_is_too_large_is_refused(nginx: Nginx) -> None:
    document = {"messages": [{"body": "x" * 1024 * 1024, "ttl": 60}]}
    assert ask(nginx, "POST", "/v2/queues/q/messages", document)[0] == 413
    document = {"messages": [{"body": "x" * 512 * 1024, "ttl": 60}]}
    # The service has refused this one.
    status, _, answer = ask(nginx, "POST", "/v2/queues/q/messages", document)
    assert (status, answer["title"]) == (400, "Invalid input")


def test_a_post_goes_to_another_server_if_one_refuses_connections(service: Server) -> None:
    nobody, somebody = f"127.0.0.1:{servers.free_port()}", f"{service.host}:{service.port}"
    with proxy_of(nobody, somebody) as nginx:
        for number in range(4):
            post(nginx, "reached", number)


class Closer(threading.Thread):
    """A server that reads each request and closes the connection without an answer, like one that is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.methods: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if not (request := connection.recv(65_536)):
                    return
                self.methods.append(request.partition(b" ")[0].decode())

    def close(self) -> None:
        # A connection without a request ends the thread.
        socket.create_connection(self._listener.getsockname(), timeout=SECONDS).close()
        self.join()
        self._listener.close()


def test_a_post_that_was_sent_is_never_sent_again() -> None:
    first, second = Closer(), Closer()
    with closing(first), closing(second), proxy_of(first.address, second.address, max_fails="max_fails=0;") as nginx:
        first.start()
        second.start()
        for method in ("POST", "PATCH", "GET", "PUT", "DELETE"):
            assert ask(nginx, method, "/v2/queues/q")[0] == 502
    methods = Counter([*first.methods, *second.methods])
    assert methods == {"POST": 1, "PATCH": 1, "GET": 2, "PUT": 2, "DELETE": 2}


# -- requests that wait -----------------------------------------------------------------------------------------------


def test_a_waiting_claim_is_not_cut_off(nginx: Nginx) -> None:
    began = time.monotonic()
    status, _, _ = ask(nginx, "POST", f"/v2/queues/idle/claims?wait={WAIT}", {"ttl": 60, "grace": 60})
    assert status == 204
    assert time.monotonic() - began >= WAIT


def test_a_message_ends_the_wait_through_the_proxy(nginx: Nginx) -> None:
    timer = threading.Timer(0.3, post, (nginx, "jobs", "work"))
    timer.start()
    # On a busy machine the post may come late, so the claim waits as long as the proxy allows.
    status, _, claim = ask(nginx, "POST", f"/v2/queues/jobs/claims?wait={READ_SECONDS - 1}", {"ttl": 60, "grace": 60})
    timer.join()
    assert status == 201
    assert [message["body"] for message in claim["messages"]] == ["work"]


def test_a_client_that_disconnects_takes_no_message(nginx: Nginx) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", nginx.port, timeout=SECONDS, context=nginx.tls)
    headers = {"Client-ID": CLIENT, "Content-Type": "application/json", **USER}
    connection.request("POST", "/v2/queues/left/claims?wait=20", '{"ttl": 60, "grace": 60}', headers)
    time.sleep(0.3)
    connection.close()
    # nginx has noticed it, and has closed its connection to the service.
    wait_until(lambda: re.search("/v2/queues/left/claims.* 499 ", nginx.log("zaqar.log")))
    post(nginx, "left", "for the next one")
    status, _, claim = ask(nginx, "POST", f"/v2/queues/left/claims?wait={WAIT}", {"ttl": 60, "grace": 60})
    assert status == 201
    assert [message["body"] for message in claim["messages"]] == ["for the next one"]


# -- streams ----------------------------------------------------------------------------------------------------------


async def first(events: AsyncIterator[Event], kind: str) -> Event:
    async with asyncio.timeout(SECONDS):
        async for event in events:
            if event.kind == kind:
                return event
    raise AssertionError(f"the stream ended without {kind}")


def test_each_event_is_passed_on_at_once(nginx: Nginx) -> None:
    """A proxy that buffers would wait for more data. Here each message is posted after the previous one has arrived."""

    async def follow() -> None:
        async with aclosing(stream(nginx, "live")) as events:
            await first(events, "open")
            for number in range(5):
                await asyncio.to_thread(post, nginx, "live", number)
                assert (await first(events, "message")).data["body"] == number

    asyncio.run(follow())


def test_a_reader_resumes_after_a_reload(nginx: Nginx) -> None:
    seen: list[int] = []
    markers: list[str] = []

    async def read(query: str, **headers: str) -> None:
        async with aclosing(stream(nginx, "reloaded", query, **USER, **headers)) as events:
            async for event in events:
                markers.append(event.marker)
                seen.extend([event.data["body"]] if event.kind == "message" else [])

    async def read_until(count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(seen) < count:
                await asyncio.sleep(0.02)

    async def follow() -> None:
        await asyncio.to_thread(post, nginx, "reloaded", 0, 1)
        reading = asyncio.create_task(read("?from=oldest"))
        await read_until(2)
        nginx.reload()
        async with asyncio.timeout(SHUTDOWN_SECONDS + SECONDS):
            with pytest.raises((EOFError, OSError)):
                await reading
        await asyncio.to_thread(post, nginx, "reloaded", 2, 3)
        # A browser that reconnects uses the same URL.
        resumed = asyncio.create_task(read("?from=oldest", **{"Last-Event-ID": markers[-1]}))
        await read_until(4)
        resumed.cancel()
        await asyncio.wait([resumed])

    asyncio.run(follow())
    assert seen == [0, 1, 2, 3]


def test_a_signature_needs_no_password_and_is_not_logged(nginx: Nginx) -> None:
    (id_,) = post(nginx, "signed", "secret")
    query = signed(nginx, "signed")

    async def follow() -> None:
        events = stream(nginx, "signed", f"?{urllib.parse.urlencode(query)}&from=oldest", Accept="text/event-stream")
        async with aclosing(events):
            event = await first(events, "message")
            assert (event.data["id"], event.data["body"]) == (id_, "secret")

    asyncio.run(follow())
    wait_until(lambda: "GET /v2/queues/signed/messages HTTP" in nginx.log("zaqar.log"))
    assert query["signature"] not in nginx.logs()


def test_a_signature_is_not_logged_if_the_service_is_away() -> None:
    nobody = f"127.0.0.1:{servers.free_port()}"
    with servers.folder_for("nginx") as folder, Nginx(nobody, nobody, folder, {}) as away:
        status, _, _ = ask(away, "GET", "/v2/queues/q/messages?signature=abcdef0123", Accept="text/event-stream")
        assert status == 502
        wait_until(lambda: " 502 " in away.log("zaqar.log"))
        assert "abcdef0123" not in away.logs()


def test_a_user_cannot_name_another_project(nginx: Nginx) -> None:
    post(nginx, "private", "of shop")
    path = "/v2/queues/private/messages?echo=true"
    bank = password_of("bank")
    status, _, page = ask(nginx, "GET", path, Authorization=bank, **{"X-Project-ID": "shop"})
    assert (status, page["messages"]) == (200, [])
    status, _, _ = ask(nginx, "GET", path, Accept="application/json")
    assert status == 401
    # Neither the password nor the signature is valid.
    for extra in ("signature=bad", "signature=bad&project=shop", "Signature=bad"):
        status, _, answer = ask(nginx, "GET", f"{path}&{extra}", Authorization="Basic c2hvcDp3cm9uZw==")
        assert 400 <= status < 500, answer


def test_the_websocket_api_works_through_the_proxy(nginx: Nginx) -> None:
    with connect(f"wss://127.0.0.1:{nginx.port}/websocket", ssl=nginx.tls, proxy=None) as socket:
        headers = {"Client-ID": CLIENT, "X-Project-ID": "shop"}
        socket.send(json.dumps({"action": "queue_list", "headers": headers, "body": {}}))
        assert json.loads(socket.recv(SECONDS))["headers"]["status"] == 200


def test_a_stream_without_messages_lives_longer_than_the_time_out(quiet: QuietStream) -> None:
    """The stream was opened before the other tests."""
    deadline = time.monotonic() + STREAM_SECONDS + SECONDS
    while time.monotonic() < quiet.opened + STREAM_SECONDS + 1:
        assert quiet.is_open(), quiet.events
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {event.kind for event in quiet.events} == {"open", "beat"}
