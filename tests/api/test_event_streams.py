# SPDX-License-Identifier: Apache-2.0
"""Streams over HTTP: the bytes on the wire, where a stream starts or resumes, and when it ends."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.api.client import ALICE, BOB, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.event_streams import ACCEPT, Reader, ServerEvent
from zaqar.access.http_server import HttpServer
from zaqar.errors import StoreUnavailable
from zaqar.model import QUEUE, TOPIC, UID_LENGTH, QueueName
from zaqar.transport.wsgi import app as wsgi_app
from zaqar.transport.wsgi import event_streams, stream_turns
from zaqar.transport.wsgi.app import make_app
from zaqar.waiting import shared_reads

MESSAGES = "/v2/queues/q/messages"
NO_QUEUE = "0" * 36


class StreamingApi(Api):
    """A worker on memory stores, for a server that can hold many requests open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(DRIVERS["memory"], "", clock=FakeClock(), **options)
        self.application = make_app(self.parts)

    def stream(
        self, path: str = MESSAGES, *, accept: str = ACCEPT, environ: dict[str, Any] | None = None, **headers: str
    ) -> Reader:
        """Ask for a stream. ``Last_Event_ID=...`` is the header Last-Event-ID."""
        sent = {"Client-ID": ALICE, "X-Project-ID": self.project}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return Reader(self.application, path, sent, accept=accept, environ=environ)

    def look(self) -> None:
        """Make the hub do its periodic work now, which it otherwise does every second."""
        self.parts.hub._look_at_all()

    @property
    def counted(self) -> tuple[int, int, int]:
        """The numbers of streams, of streams of the project, and of all waiting requests."""
        registry = self.parts.hub.registry
        return registry.streams, registry._of_projects[True, self.project], registry.waiting


@pytest.fixture
def make_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StreamingApi]]:
    monkeypatch.setattr(wsgi_app, "find_http_server", lambda: HttpServer.GEVENT)
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> StreamingApi:
            api = StreamingApi(**options)
            stack.callback(api.close)
            return api

        yield make


@pytest.fixture
def api(make_api: Callable[..., StreamingApi]) -> StreamingApi:
    return make_api()


@pytest.fixture
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat comes at once if there is nothing else to send."""
    monkeypatch.setattr(event_streams, "HEARTBEAT_SECONDS", 0.01)


def opened(reader: Reader) -> str:
    """The position at which the stream has begun."""
    assert reader.status == 200
    event = reader.next()
    assert event.type == "open"
    assert event.json["position"] == event.last_id
    return event.last_id


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_a_stream_has_the_format_that_browsers_read(api: StreamingApi) -> None:
    first = api.send("q", 0)[0]
    with api.stream() as reader:
        assert reader.status == 200
        assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.headers["cache-control"] == "no-store"
        assert reader.headers["x-accel-buffering"] == "no"
        assert "content-length" not in reader.headers
        position = f'{{"queue":"q","position":"{first}"}}'
        assert reader.piece() == f"retry: 2000\n\nid: {first}\nevent: open\ndata: {position}\n\n".encode()

        id_ = api.send("q", {"a": "ü"}, client=BOB)[0]

        message = f'{{"id":"{id_}","href":"{MESSAGES}/{id_}","ttl":300,"age":0,"body":{{"a": "\\u00fc"}}}}'
        assert reader.piece() == f"id: {id_}\nevent: message\ndata: {message}\n\n".encode()


def test_a_message_has_the_same_members_as_in_the_listing(make_api: Callable[..., StreamingApi]) -> None:
    api = make_api(enable_checksum=True)
    api.put("/v2/queues/q", {"_dead_letter_queue": "dead", "_max_claim_count": 1})
    api.send("q", {"n": 1})
    api.claim("q", ttl=60)
    api.clock.advance(61)
    api.claim("q")
    api.claim("dead")

    listed = api.get("/v2/queues/dead/messages?echo=true&include_claimed=true&include_origin=true").json["messages"]
    with api.stream("/v2/queues/dead/messages?from=oldest&include_origin=true") as reader:
        opened(reader)
        streamed = reader.next().json

    assert [streamed] == listed
    assert streamed["origin"]["queue"] == "q"
    assert "?claim_id=" in streamed["href"]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_a_line_break_in_a_body_breaks_no_event(api: StreamingApi, line_break: str) -> None:
    body = line_break.join(["{", '"a": [1,', '2], "text": "\\r\\n\\u2028"', "}"])
    raw = f'{{"messages": [{{"body": {body}, "ttl": 300}}]}}'.encode()
    assert api.post(MESSAGES, raw=raw).status_code == 201

    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        assert reader.bodies(1) == [json.loads(body)]


def test_heartbeats_are_sent_on_an_idle_connection(api: StreamingApi, quick_heartbeats: None) -> None:
    with api.stream() as reader:
        opened(reader)
        assert reader.piece() == b": beat\n\n"
        api.send("q", 1)
        while not (piece := reader.piece()).startswith(b"id: "):
            assert piece == b": beat\n\n"
    assert event_streams.HEARTBEAT_SECONDS < 1


def test_heartbeats_are_fifteen_seconds_apart() -> None:
    assert event_streams.HEARTBEAT_SECONDS == 15


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json;q=0.5, text/event-stream", True),
        ("*/*;q=0.1, text/event-stream;q=0.2", True),
        ("*/*", False),
        ("", False),
        ("application/json, text/event-stream", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream, */*", False),
    ],
)
def test_the_accept_header_selects_a_stream_or_a_page(api: StreamingApi, accept: str, is_stream: bool) -> None:
    with api.stream(accept=accept) as reader:
        kind = "text/event-stream; charset=utf-8" if is_stream else "application/json"
        assert (reader.status, reader.headers["content-type"]) == (200, kind)


def test_only_a_get_of_messages_is_a_stream(api: StreamingApi) -> None:
    id_ = api.send("q", 1)[0]
    for method, path in (
        ("GET", f"{MESSAGES}/{id_}"),
        ("GET", "/v2/queues"),
        ("GET", "/v2/queues/q"),
        ("POST", MESSAGES),
        ("DELETE", f"{MESSAGES}?pop=1"),
    ):
        result = api.request(method, path, headers={"Accept": ACCEPT})
        assert result.status_code == 406, (method, path)
        assert result.headers["content-type"] == "application/json"
    assert api.counts("q") == (1, 0, 1)


def test_a_server_with_a_thread_for_each_request_refuses_streams_and_says_why(
    make_api: Callable[..., StreamingApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in (HttpServer.GRANIAN, HttpServer.UWSGI, HttpServer.OTHER):
        monkeypatch.setattr(wsgi_app, "find_http_server", lambda server=server: server)
        reader = make_api().stream()
        assert reader.status == 406
        assert "gunicorn" in json.loads(reader.content)["description"]


# -- the position ------------------------------------------------------------------------------------------------------


def test_a_message_posted_after_the_open_event_is_sent(api: StreamingApi) -> None:
    api.send("q", "before")
    with api.stream() as reader:
        opened(reader)
        api.send("q", "after")
        assert reader.bodies(1) == ["after"]


def test_the_stream_of_a_missing_queue_waits_for_it(api: StreamingApi) -> None:
    with api.stream() as reader:
        assert opened(reader) == NO_QUEUE
        api.send("q", 1, 2)
        assert reader.bodies(2) == [1, 2]


def test_a_reader_that_waited_for_a_queue_resumes_at_its_start(api: StreamingApi) -> None:
    with api.stream() as reader:
        last = opened(reader)
    api.send("q", 1)
    with api.stream(Last_Event_ID=last) as reader:
        assert opened(reader) == NO_QUEUE
        assert reader.bodies(1) == [1]


def test_a_stream_begins_with_the_oldest_message_if_requested(api: StreamingApi) -> None:
    api.send("q", *range(50))
    with api.stream(f"{MESSAGES}?from=oldest&limit=7") as reader:
        opened(reader)
        assert reader.bodies(50) == list(range(50))


def test_a_stream_resumes_at_a_marker(api: StreamingApi) -> None:
    ids = api.send("q", *range(6))
    api.delete(f"{MESSAGES}/{ids[2]}")
    with api.stream(f"{MESSAGES}?marker={ids[2]}") as reader:
        assert opened(reader) == ids[2]
        assert reader.bodies(3) == [3, 4, 5]


def test_the_last_event_id_takes_precedence_over_the_query(api: StreamingApi) -> None:
    ids = api.send("q", *range(6))
    for query in (f"marker={ids[0]}", "from=oldest", "from=now"):
        with api.stream(f"{MESSAGES}?{query}", Last_Event_ID=ids[3]) as reader:
            assert opened(reader) == ids[3]
            assert reader.bodies(2) == [4, 5]


def test_a_reader_that_saw_no_message_resumes_at_its_position(api: StreamingApi) -> None:
    api.send("q", "before")
    with api.stream() as reader:
        last = opened(reader)
    api.send("q", "between")
    with api.stream(Last_Event_ID=last) as reader:
        opened(reader)
        assert reader.bodies(1) == ["between"]


def test_a_queue_that_was_created_again_is_read_from_its_start(api: StreamingApi) -> None:
    old = api.send("q", "old", "older")[1]
    api.delete("/v2/queues/q")
    new = api.send("q", 1)[0]
    start = new[:UID_LENGTH] + "0" * 12
    with api.stream(Last_Event_ID=old) as reader:
        assert opened(reader) == old
        reset = reader.next()
        assert reset == ServerEvent("reset", f'{{"reason":"recreated","position":"{start}"}}', start)
        assert reader.bodies(1) == [1]


def test_a_stream_goes_on_after_its_queue_is_deleted_and_created_again(
    api: StreamingApi, quick_heartbeats: None
) -> None:
    api.send("q", 0)
    with api.stream() as reader:
        opened(reader)
        api.delete("/v2/queues/q")
        api.look()
        assert reader.next().type == ":"
        api.send("q", 1)
        while (event := reader.next()).type == ":":
            pass
        assert event.type == "reset"
        assert reader.bodies(1) == [1]


def test_the_stream_of_a_deleted_topic_ends_permanently(api: StreamingApi) -> None:
    messages = "/v2/topics/t/messages"
    api.post(messages, {"messages": [{"body": 1, "ttl": 300}]})
    with api.stream(messages) as reader:
        last = opened(reader)
        api.delete("/v2/topics/t")
        api.look()
        assert reader.next() == ServerEvent("bye", '{"reason":"deleted"}', last)
        assert reader.piece() == b""

    again = api.stream(messages, Last_Event_ID=last)
    assert (again.status, again.content) == (204, b"")
    assert api.counted == (0, 0, 0)
    # A client that did not read the deleted topic waits for the topic.
    for headers in ({}, {"Last_Event_ID": NO_QUEUE}):
        with api.stream(messages, **headers) as reader:
            assert opened(reader) == NO_QUEUE


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("marker=5", {}, "marker"),
        (f"marker={'G' * 36}", {}, "marker"),
        ("", {"Last_Event_ID": "1"}, "Last-Event-ID"),
        (f"marker={NO_QUEUE}", {"Last_Event_ID": "A" * 36}, "Last-Event-ID"),
        ("marker=5", {"Last_Event_ID": NO_QUEUE}, "marker"),
        ("from=then", {}, "from"),
        (f"from=now&marker={NO_QUEUE}", {}, "from"),
        ("limit=0", {}, "limit"),
        ("limit=21", {}, "limit"),
        ("echo=perhaps", {}, "echo"),
        ("include_origin=2", {}, "include_origin"),
        (f"ids={NO_QUEUE}", {}, "ids"),
    ],
)
def test_a_malformed_value_is_named(api: StreamingApi, query: str, headers: dict[str, str], field: str) -> None:
    reader = api.stream(f"{MESSAGES}?{query}", **headers)
    assert reader.status == 400
    assert json.loads(reader.content)["description"].startswith(f"{field}: ")
    assert api.counted == (0, 0, 0)


# -- delayed and own messages ------------------------------------------------------------------------------------------


def test_a_delayed_message_is_sent_when_due_and_not_lost_by_a_reconnect(api: StreamingApi) -> None:
    start = api.send("q", 0)[0]
    delayed = api.send("q", "late", delay=30)[0]
    prompt = api.send("q", 1, 2)
    with api.stream(f"{MESSAGES}?marker={start}") as reader:
        opened(reader)
        events = reader.take(2)
        assert [event.json["id"] for event in events] == prompt
        # Posted before the delayed message is due.
        assert {event.last_id for event in events} == {start}
        api.clock.advance(30)
        event = reader.next()
        assert (event.json["id"], event.last_id) == (delayed, prompt[1])

    with api.stream(Last_Event_ID=start) as reader:
        opened(reader)
        assert reader.bodies(3) == ["late", 1, 2]


def test_a_stream_sends_a_delayed_message_in_time_without_a_wakeup(api: StreamingApi) -> None:
    api.send("q", "late", delay=1)
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        api.clock.advance(0.75)
        # No post wakes the stream.
        timer = threading.Timer(0.05, api.clock.advance, [0.25])
        timer.start()
        began = time.monotonic()
        assert reader.bodies(1) == ["late"]
        assert time.monotonic() - began < event_streams.HEARTBEAT_SECONDS / 2
        timer.join()


def test_own_messages_are_sent_unless_echo_is_off(api: StreamingApi) -> None:
    api.send("q", "mine")
    api.send("q", "yours", client=BOB)
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        assert reader.bodies(2) == ["mine", "yours"]
    with api.stream(f"{MESSAGES}?from=oldest&echo=false") as reader:
        opened(reader)
        assert reader.bodies(1) == ["yours"]


def test_a_heartbeat_carries_the_position_of_a_reader_that_skips_messages(
    api: StreamingApi, quick_heartbeats: None
) -> None:
    api.send("q", "yours", client=BOB)
    last = api.send("q", *range(30))[-1]
    with api.stream(f"{MESSAGES}?from=oldest&echo=false") as reader:
        opened(reader)
        while reader.parser.last_id != last:
            reader.piece()


def test_claimed_messages_are_sent_too(api: StreamingApi) -> None:
    api.send("q", 1)
    api.claim("q")
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        assert reader.bodies(1) == [1]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_large_messages_are_sent_in_small_batches(
    make_api: Callable[..., StreamingApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api(transport__max_messages_per_page=1000)
    bodies = [f"{number}-{'x' * size}" for number, size in enumerate([100_000] * 9 + [200_000, 10] * 5 + [10] * 400)]
    for start in range(0, len(bodies), 200):
        for body in bodies[start : start + 200]:
            api.send("q", body)
    sizes: list[int] = []
    read = api.parts.streams.bodies.show

    def show(project: str, messages: list[Any]) -> list[Any]:
        sizes.append(sum(len(message.body) for message in messages))
        return read(project, messages)

    monkeypatch.setattr(api.parts.streams.bodies, "show", show)
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        assert reader.bodies(len(bodies)) == bodies
    assert max(sizes) <= 256 * 1024
    assert len(sizes) < 30


def test_a_reader_with_a_backlog_does_not_delay_other_readers(
    api: StreamingApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    monkeypatch.setattr(stream_turns, "time", SimpleNamespace(sleep=turns.append))
    for _ in range(5):
        api.send("q", *("x" * 9_000 for _ in range(20)))
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        written = []
        while reader.parser.last_id[UID_LENGTH:] != f"{100:012x}":
            written.append(len(reader.piece()))
    assert len(written) == 50
    assert max(written) < 16 * 1024 + 10_000
    # The stream gives up its turn when the server asks for the next piece.
    assert len(turns) >= len(written) - 1
    assert set(turns) == {0}


def test_the_number_of_streams_is_limited(make_api: Callable[..., StreamingApi]) -> None:
    api = make_api(transport__max_streams=3, transport__max_streams_per_project=2)
    with api.stream(), api.stream():
        assert api.counted == (2, 2, 2)
        refused = api.stream()
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        assert "The project" in json.loads(refused.content)["description"]
        with api.stream(X_Project_ID="other"):
            refused = api.stream(X_Project_ID="another")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert refused.headers["content-type"] == "application/json"
            assert "This server" in json.loads(refused.content)["description"]
    assert api.counted == (0, 0, 0)
    with api.stream() as reader:
        opened(reader)


def test_streams_leave_room_for_requests_that_wait(make_api: Callable[..., StreamingApi]) -> None:
    api = make_api(transport__max_waiting_clients=0)
    with api.stream() as reader:
        opened(reader)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_drain_ends_all_streams_and_those_that_begin_later_at_once(api: StreamingApi) -> None:
    readers = [api.stream(), api.stream()]
    last = [opened(reader) for reader in readers]
    api.parts.hub.drain()
    for reader, position in zip(readers, last, strict=True):
        assert reader.next() == ServerEvent("bye", '{"reason":"drain"}', position)
        assert reader.parser.retry is not None
        assert 500 <= reader.parser.retry <= 2500
        assert reader.piece() == b""
        reader.close()
    # An error would make a browser give up. This way it comes back, to another process.
    with api.stream() as late:
        position = opened(late)
        assert late.next() == ServerEvent("bye", '{"reason":"drain"}', position)
        assert late.piece() == b""
    assert api.counted == (0, 0, 0)


def test_a_drain_does_not_wait_for_a_batch(api: StreamingApi) -> None:
    for _ in range(2):
        api.send("q", *("x" * 10_000 for _ in range(20)))
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        reader.piece()
        api.parts.hub.drain()
        events = [reader.next()]
        while events[-1].type == "message":
            events.append(reader.next())
        assert events[-1].type == "bye"
        assert len(events) < 6


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_disconnected_client_leaves_nothing(api: StreamingApi, pieces: int) -> None:
    api.send("q", 1)
    reader = api.stream(f"{MESSAGES}?from=oldest")
    for _ in range(pieces):
        reader.piece()
    assert api.counted == (1, 1, 1)
    reader.close()
    reader.close()
    assert api.counted == (0, 0, 0)


@pytest.mark.parametrize("is_posted", [False, True])
def test_a_disconnected_client_is_noticed_before_a_write(
    api: StreamingApi, monkeypatch: pytest.MonkeyPatch, *, is_posted: bool
) -> None:
    api.send("q", 0)
    ours, theirs = socket.socketpair()
    with ours, theirs, api.stream(environ={"gunicorn.socket": ours}) as reader:
        opened(reader)
        api.send("q", 1)
        assert reader.bodies(1) == [1]
        theirs.close()
        if is_posted:
            api.send("q", 2)
        else:
            monkeypatch.setattr(event_streams, "HEARTBEAT_SECONDS", 0.0)
            reader._body._beat_at = 0.0
        assert reader.piece() == b""


def test_a_stream_that_cannot_begin_leaves_nothing(api: StreamingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    api.send("q", 1)
    monkeypatch.setattr(api._messages.queues, "positions", away)
    reader = api.stream()
    assert (reader.status, reader.headers["retry-after"]) == (503, "1")
    assert api.counted == (0, 0, 0)


def test_an_outage_of_the_store_ends_no_stream(
    api: StreamingApi, monkeypatch: pytest.MonkeyPatch, quick_heartbeats: None
) -> None:
    monkeypatch.setattr(event_streams, "MAX_OUTAGE_PAUSE", 0.02)
    api.send("q", 0)
    list_messages, failed = api._messages.messages.list_after, []

    def away(**_: object) -> None:
        failed.append(True)
        raise StoreUnavailable

    monkeypatch.setattr(api._messages.messages, "list_after", away)
    with api.stream() as reader:
        opened(reader)
        api.send("q", 1)
        while len(failed) < 3:
            assert reader.piece() == b": beat\n\n"
        monkeypatch.setattr(api._messages.messages, "list_after", list_messages)
        while (event := reader.next()).type == ":":
            pass
        assert event.json["body"] == 1


def test_readers_at_one_position_cost_one_read(api: StreamingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine fifty readers in sequence may take longer than a result is cached.
    monkeypatch.setattr(shared_reads, "KEEP_SECONDS", 3600.0)
    api.send("q", 0)
    list_messages, calls = api._messages.messages.list_after, []

    def counted(**named: Any) -> Any:
        calls.append(named)
        return list_messages(**named)

    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(api.stream()) for _ in range(50)]
        for reader in readers:
            opened(reader)
        monkeypatch.setattr(api._messages.messages, "list_after", counted)
        api.send("q", 1)
        assert [reader.bodies(1) for reader in readers] == [[1]] * 50
    assert len(calls) == 1


def test_a_message_deleted_after_it_was_read_is_not_sent(api: StreamingApi) -> None:
    ids = api.send("q", 1, 2)
    with api.stream(f"{MESSAGES}?from=oldest") as reader:
        opened(reader)
        assert reader.bodies(2) == [1, 2]
        api.delete(f"{MESSAGES}/{ids[0]}")
        api.clock.advance(1)
        with api.stream(f"{MESSAGES}?from=oldest") as second:
            opened(second)
            assert second.bodies(1) == [2]


def test_the_streams_of_a_topic_and_a_queue_with_one_name_are_separate(api: StreamingApi) -> None:
    api.send("q", "queue")
    with api.stream("/v2/topics/q/messages?from=oldest") as reader:
        opened(reader)
        assert api.parts.hub.registry._queues.keys() == {QueueName(api.project, TOPIC, "q")}
        api.post("/v2/topics/q/messages", {"messages": [{"body": "topic", "ttl": 300}]})
        assert reader.bodies(1) == ["topic"]
    assert QueueName(api.project, QUEUE, "q") not in api.parts.hub.registry._queues
