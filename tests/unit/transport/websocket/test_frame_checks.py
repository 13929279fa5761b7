# SPDX-License-Identifier: Apache-2.0
"""The checks of frames, and the replies to frames that fail them."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from tests.unit.transport.websocket.frames import CLIENT, FORMATS, HEADERS, PROJECT, Client, make_parts
from zaqar.app import Parts
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.session import Session

NOTHING = {"action": None, "body": {}, "api": "v2", "headers": {}}


def repeat(parts: Parts, call: Call) -> Answer:
    return Answer(
        200,
        {
            "address": list(call.queue_name) if call.queue_name else None,
            "body": dict(call.body),
            "raw": call.raw.decode(),
            "project": call.caller.project,
            "client": call.caller.client_id,
            "roles": sorted(call.caller.roles),
            "user": call.caller.user_id,
        },
    )


def action(name: str, fields: dict[str, Field], **options: Any) -> Action:
    return Action(name, "", "GET", "/v2/" + name, repeat, fields, {200: ("", None)}, **options)


ACTIONS = {
    each.name: each
    for each in (
        action("plain", {}),
        action(
            "typed",
            {
                "text": Field("string", ""),
                "limit": Field("integer", ""),
                "flag": Field("boolean", ""),
                "list": Field("array", "", schema={"items": {"type": "string"}}),
                "any": Field("array", ""),
                "map": Field("object", ""),
            },
        ),
        action("named", {"queue_name": Field("string", "", required=True)}),
        action("either", {"queue_name": Field("string", ""), "topic_name": Field("string", "")}),
        action("admin", {}, needs_admin_mode=True),
        action("pooled", {}, needs_pooling=True),
    )
}

MISSING = "is required in the headers of the frame"


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(params=FORMATS, ids=lambda format_: format_.value)
def client(parts: Parts, request: pytest.FixtureRequest) -> Client:
    return Client(parts, ACTIONS, format_=request.param)


@pytest.mark.parametrize("frame", ["{", "[1]", "5", "", b"\xc1", b"\x91\x01", b"\x05", b"\x81"])
def test_what_cannot_be_decoded_is_answered_in_its_format_and_repeats_nothing(parts: Parts, frame: str | bytes) -> None:
    reply = Client(parts, ACTIONS).send(frame)
    assert reply["request"] == NOTHING
    assert reply["headers"] == {"status": 400}
    assert list(reply["body"]) == ["error"]
    assert reply["body"]["error"]


def test_json_in_a_binary_frame_gets_an_error_that_says_so(parts: Parts) -> None:
    reply = Client(parts, ACTIONS).send(b'{"action": "plain"}')
    assert reply["headers"] == {"status": 400}
    error = "frame: Binary frames are MessagePack, and this one looks like JSON. Send JSON in a text frame."
    assert reply["body"]["error"] == error


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("queue_creat", "queue_create"),
        ("createQueue", "queue_create"),
        ("list_queues", "queue_list"),
        ("QUEUE-CREATE", "queue_create"),
        ("authentication", "authenticate"),
        ("message_postt", "message_post"),
        ("subscribe", None),
        ("q" * 33, None),
    ],
)
def test_a_misspelt_action_is_answered_with_a_similar_one(typed: str, meant: str | None) -> None:
    reply = Client(make_parts()).send({"action": typed, "headers": HEADERS})
    hint = "" if meant is None else f"; did you mean {meant}?"
    assert reply["body"] == {"error": f"{typed} is not a valid action{hint}"}


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ({}, "action: is required"),
        ({"headers": HEADERS}, "action: is required"),
        ({"action": "", "headers": HEADERS}, "action: is required"),
        ({"action": None, "headers": HEADERS}, "action: is required"),
        ({"action": 5, "headers": HEADERS}, "action: must be of type string"),
        ({"action": ["plain"], "headers": HEADERS}, "action: must be of type string"),
        ({"action": "nope", "headers": HEADERS, "body": {}}, "nope is not a valid action"),
        ({"action": "n" * 10_000}, "n" * 64 + " is not a valid action"),
        ({"action": "plain"}, "headers: is required"),
        ({"action": "plain", "headers": None}, "headers: is required"),
        ({"action": "plain", "headers": []}, "headers: must be of type object"),
        ({"action": "plain", "headers": "Client-ID"}, "headers: must be of type object"),
        ({"action": "plain", "headers": {"X-Project-ID": PROJECT}}, f"Client-ID: {MISSING}"),
        ({"action": "plain", "headers": {"Client-ID": CLIENT}}, f"X-Project-ID: {MISSING}"),
        ({"action": "plain", "headers": {"Client-ID": CLIENT, "X-Project-ID": ""}}, f"X-Project-ID: {MISSING}"),
        ({"action": "plain", "headers": {**HEADERS, "Client-ID": 5}}, "headers.Client-ID: must be of type string"),
        ({"action": "plain", "headers": {**HEADERS, "X-Roles": []}}, "headers.X-Roles: must be of type string"),
        (
            {"action": "plain", "headers": {**HEADERS, "x-project-id": "b"}},
            "headers.x-project-id: is given twice, with two values",
        ),
        ({"action": "plain", "headers": HEADERS, "body": "x"}, "body: must be of type object"),
        ({"action": "plain", "headers": HEADERS, "body": []}, "body: must be of type object"),
        ({"action": "plain", "headers": HEADERS, "body": False}, "body: must be of type object"),
        ({"action": "named", "headers": HEADERS}, "queue_name: is required"),
        ({"action": "named", "headers": HEADERS, "body": {"queue_name": 5}}, "queue_name: must be of type string"),
    ],
)
def test_a_frame_that_does_not_fit_its_action_is_refused(client: Client, frame: dict[str, Any], error: str) -> None:
    reply = client.send(frame)
    assert reply["headers"] == {"status": 400}
    assert reply["body"]["error"] == error
    action = frame.get("action")
    headers = frame.get("headers")
    body = frame.get("body")
    assert reply["request"] == {
        "action": action if isinstance(action, str) else None,
        "api": "v2",
        "body": {} if body is None else body,
        "headers": headers if isinstance(headers, dict) else {},
    }


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Client-ID": "nope"}, "Client-ID"),
        ({"Client-ID": ""}, "Client-ID"),
        ({"Client-ID": CLIENT + "0"}, "Client-ID"),
        ({"X-Project-ID": "a,b"}, "X-Project-ID"),
        ({"X-Project-ID": " a"}, "X-Project-ID"),
        ({"X-Project-ID": "\u00e9"}, "X-Project-ID"),
        ({"X-Project-ID": "a\0"}, "X-Project-ID"),
        ({"X-Project-ID": "p" * 257}, "X-Project-ID"),
    ],
)
def test_headers_have_the_rules_of_http(client: Client, headers: dict[str, str], field: str) -> None:
    reply = client.call("plain", **headers)
    assert reply["headers"] == {"status": 400}
    assert reply["body"]["error"].startswith(field + ": ")
    # For errors about the value of a field, the recorded reference has the text here.
    assert reply["body"]["exception"] == reply["body"]["error"]


def test_a_header_in_two_spellings_has_to_have_one_value(client: Client) -> None:
    """As python-zaqarclient sends X-Project-ID."""
    for value, status in ((PROJECT, 200), ("other", 400), ([PROJECT], 400), (None, 400)):
        headers = {**HEADERS, "X-Project-Id": value}
        assert client.send({"action": "plain", "headers": headers})["headers"] == {"status": status}


def test_client_ids_that_are_no_uuids_if_configured() -> None:
    options = {"client_id_uuid_safe": "off", "min_length_client_id": 3, "max_length_client_id": 5}
    client = Client(make_parts(**{f"transport__{name}": value for name, value in options.items()}), ACTIONS)
    statuses = [client.status("plain", Client_ID=text) for text in ("ab", "abc", "abcde", "abcdef", "ab\u00e9")]
    assert statuses == [400, 200, 200, 400, 400]


def test_without_authentication_headers_identify_the_caller(client: Client) -> None:
    headers = {"client-id": CLIENT, "x_project_id": PROJECT, "X-ROLES": "Admin, member", "X-User-Id": "u"}
    body = client.send({"action": "plain", "headers": headers})["body"]
    assert (body["project"], body["client"]) == (PROJECT, CLIENT.replace("-", ""))
    assert (body["roles"], body["user"]) == (["admin", "member"], "u")
    headers = {"Client-ID": CLIENT, "X-Tenant-ID": PROJECT}
    assert client.send({"action": "plain", "headers": headers})["body"]["project"] == PROJECT


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": ""},
        {"limit": -(2**63)},
        {"flag": False},
        {"list": ["a"]},
        {"any": [1, {}]},
        {"map": {"a": "\0"}},
        {"limit": 0, "flag": True, "list": []},
    ],
)
def test_fields_of_the_right_type_arrive_and_others_are_dropped(client: Client, fields: dict[str, Any]) -> None:
    reply = client.call("typed", {**fields, "unknown": 1})
    assert reply["headers"] == {"status": 200}
    assert reply["body"]["body"] == fields
    assert json.loads(reply["body"]["raw"]) == {**fields, "unknown": 1}


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("text", 1, "text"),
        ("text", None, "text"),
        ("text", ["a"], "text"),
        ("text", "a\0", "text"),
        ("limit", "10", "limit"),
        ("limit", True, "limit"),
        ("limit", 10.0, "limit"),
        ("limit", None, "limit"),
        ("flag", "true", "flag"),
        ("flag", 1, "flag"),
        ("list", "a,b", "list"),
        ("list", {"0": "a"}, "list"),
        ("list", ["a", 1], "list[1]"),
        ("list", ["a", None], "list[1]"),
        ("list", ["a\0"], "list[0]"),
        ("map", [], "map"),
        ("map", "{}", "map"),
    ],
)
def test_fields_of_another_type_are_refused_by_name(client: Client, name: str, value: Any, field: str) -> None:
    reply = client.call("typed", {name: value})
    assert reply["headers"] == {"status": 400}
    assert reply["body"]["error"].startswith(field + ": ")


@pytest.mark.parametrize(
    ("name", "body", "result"),
    [
        ("named", {"queue_name": "q"}, [PROJECT, "queue", "q"]),
        ("named", {"queue_name": "q", "topic_name": "t"}, [PROJECT, "queue", "q"]),
        ("either", {"queue_name": "q"}, [PROJECT, "queue", "q"]),
        ("either", {"topic_name": "t"}, [PROJECT, "topic", "t"]),
        ("either", {"queue_name": "q", "topic_name": "t"}, 400),
        ("either", {}, 400),
        ("plain", {"queue_name": "q"}, None),
        *(
            ("either", {name: text}, 400)
            for name in ("queue_name", "topic_name")
            for text in ("", ".", "..", "a/b", "b@d", "q\n", "q\0", "n" * 65, "\u00e9")
        ),
    ],
)
def test_the_queue_or_topic_that_a_body_names(client: Client, name: str, body: dict[str, Any], result: Any) -> None:
    reply = client.call(name, body)
    assert (reply["headers"]["status"] if result == 400 else reply["body"]["address"]) == result


def test_actions_that_the_configuration_does_not_serve() -> None:
    for admin_mode, pooling in ((False, False), (True, False), (True, True)):
        client = Client(make_parts(admin_mode=admin_mode, pooling=pooling), ACTIONS)
        assert client.status("admin") == (200 if admin_mode else 403)
        assert client.status("pooled") == (200 if pooling else 403)


SECRET = "s3cret"

SECRETS = {
    "X-Auth-Token": SECRET,
    "x-auth-token": SECRET,
    "X_AUTH_TOKEN": SECRET,
    "X-Service-Token": SECRET,
    "X-Storage-Token": SECRET,
    "X-Subject-Token": SECRET,
    " X-Auth-Token ": SECRET,
    "URL-Signature": SECRET,
    "url_signature": SECRET,
    "Authorization": SECRET,
    "Proxy-Authorization": SECRET,
    "Cookie": SECRET,
    "X-Api-Key": SECRET,
    "X-Auth-Token-2": SECRET,
    "x" * 100 + "-Token": SECRET,
    "EXTRA-SPEC": "messagecode:" + SECRET,
    "nested": {"X-Auth-Token": SECRET},
    "listed": [{"X-Auth-Token": SECRET}],
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("action", ["plain", "nope", "authenticate", "named", None])
def test_no_reply_and_no_text_form_shows_a_secret(client: Client, name: str, action: str | None) -> None:
    frame = {"action": action, "headers": {**HEADERS, "X-Harmless": "shown", name: SECRETS[name]}}
    reply = client.send(frame)
    assert SECRET not in repr(reply)
    if reply["headers"]["status"] != 200 or action != "authenticate":
        assert reply["request"]["headers"] == {**HEADERS, "X-Harmless": "shown"}
    packed = json.dumps(frame) if client.format is Format.JSON else msgpack.packb(frame)
    request = client.session.read(packed)
    assert SECRET not in repr(request)
    assert SECRET not in repr(client.session.answer(request))


def test_a_secret_in_place_of_a_header_s_type_or_twice_is_not_quoted(client: Client) -> None:
    for headers in (
        {"X-Auth-Token": [SECRET]},
        {"X-Auth-Token": SECRET, "x-auth-token": SECRET},
        {"URL-Signature": {SECRET: SECRET}},
        {"Client-ID": SECRET},
        {"X-Project-ID": SECRET + ","},
    ):
        reply = client.send({"action": "authenticate", "headers": {**HEADERS, **headers}})
        assert SECRET not in reply["body"].get("error", "")


def test_a_reply_is_bounded_by_its_request(parts: Parts) -> None:
    session = Session(parts, connection="c", actions=ACTIONS)
    frames = [
        json.dumps({"action": "x" * 200_000}),
        json.dumps({"action": "plain", "headers": {"h" * 100_000: "v" * 100_000}}),
        json.dumps({"action": "plain", "headers": HEADERS, "body": ["\u00e9"] * 30_000}, ensure_ascii=False),
        msgpack.packb({"action": "plain", "headers": HEADERS, "body": [1.5] * 30_000}, use_single_float=True),
        msgpack.packb({"action": "x", "headers": HEADERS, "body": list(range(100)) * 1000}),
        json.dumps({"action": "named", "headers": HEADERS, "body": {"queue_name": "q" * 200_000}}),
    ]
    for frame in frames:
        reply = session.answer(session.read(frame))
        assert reply.status == 400
        assert len(reply.frame) <= len(frame) + 1024


@pytest.mark.parametrize("text", ["\ud800", '{"action":"\udfff"}', '{"headers":{"\ud800":1}}'])
def test_text_that_no_library_passes_on_is_refused(parts: Parts, text: str) -> None:
    assert Client(parts, ACTIONS).send(text)["headers"] == {"status": 400}
