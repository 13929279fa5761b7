# SPDX-License-Identifier: Apache-2.0
"""The trace context of a request goes with its messages, and is shown on request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import ALICE, Api
from zaqar.transport.websocket.session import Sessions

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
HEADERS: dict[str, str | None] = {"traceparent": PARENT, "tracestate": "rojo=1"}
SHOWN = {"traceparent": PARENT, "tracestate": "rojo=1"}


def post(api: Api, *messages: dict[str, Any], headers: dict[str, str | None] = HEADERS) -> list[str]:
    result = api.post("/v2/queues/q/messages", {"messages": list(messages)}, headers=headers)
    assert result.status_code == 201, result.text
    return [href.rpartition("/")[2] for href in result.json["resources"]]


@pytest.fixture
def ids(api: Api) -> list[str]:
    own = {"body": 2, "ttl": 60, "trace": {"traceparent": OWN}}
    return [*post(api, {"body": 1, "ttl": 60}, own), *post(api, {"body": 3, "ttl": 60}, headers={})]


TRACES = [SHOWN, {"traceparent": OWN}, None]


def traces(messages: list[dict[str, Any]]) -> list[object]:
    return [message.get("trace") for message in messages]


def test_a_listing_shows_traces_on_request(api: Api, ids: list[str]) -> None:
    path = "/v2/queues/q/messages?echo=true"
    assert traces(api.get(f"{path}&include_trace=true").json["messages"]) == TRACES
    for query in ("", "&include_trace=false"):
        assert all("trace" not in message for message in api.get(path + query).json["messages"])
    next_page = api.get(f"{path}&include_trace=true&limit=1").json["links"][0]["href"]
    assert traces(api.get(next_page).json["messages"]) == TRACES[1:2]
    assert api.get(f"{path}&include_trace=perhaps").status_code == 400


def test_each_way_to_read_shows_traces_on_request(api: Api, ids: list[str]) -> None:
    base = "/v2/queues/q"
    assert api.get(f"{base}/messages/{ids[0]}?include_trace=true").json["trace"] == SHOWN
    assert "trace" not in api.get(f"{base}/messages/{ids[0]}").json
    many = api.get(f"{base}/messages?ids={','.join(ids)}&include_trace=true").json["messages"]
    assert traces(many) == TRACES
    claimed = api.post(f"{base}/claims?include_trace=true&limit=2")
    assert traces(claimed.json["messages"]) == TRACES[:2]
    claim = claimed.headers["Location"]
    assert traces(api.get(f"{claim}?include_trace=true").json["messages"]) == TRACES[:2]
    assert "trace" not in api.get(claim).json["messages"][0]
    api.delete(claim)
    popped = api.delete(f"{base}/messages?pop=2&include_trace=true").json["messages"]
    assert traces(popped) == TRACES[:2]
    assert "trace" not in api.delete(f"{base}/messages?pop=1").json["messages"][0]


def test_a_context_that_is_not_valid_in_the_headers_is_ignored(api: Api) -> None:
    post(api, {"body": 1, "ttl": 60}, headers={"traceparent": "nonsense", "tracestate": "rojo=1"})
    post(api, {"body": 2, "ttl": 60}, headers={"tracestate": "rojo=1"})
    listed = api.get("/v2/queues/q/messages?echo=true&include_trace=true").json["messages"]
    assert traces(listed) == [None, None]


@pytest.mark.parametrize(
    ("trace", "field"),
    [
        ({"traceparent": "nonsense"}, "messages[0].trace.traceparent"),
        ({}, "messages[0].trace.traceparent"),
        ({"traceparent": 1}, "messages[0].trace.traceparent"),
        ("nonsense", "messages[0].trace"),
        ([], "messages[0].trace"),
    ],
)
def test_a_context_of_a_message_that_is_not_valid_is_refused_by_name(api: Api, trace: object, field: str) -> None:
    message = {"body": 1, "ttl": 60, "trace": trace}
    result = api.post("/v2/queues/q/messages", {"messages": [message]})
    assert result.status_code == 400
    assert field in result.json["description"]
    assert api.bodies("q") == []


def test_an_encrypted_message_has_its_context(make_api: Callable[..., Api]) -> None:
    """The body is encrypted, the context is not: tracing tools are not meant to read the body."""
    api = make_api(transport__message_encryption_key="base64:" + base64.b64encode(bytes(32)).decode())
    api.put("/v2/queues/q", {"_enable_encrypt_messages": True})
    post(api, {"body": 1, "ttl": 60})
    assert traces(api.get("/v2/queues/q/messages?echo=true&include_trace=true").json["messages"]) == [SHOWN]


def test_frames_of_the_websocket_api_have_contexts_too(api: Api) -> None:
    session = Sessions().open(api.parts, "c" * 32)

    def call(action: str, headers: dict[str, object] | None = None, **body: object) -> dict[str, Any]:
        sent = {"Client-ID": ALICE, "X-Project-ID": api.project, **(headers or {})}
        frame = json.dumps({"action": action, "headers": sent, "body": {"queue_name": "q", **body}})
        request = session.read(frame)
        reply = request.reply or session.answer(request)
        answer: dict[str, Any] = json.loads(reply.frame)
        assert answer["headers"]["status"] < 300, answer
        return dict(answer["body"])

    call("message_post", dict(HEADERS), messages=[{"body": 1, "ttl": 60}])
    for odd in (7, None, [PARENT], {"a": 1}):
        call("message_post", {"traceparent": odd, "tracestate": odd}, messages=[{"body": 2, "ttl": 60}])
    call("message_post", {"traceparent": PARENT, "tracestate": 7}, messages=[{"body": 3, "ttl": 60}])
    listed = call("message_list", echo=True, include_trace=True)["messages"]
    assert traces(listed) == [SHOWN, *[None] * 4, {"traceparent": PARENT}]
    assert "trace" not in call("message_list", echo=True)["messages"][0]
    claimed = call("claim_create", include_trace=True, limit=1)
    assert traces(claimed["messages"]) == [SHOWN]
    assert traces(call("message_delete_many", pop=5, include_trace=True)["messages"])[-1] == {"traceparent": PARENT}
