# SPDX-License-Identifier: Apache-2.0
"""A session carries out the actions of a table."""

from __future__ import annotations

import dataclasses
import json
import logging
import re

import msgspec
import pytest

from tests.unit.transport.websocket.frames import FORMATS, HEADERS, Client, make_parts, pack, unpack
from zaqar import context
from zaqar.access.extra_specs import ExtraSpecs
from zaqar.app import Parts
from zaqar.errors import (
    ClientError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    SignatureRefused,
    StoreUnavailable,
)
from zaqar.logs import context as log_context
from zaqar.service.staged.pipelines import Pipelines
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.session import Sessions


def post(parts: Parts, call: Call) -> Answer:
    return Answer(201, {"message_ids": parts.messages.post(call.caller, call.target, call.raw)})


TOY = Action(
    name="message_post",
    summary="",
    method="POST",
    path="/v2/queues/{queue_name}/messages",
    handle=post,
    fields={"queue_name": Field("string", "", required=True), "messages": Field("array", "", required=True)},
    answers={201: ("", None)},
)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_action_is_answered_in_the_format_of_its_frame(format_: Format) -> None:
    client = Client(make_parts(), {"message_post": TOY}, format_=format_)
    body = {"queue_name": "q", "messages": [{"body": {"n": 0}, "ttl": 300}]}
    reply = client.call("message_post", body)
    assert reply["request"] == {"action": "message_post", "body": body, "api": "v2", "headers": HEADERS}
    assert reply["headers"] == {"status": 201}
    assert len(reply["body"]["message_ids"]) == 1


def raising(error: BaseException) -> dict[str, Action]:
    def handle(parts: Parts, call: Call) -> Answer:
        raise error

    return {"message_post": dataclasses.replace(TOY, handle=handle)}


POST = {"queue_name": "q", "messages": [{"body": 1, "ttl": 300}]}


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.mark.parametrize("format_", FORMATS)
def test_the_body_of_a_message_comes_back_as_it_was_sent(parts: Parts, format_: Format) -> None:
    client = Client(parts, ACTIONS, format_=format_)
    body = {"a": [1, 2.5, None, True, "\u00e9\0"], "": {"b": -(2**63)}}
    assert client.status("message_post", {"queue_name": "kept", "messages": [{"body": body, "ttl": 300}]}) == 201
    (message,) = client.call("message_list", {"queue_name": "kept", "echo": True, "limit": 1})["body"]["messages"]
    assert message["body"] == body


def test_the_body_of_a_message_in_a_text_frame_keeps_its_bytes(parts: Parts) -> None:
    session = Client(parts, ACTIONS).session
    kept = '{ "x" : 1.0e2 , "y":"\\u0041" }'
    body = f'{{"queue_name":"bytes","messages":[{{"body":{kept}}}]}}'
    post = f'{{"action":"message_post","headers":{json.dumps(HEADERS)},"body":{body}}}'
    assert session.answer(session.read(post)).status == 201
    listing = {"action": "message_list", "headers": HEADERS, "body": {"queue_name": "bytes", "echo": True}}
    frame = session.answer(session.read(json.dumps(listing))).frame
    assert isinstance(frame, str)
    assert kept in frame


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InvalidInput("limit", "is odd"), 400, "limit: is odd"),
        (Forbidden("Not this one."), 403, "Not this one."),
        (NotFound("There is none."), 404, "There is none."),
        (Conflict("There is one."), 409, "There is one."),
        (NotFound("x" * 10_000), 404, "x" * 500),
        (SignatureRefused("r"), 404, "The signature does not open this."),
    ],
)
def test_an_error_of_the_client_is_one_sentence(parts: Parts, error: ClientError, status: int, sentence: str) -> None:
    reply = Client(parts, raising(error)).call("message_post", POST)
    assert reply["headers"] == {"status": status}
    assert reply["body"] == {"error": sentence, "exception": sentence}


def test_a_store_that_is_away_is_503_with_the_time_to_wait(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    error = StoreUnavailable(retry_after=7)
    error.__cause__ = OSError("s3cret address")
    client = Client(parts, raising(error))
    reply = client.call("message_post", POST)
    assert reply["headers"] == {"status": 503, "Retry-After": 7}
    assert reply["body"] == {"error": str(error)}
    assert "s3cret address" in caplog.text
    # The server has the same answer if it has no thread left.
    request = client.session.read(pack(Format.JSON, {"action": "message_post", "headers": HEADERS, "body": POST}))
    assert unpack(client.session.refuse(request, error).frame) == reply


def test_an_unexpected_error_is_500_and_its_text_is_only_logged(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    def unencodable(parts: Parts, call: Call) -> Answer:
        return Answer(200, object())

    for actions in (
        raising(RuntimeError("s3cret")),
        raising(RecursionError("s3cret")),
        {"message_post": dataclasses.replace(TOY, handle=unencodable)},
    ):
        caplog.clear()
        reply = Client(parts, actions).call("message_post", POST)
        assert reply["headers"] == {"status": 500}
        assert list(reply["body"]) == ["error"]
        assert "s3cret" not in str(reply)
        request_id = re.search(r"req-[0-9a-f-]{36}", reply["body"]["error"])
        assert request_id is not None
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.getMessage() == f"{request_id[0]}: the action message_post failed"
        assert record.exc_info is not None


def test_each_request_has_its_own_id(parts: Parts) -> None:
    seen: list[str] = []

    def handle(parts: Parts, call: Call) -> Answer:
        seen.append(call.caller.request_id)
        return Answer(200, {})

    client = Client(parts, {"message_post": dataclasses.replace(TOY, handle=handle)})
    for _ in range(3):
        client.call("message_post", POST)
    assert len(set(seen)) == 3
    assert all(
        re.fullmatch(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id_) for id_ in seen
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_stages_see_the_caller_while_the_action_runs(
    parts: Parts, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def handle(parts: Parts, call: Call) -> Answer:
        seen.append((context.current.get(), call.caller))
        raise NotFound("There is none.")

    monkeypatch.setattr(Pipelines, "want_caller", wanted)
    Client(parts, {"message_post": dataclasses.replace(TOY, handle=handle)}).call("message_post", POST)
    ((told, caller),) = seen  # type: ignore[misc]
    assert told is (caller if wanted else None)
    assert context.current.get() is None


def test_extra_spec_is_checked_in_addition_to_all_other_checks(parts: Parts) -> None:
    class Plugin:
        def execute(self, value: str) -> None:
            asked.append(value)
            if value == "acme:no":
                raise RuntimeError("s3cret")

    asked: list[str] = []
    client = Client(dataclasses.replace(parts, extra_specs=ExtraSpecs({"acme": Plugin})), ACTIONS)
    body = {"queue_name": "spec"}
    assert client.status("queue_create", body, EXTRA_SPEC="acme:yes") == 201
    assert client.status("queue_create", body, extra_spec="acme:no") == 403
    statuses = [client.status("queue_create", body, EXTRA_SPEC=value) for value in ("", "none:1", 5, [], "a" * 5000)]
    assert statuses == [400] * 5
    # Keystone is not asked about a request that cannot be served anyhow.
    assert client.status("queue_create", {}, EXTRA_SPEC="acme:yes") == 400
    assert asked == ["acme:yes", "acme:no"]
    # An absent header is not checked.
    assert client.status("queue_list", {}) == 200


def test_notifications_have_the_format_of_the_last_subscription_of_the_connection(parts: Parts) -> None:
    def handle(parts: Parts, call: Call) -> Answer:
        if call.body["queue_name"] == "taken":
            raise Conflict("There is one.")
        return Answer(201, {})

    fields = {"queue_name": Field("string", "", required=True), "subscriber": Field("string", "")}
    subscribe = dataclasses.replace(TOY, name="subscription_create", handle=handle, fields=fields)
    client = Client(parts, {"subscription_create": subscribe}, format_=Format.MESSAGEPACK)
    notification = {"body": msgspec.Raw(b'{"a":1}'), "ttl": 5}
    expected = {"body": {"a": 1}, "ttl": 5}
    assert client.session.push(notification) == '{"body":{"a":1},"ttl":5}'
    assert client.status("subscription_create", {"queue_name": "taken"}) == 409
    assert client.status("subscription_create", {"queue_name": "q", "subscriber": "mailto:a@example.org"}) == 201
    assert isinstance(client.session.push(notification), str)
    assert client.status("subscription_create", {"queue_name": "q"}) == 201
    pushed = client.session.push(notification)
    assert isinstance(pushed, bytes)
    assert unpack(pushed) == expected
    assert client.session.push(notification, Format.JSON) == '{"body":{"a":1},"ttl":5}'


def test_an_existing_subscription_keeps_its_format(parts: Parts) -> None:
    def handle(parts: Parts, call: Call) -> Answer:
        return Answer(201 if call.body["queue_name"] == "new" else 409, "")

    fields = {"queue_name": Field("string", "", required=True)}
    subscribe = dataclasses.replace(TOY, name="subscription_create", handle=handle, fields=fields)
    client = Client(parts, {"subscription_create": subscribe})
    assert client.status("subscription_create", {"queue_name": "new"}) == 201
    client.format = Format.MESSAGEPACK
    assert client.status("subscription_create", {"queue_name": "old"}) == 409
    assert client.session.push_format is Format.JSON
    assert client.status("subscription_create", {"queue_name": "new"}) == 201
    assert client.session.push_format is Format.MESSAGEPACK


def test_a_session_uses_the_table_of_the_api_by_default(parts: Parts) -> None:
    session = Sessions().open(parts, "c9")
    reply = session.answer(session.read(pack(Format.JSON, {"action": "queue_list", "headers": HEADERS})))
    assert reply.status == 200


def test_records_of_the_log_have_the_id_of_a_request_only_while_it_is_carried_out(parts: Parts) -> None:
    seen: list[str] = []
    before = log_context.request_id.get()

    def handle(_: Parts, call: Call) -> Answer:
        seen.extend([log_context.request_id.get(), call.caller.request_id])
        return Answer(200, {})

    client = Client(parts, {"message_post": dataclasses.replace(TOY, handle=handle)})
    assert client.status("message_post", POST) == 200
    assert seen[0] == seen[1] != before
    # The thread goes on with other work.
    assert log_context.request_id.get() == before


def test_sessions_share_frame_checks_until_a_reload(parts: Parts) -> None:
    sessions = Sessions(ACTIONS)
    checks = sessions.checks(parts)
    assert sessions.checks(parts) is checks
    assert sessions.checks(dataclasses.replace(parts)) is not checks
