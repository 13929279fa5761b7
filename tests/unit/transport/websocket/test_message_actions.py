# SPDX-License-Identifier: Apache-2.0
"""Answers of the actions on messages that no recording has: bytes of bodies, checksums, unreadable bodies."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest

from tests.unit.transport.websocket.frames import CLIENT, FORMATS, HEADERS, Client, make_parts
from zaqar.encryption.messages import MessageKeys
from zaqar.transport.websocket.codec import Format

BODY = '{"b" :1.50,\t"a": [1E2, "\\u00e9é\\/", {"n":0.1000000000000000055511151231257827}], "z": -0}'
KEY = bytes(range(32))


def post(client: Client, *bodies: str, queue: str = "q") -> list[str]:
    """Post messages whose bodies are JSON texts; their ids."""
    drafts = ",".join(f'{{"ttl": 100, "body": {body}}}' for body in bodies)
    body = f'{{"queue_name": "{queue}", "messages": [{drafts}]}}'
    frame = f'{{"action": "message_post", "headers": {json.dumps(HEADERS)}, "body": {body}}}'
    session = client.session
    reply = json.loads(session.answer(session.read(frame)).frame)
    assert reply["headers"]["status"] == 201, reply
    ids: list[str] = reply["body"]["message_ids"]
    return ids


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("message_list", {"echo": True}),
        ("message_get", {"message_id": "<id>"}),
        ("message_get_many", {"message_ids": ["<id>"]}),
        ("message_delete_many", {"pop": 1}),
        ("claim_create", {}),
    ],
)
def test_a_body_goes_out_as_the_bytes_that_came_in(action: str, fields: dict[str, Any]) -> None:
    client = Client(make_parts())
    (id_,) = post(client, BODY)
    body = {"queue_name": "q", **json.loads(json.dumps(fields).replace("<id>", id_))}
    frame = json.dumps({"action": action, "headers": HEADERS, "body": body})
    reply = client.session.answer(client.session.read(frame))
    assert isinstance(reply.frame, str)
    assert f'"body":{BODY}' in reply.frame
    # MessagePack has the same value.
    if action in ("message_list", "message_get_many"):
        packed = Client(client.session._parts, format_=Format.MESSAGEPACK).call(action, body)
        assert packed["body"]["messages"][0]["body"] == json.loads(BODY)


@pytest.mark.parametrize("value", [{"a": [1, -(2**63), 2**63 - 1, 1.5, 1e300, None, True, "é\0\u2028"]}, 0, "", None])
def test_a_body_in_messagepack_is_read_over_json(value: Any) -> None:
    parts = make_parts()
    packs, reads = Client(parts, format_=Format.MESSAGEPACK), Client(parts)
    posted = packs.call("message_post", {"queue_name": "q", "messages": [{"body": value}]})
    assert posted["headers"]["status"] == 201
    for client in (packs, reads):
        (message,) = client.call("message_list", {"queue_name": "q", "echo": True})["body"]["messages"]
        assert message["body"] == value
        assert type(message["body"]) is type(value)


def test_checksums_are_shown_if_the_service_makes_them() -> None:
    client = Client(make_parts(enable_checksum=True))
    (id_,) = post(client, '{"a": 1}')
    for action, fields in (
        ("message_list", {"echo": True}),
        ("message_get_many", {"message_ids": [id_]}),
        ("claim_create", {}),
    ):
        (message,) = client.call(action, {"queue_name": "q", **fields})["body"]["messages"]
        assert message["checksum"] == "MD5:" + hashlib.md5(b'{"a": 1}').hexdigest()
    assert "checksum" not in Client(make_parts()).call("message_list", {"queue_name": "q"})["body"]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_message_that_cannot_be_decrypted_is_listed_with_an_error(format_: Format) -> None:
    parts = make_parts(transport__message_encryption_key="base64:" + base64.b64encode(KEY).decode())
    client = Client(parts, format_=format_)
    created = client.call("queue_create", {"queue_name": "q", "metadata": {"_enable_encrypt_messages": True}})
    assert created["headers"]["status"] == 201
    (id_,) = post(client, '"secret"')
    parts.messages._bodies._keys = MessageKeys([bytes(range(32, 64))])
    (message,) = client.call("message_list", {"queue_name": "q", "echo": True})["body"]["messages"]
    assert message["body"] is None
    assert "cannot be decrypted" in message["error"]
    alone = client.call("message_get", {"queue_name": "q", "message_id": id_})
    assert alone["headers"]["status"] == 503
    assert alone["body"]["error"].startswith(id_)


def test_a_delayed_message_is_not_shown_early() -> None:
    client = Client(make_parts())
    client.call("message_post", {"queue_name": "q", "messages": [{"body": 1, "delay": 30}]})
    assert client.call("message_list", {"queue_name": "q", "echo": True})["body"] == {"messages": []}
    shown = client.call("message_list", {"queue_name": "q", "echo": True, "include_delayed": True})["body"]["messages"]
    assert [message["body"] for message in shown] == [1]
    assert client.call("claim_create", {"queue_name": "q"})["headers"]["status"] == 204


def test_echo_recognises_a_client_in_any_spelling_of_its_id() -> None:
    client = Client(make_parts())
    client.call("message_post", {"queue_name": "q", "messages": [{"body": 1}]})
    spelt = "{" + CLIENT.upper() + "}"
    assert client.call("message_list", {"queue_name": "q"}, Client_ID=spelt)["body"] == {"messages": []}


def test_answers_match_the_schemas_of_the_table() -> None:
    """An answer has only members that its schema knows, so that the reference leaves none out."""
    from zaqar.transport.websocket.actions.messages import SHOWN_MESSAGE, ShownMessage

    fields = {field.encode_name for field in msgspec.structs.fields(ShownMessage)}
    assert fields == set(SHOWN_MESSAGE["properties"]) | {"claim_count"}
