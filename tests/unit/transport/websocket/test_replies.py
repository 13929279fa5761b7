# SPDX-License-Identifier: Apache-2.0
"""No reply of any action repeats secrets or long texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.unit.transport.websocket.frames import FORMATS, HEADERS, Client, make_parts
from tests.unit.transport.websocket.tokens import ALICE, Tokens, with_tokens
from zaqar.app import Parts
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.codec import Format

SECRET = "s3cr3t-" + "0123456789abcdef" * 4
ODD_PLACES: Mapping[str, Any] = {
    "X-Auth-Token": SECRET,
    "x_auth_token": [SECRET],
    " X-AUTH-TOKEN ": {"": SECRET},
    "X-Subject-Token": SECRET,
    "URL-Signature": SECRET,
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"token={SECRET}",
    "X-Nested": {"X-Auth-Token": SECRET},
    "X-Listed": [{"X-Auth-Token": SECRET}],
}
WITH_A_KEY = {"signed_url__secret_key": "k" * 32, "admin_mode": True, "pooling": True}


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    made = make_parts(**WITH_A_KEY)
    yield made
    made.close()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("keystone", [False, True])
def test_no_reply_repeats_a_token_wherever_the_request_has_it(parts: Parts, format_: Format, keystone: bool) -> None:
    tokens = Tokens({"alice": ALICE, SECRET: ALICE})
    client = Client(with_tokens(parts, tokens) if keystone else parts, format_=format_)
    for authenticated in (False, True):
        if authenticated:
            sent = {"action": "authenticate", "headers": {**HEADERS, "X-Auth-Token": SECRET}}
            assert SECRET not in str(client.send(sent))
        seen = set()
        for name, value in ODD_PLACES.items():
            for action in (*ACTIONS.values(), None):
                called = "authenticate" if action is None else action.name
                frame = {"action": called, "headers": {**HEADERS, name: value}}
                body = {} if action is None else dict(action.example)
                reply = client.send({**frame, "body": body})
                seen.add(reply["headers"]["status"])
                assert SECRET not in json.dumps(reply), (called, name)
        # Some actions were carried out, and others refused in each of these ways.
        assert seen >= ({200, 403} if authenticated or not keystone else {200, 400, 403})


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "headers",
    [HEADERS, {}, {**HEADERS, "X-Auth-Token": 5}, {"X-Auth-Token": "a", "Client-ID": "b"}, None],
    ids=["no token", "none", "another type", "bad Client-ID", "no headers"],
)
def test_the_body_of_authenticate_is_not_repeated(parts: Parts, format_: Format, headers: Any) -> None:
    """The action has no body, but a client may put its token there."""
    for body in ({"X-Auth-Token": SECRET}, SECRET, [SECRET]):
        reply = Client(parts, format_=format_).send({"action": "authenticate", "headers": headers, "body": body})
        assert reply["headers"] == {"status": 400}
        assert reply["request"]["body"] == {}
        assert SECRET not in json.dumps(reply)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_uri_of_a_pool_is_not_repeated(parts: Parts, format_: Format) -> None:
    client = Client(parts, format_=format_)
    pool = {"pool_name": "gold", "uri": f"nosuch://:{SECRET}@host", "weight": 1}
    for action, body in (
        ("pool_create", pool),
        ("pool_create", {**pool, "weight": "1"}),
        ("pool_update", pool),
        ("pool_create", {**pool, "uri": [SECRET]}),
    ):
        for roles in ("admin", "member"):
            reply = client.call(action, body, X_Roles=roles)
            assert reply["headers"]["status"] in (400, 403, 404)
            assert reply["request"]["body"] == {name: value for name, value in body.items() if name != "uri"}
            assert SECRET not in json.dumps(reply)


def long_fields(action: Action) -> Iterator[tuple[str, dict[str, Any]]]:
    """The example with a long text in each of its fields that are texts."""
    for name, field in action.fields.items():
        if field.type == "string":
            yield name, {**action.example, name: "x" * 100_000}


def test_no_reply_is_longer_than_its_request_because_of_a_long_text_in_that(parts: Parts) -> None:
    client = Client(parts)
    for action in ACTIONS.values():
        for name, body in long_fields(action):
            frame = json.dumps({"action": action.name, "headers": {**HEADERS, "X-Roles": "admin"}, "body": body})
            reply = client.session.answer(client.session.read(frame))
            assert len(reply.frame) < len(frame) + 4096, (action.name, name)
