# SPDX-License-Identifier: Apache-2.0
"""The spans of a running server, as a receiver of OTLP gets them, and a receiver that is away or silent."""

from __future__ import annotations

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.acceptance.server import COMMAND, HTTP_COMMAND, Server, running, wait_until
from tests.acceptance.span_receiver import receiving_spans
from tests.acceptance.webhook_sinks import Sink, Sinks

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PRODUCER = "00f067aa0ba902b7"
CONSUMER = "b7ad6b7169203331"
QUEUE = "/v2/queues/orders"
CALLER = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": "shop"}
ROUTE = "/v2/queues/{queue_name}"


def call(server: Server, method: str, path: str, body: object = None, *, span: str | None = None) -> Any:
    """The JSON of the answer. ``span`` is the caller's own span in the trace."""
    headers = {**CALLER, "Content-Type": "application/json"}
    if span is not None:
        headers["traceparent"] = f"00-{TRACE_ID}-{span}-01"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def settings(endpoint: str) -> dict[str, str]:
    return {
        "OS_TRACING__ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OS_NOTIFICATION__WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }


@pytest.mark.parametrize("http_server", ["gunicorn", "granian"])
def test_one_trace_from_publish_over_claim_to_webhook(tmp_path: Path, http_server: str) -> None:
    sink = Sink()
    options = ("--workers", "2", "--server", http_server)
    with receiving_spans() as receiver, Sinks(sink):
        environment = settings(receiver.endpoint)
        with running(tmp_path / "state", options=options, environment=environment, command=HTTP_COMMAND) as server:
            call(server, "POST", f"{QUEUE}/subscriptions", {"subscriber": sink.url, "ttl": 3600})
            message = {"body": "planted-body", "ttl": 300}
            call(server, "POST", f"{QUEUE}/messages", {"messages": [message]}, span=PRODUCER)
            claimed = call(server, "POST", f"{QUEUE}/claims?include_trace=true&x=planted", {}, span=CONSUMER)
            wait_until(lambda: sink.receipts)
            # A worker exports while it runs.
            wait_until(lambda: receiver.named(f"POST {ROUTE}/messages"))
            # A server that ends exports its last spans: this request has just been answered.
            call(server, "GET", QUEUE, span="c" * 16)
        (posted,) = receiver.named(f"POST {ROUTE}/messages")
        (taken,) = receiver.named(f"POST {ROUTE}/claims")
        (delivered,) = receiver.named("POST")
        (last,) = receiver.named(f"GET {ROUTE}")
    assert {span.trace for span in receiver.spans} == {TRACE_ID}
    assert len(receiver.spans) == 4
    assert (posted.kind, posted.service, posted.parent) == ("SPAN_KIND_SERVER", "zaqar-api", PRODUCER)
    assert (taken.kind, taken.parent, taken.links) == ("SPAN_KIND_SERVER", CONSUMER, (posted.id,))
    assert (delivered.kind, delivered.service) == ("SPAN_KIND_CLIENT", "zaqar-notifier")
    assert delivered.parent == posted.id
    assert last.parent == "c" * 16
    # The consumer of a message is a child of the post, and the receiver of a webhook one of the delivery.
    (message,) = claimed["messages"]
    assert message["trace"] == {"traceparent": f"00-{TRACE_ID}-{posted.id}-01"}
    assert sink.receipts[0].headers["traceparent"] == f"00-{TRACE_ID}-{delivered.id}-01"
    assert delivered.attributes["server.address"] == "127.0.0.1"
    assert delivered.attributes["server.port"] == sink.port
    assert delivered.attributes["http.response.status_code"] == 200
    assert delivered.attributes["zaqar.delivery.try"] == 1
    assert delivered.attributes["zaqar.request.id"] == posted.attributes["zaqar.request.id"]
    assert not any("planted" in str(span) or "/hook" in str(span) for span in receiver.spans)


def test_the_trace_of_a_frame_goes_on_to_the_webhook(tmp_path: Path) -> None:
    sink = Sink()
    with receiving_spans() as receiver, Sinks(sink):
        with running(tmp_path / "state", environment=settings(receiver.endpoint), command=COMMAND) as server:
            call(server, "POST", f"{QUEUE}/subscriptions", {"subscriber": sink.url, "ttl": 3600})
            frame = {
                "action": "message_post",
                "headers": {**CALLER, "traceparent": f"00-{TRACE_ID}-{PRODUCER}-01"},
                "body": {"queue_name": "orders", "messages": [{"body": 1, "ttl": 300}]},
            }
            with connect(server.websocket_url) as connection:
                connection.send(json.dumps(frame))
                assert json.loads(connection.recv())["headers"]["status"] == 201
            wait_until(lambda: sink.receipts)
        (posted,) = receiver.named("message_post")
        (delivered,) = receiver.named("POST")
    assert (posted.service, posted.kind, posted.parent) == ("zaqar-websocket", "SPAN_KIND_SERVER", PRODUCER)
    assert delivered.parent == posted.id
    assert {span.trace for span in receiver.spans} == {TRACE_ID}


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_receiver_that_is_away_or_silent_disturbs_nothing(tmp_path: Path, is_silent: bool) -> None:
    """Each post and its notification succeed, and the server ends in order."""
    sink = Sink()
    with socket.create_server(("127.0.0.1", 0)) as silent, Sinks(sink):
        if not is_silent:
            silent.close()
        port = silent.getsockname()[1] if is_silent else 9
        environment = settings(f"http://127.0.0.1:{port}") | {"OTEL_BSP_MAX_QUEUE_SIZE": "10"}
        with running(tmp_path / "state", environment=environment, command=HTTP_COMMAND) as server:
            call(server, "POST", f"{QUEUE}/subscriptions", {"subscriber": sink.url, "ttl": 3600})
            for number in range(50):
                message = {"body": number, "ttl": 300}
                call(server, "POST", f"{QUEUE}/messages", {"messages": [message]}, span=PRODUCER)
            wait_until(lambda: len(sink.receipts) == 50)
            assert server.terminate() == 0
