# SPDX-License-Identifier: Apache-2.0
"""A session carries out the actions of a table."""

from __future__ import annotations

import pytest

from tests.unit.transport.websocket.frames import FORMATS, HEADERS, Client, make_parts
from zaqar.app import Parts
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.codec import Format


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
def test_an_action_of_the_table_is_carried_out_and_answered_in_kind(format_: Format) -> None:
    client = Client(make_parts(), {"message_post": TOY}, format_=format_)
    body = {"queue_name": "q", "messages": [{"body": {"n": 0}, "ttl": 300}]}
    reply = client.call("message_post", body)
    assert reply["request"] == {"action": "message_post", "body": body, "api": "v2", "headers": HEADERS}
    assert reply["headers"] == {"status": 201}
    assert len(reply["body"]["message_ids"]) == 1
