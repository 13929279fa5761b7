# SPDX-License-Identifier: Apache-2.0
"""A signature opens only the action of its frame, and gives the caller no identity."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from tests.clock import START, FakeClock
from tests.unit.transport.websocket.frames import FORMATS, PROJECT, Client, make_parts
from tests.unit.transport.websocket.tokens import ALICE, Tokens, with_tokens
from zaqar.access.signed_urls import format_time, sign
from zaqar.app import Parts
from zaqar.model import QUEUE, QueueName
from zaqar.transport.websocket.action import Answer, Call
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.codec import Format

KEY = "k" * 32
MESSAGES = "/v2/queues/q/messages"
POST = {"queue_name": "q", "messages": [{"body": 1, "ttl": 300}]}
REFUSED = {"error": "The signature does not open this."}


def signed(*paths: str, methods: tuple[str, ...] = ("GET", "POST"), **changed: Any) -> dict[str, Any]:
    """The headers of a share of these paths."""
    paths = paths or (MESSAGES,)
    expires = format_time(START + 60)
    headers = {
        "URL-Signature": sign(KEY, project=PROJECT, paths=paths, methods=methods, expires=expires),
        "URL-Paths": list(paths),
        "URL-Methods": list(methods),
        "URL-Expires": expires,
    }
    return {name.replace("-", "_"): value for name, value in {**headers, **changed}.items()}


@pytest.fixture(scope="module")
def served() -> Parts:
    """The service with Keystone, so that nothing is served without a signature."""
    return with_tokens(make_parts(FakeClock(), signed_url__secret_key=KEY), Tokens({"t": ALICE}))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def parts(served: Parts, clock: FakeClock) -> Parts:
    return dataclasses.replace(served, clock=clock)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_signature_opens_its_action_without_authentication(parts: Parts, format_: Format) -> None:
    client = Client(parts, ACTIONS, format_=format_)
    reply = client.call("message_post", POST, **signed())
    assert reply["headers"] == {"status": 201}
    assert "URL-Signature" not in reply["request"]["headers"]
    (id_,) = reply["body"]["message_ids"]
    assert client.status("message_list", {"queue_name": "q"}, **signed()) == 200
    assert client.status("message_get", {"queue_name": "q", "message_id": id_}, **signed()) == 200
    # The connection still has no identity.
    assert client.status("message_list", {"queue_name": "q"}) == 403
    assert client.session.identity is None


def test_lists_may_be_text_with_commas_and_the_case_of_headers_is_free(parts: Parts) -> None:
    client = Client(parts, ACTIONS)
    headers = signed(MESSAGES, "/v2/queues/q/claims")
    headers["URL_Paths"], headers["URL_Methods"] = ",".join(headers["URL_Paths"]), ",".join(headers["URL_Methods"])
    assert client.status("message_post", POST, **headers) == 201
    headers = {name.lower(): value for name, value in headers.items()}
    assert client.status("message_post", POST, **headers) == 201


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("message_post", {**POST, "queue_name": "other"}),
        ("message_post", {"topic_name": "q", "messages": POST["messages"]}),
        ("message_delete_many", {"queue_name": "q", "pop": 1}),
        ("message_delete", {"queue_name": "q", "message_id": "a" * 36}),
        ("message_get", {"queue_name": "q", "message_id": "../../q2/messages"}),
        ("message_get", {"queue_name": "q", "message_id": "a/b"}),
        ("message_get", {"queue_name": "q", "message_id": ".."}),
        ("message_get", {"queue_name": "q", "message_id": ""}),
        ("message_get", {"queue_name": "q", "message_id": "a?b"}),
        ("message_get", {"queue_name": "q", "message_id": "a" * 129}),
        ("claim_create", {"queue_name": "q"}),
        ("queue_get", {"queue_name": "q"}),
        ("queue_create", {"queue_name": "q"}),
        ("queue_delete", {"queue_name": "q"}),
        ("queue_purge", {"queue_name": "q"}),
        ("queue_share", {"queue_name": "q"}),
        ("queue_list", {}),
        ("subscription_create", {"queue_name": "q"}),
        ("ping_node", {}),
        ("get_home_doc", {}),
    ],
)
def test_a_signature_opens_no_other_action_queue_or_path(parts: Parts, action: str, body: dict[str, Any]) -> None:
    reply = Client(parts, ACTIONS).call(action, body, **signed())
    assert reply["headers"] == {"status": 403}
    assert reply["body"]["error"] == REFUSED["error"]
    assert parts.queues.find(QueueName(PROJECT, QUEUE, "other"), create=False) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"URL-Signature": "0" * 64},
        {"URL-Signature": ""},
        {"URL-Signature": None},
        {"URL-Signature": 5},
        {"URL-Signature": ["0" * 64]},
        {"URL-Paths": [MESSAGES, "/v2/queues/q2/messages"]},
        {"URL-Paths": [MESSAGES + ",/v2/queues/q2/messages"]},
        {"URL-Paths": {}},
        {"URL-Paths": [1]},
        {"URL-Paths": []},
        {"URL-Methods": ["GET", "POST", "DELETE"]},
        {"URL-Methods": None},
        {"URL-Expires": format_time(START + 61)},
        {"URL-Expires": START},
        {"X-Project-ID": "other"},
        {"X-Project-ID": ""},
        {"X-Project-ID": None},
        {"X-Project-ID": PROJECT + "\\n"},
    ],
)
def test_every_refused_signature_gets_the_same_sentence(parts: Parts, changed: dict[str, Any]) -> None:
    headers: dict[str, Any] = {"action": "message_post", "body": POST}
    client = Client(parts, ACTIONS)
    sent = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": PROJECT}
    sent |= {name.replace("_", "-"): value for name, value in signed(**changed).items()}
    if changed.get("X-Project-ID", "") is None:
        # The same project in another header does not help: the signature is about X-Project-ID.
        sent["X-Tenant-ID"] = PROJECT
    reply = client.send({**headers, "headers": sent})
    assert reply["headers"] == {"status": 403}
    assert reply["body"]["error"] == REFUSED["error"]


def test_a_signed_frame_is_refused_after_its_signature_expires(parts: Parts, clock: FakeClock) -> None:
    client = Client(parts, ACTIONS)
    clock.now = START + 59
    assert client.status("message_post", POST, **signed()) == 201
    clock.now = START + 60
    assert client.status("message_post", POST, **signed()) == 403


def test_a_signature_gives_the_caller_no_identity(parts: Parts) -> None:
    seen: list[Call] = []

    def handle(parts: Parts, call: Call) -> Answer:
        seen.append(call)
        return Answer(200, {})

    actions = {"message_list": dataclasses.replace(ACTIONS["message_list"], handle=handle)}
    client = Client(parts, actions)
    assert client.status("authenticate", X_Auth_Token="t") == 200
    assert client.status("message_list", {"queue_name": "q"}) == 200
    assert client.status("message_list", {"queue_name": "q"}, **signed(), X_Roles="admin", X_User_Id="root") == 200
    own, opened = (call.caller for call in seen)
    assert (own.user_id, own.roles, own.token, own.signed) == ("alice", ALICE.roles, "t", False)
    assert (opened.user_id, opened.roles, opened.token, opened.signed) == (None, frozenset(), None, True)
    assert opened.project == PROJECT
    # A frame with a signature that opens nothing is refused, even if the connection itself may carry out the action.
    assert client.status("message_list", {"queue_name": "q"}, **signed("/v2/queues/x/messages")) == 403


def test_the_client_id_and_the_fields_are_checked_as_always(parts: Parts) -> None:
    client = Client(parts, ACTIONS)
    assert client.status("message_post", POST, **signed(), Client_ID="nope") == 400
    assert client.status("message_post", {**POST, "messages": "x"}, **signed()) == 400


def test_a_grant_to_confirm_confirms_its_subscription_and_does_nothing_else(parts: Parts, clock: FakeClock) -> None:
    client = Client(parts, ACTIONS)
    assert client.status("authenticate", X_Auth_Token="t") == 200
    body = {"queue_name": "q", "subscriber": "mailto:ann@example.org", "ttl": 600}
    id_ = client.call("subscription_create", body)["body"]["subscription_id"]
    client = Client(parts, ACTIONS)
    found, _ = parts.subscriptions.get(QueueName(PROJECT, QUEUE, "q"), id_)
    path, expires = f"/v2/queues/q/subscriptions/{id_}/confirm", format_time(START + 60)

    def grant(bound_to: tuple[str, ...]) -> dict[str, Any]:
        key = sign(KEY, project=PROJECT, paths=[path], methods=["PUT"], expires=expires, bound_to=bound_to)
        return signed(path, methods=("PUT",), **{"URL-Signature": key})

    confirm = {"queue_name": "q", "subscription_id": id_, "confirmed": True}
    assert client.status("subscription_confirm", confirm, **grant(("mailto:bob@example.org", "0"))) == 403
    assert client.status("subscription_confirm", {**confirm, "subscription_id": "0" * 24}, **grant(())) == 403
    terms = found.grant_terms
    # Nor does it open another action with the same path and method: only this one checks the grant.
    same = dataclasses.replace(ACTIONS["subscription_confirm"], name="same", handle=lambda parts, call: Answer(204, {}))
    assert Client(parts, {"same": same}).status("same", confirm, **grant(terms)) == 403
    assert client.status("subscription_delete", confirm, **grant(terms)) == 403
    assert client.status("subscription_get", confirm, **grant(terms)) == 403
    assert client.status("subscription_confirm", confirm, **grant(terms)) == 204


def test_refusals_are_counted_and_logged_once_a_minute(
    parts: Parts, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = Client(parts, ACTIONS)
    for _ in range(3):
        assert client.status("queue_list", {}, **signed()) == 403
    clock.advance(60)
    assert client.status("message_post", POST, **signed(**{"URL-Signature": "0" * 64})) == 403
    assert [message for message in caplog.messages if message.startswith("Refused")] == [
        "Refused 1 requests with a signature; it is for other paths or methods: 1.",
        "Refused 3 requests with a signature; it is for other paths or methods: 2, no key has made the signature: 1.",
    ]
    assert signed()["URL_Signature"] not in caplog.text
