# SPDX-License-Identifier: Apache-2.0
"""The actions of queues, messages and claims answer what OpenStack Zaqar 20.1 was recorded to answer.

Each step is a request and its answer. A text in angle brackets stands for a value that differs from run to run, and is
the same value wherever the text is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.unit.transport.websocket.frames import CLIENT, FORMATS, Client, make_parts
from zaqar.app import Parts
from zaqar.transport.websocket.codec import Format

Json = dict[str, Any]


class Step(NamedTuple):
    action: str
    body: Json
    status: int
    answer: Any = None
    client: str = CLIENT


def seen(number: int, *, ttl: int, claim: str | None = None, **more: Any) -> Json:
    return {"id": f"<m{number}>", "ttl": ttl, "age": 0, "body": {"n": number}, "claim_id": claim, **more}


def post(count: int, ttl: int) -> Step:
    messages = [{"body": {"n": number}, "ttl": ttl} for number in range(count)]
    ids = [f"<m{number}>" for number in range(count)]
    return Step("message_post", {"queue_name": "wq", "messages": messages}, 201, {"message_ids": ids})


def in_wq(action: str, status: int, answer: Any = None, /, **body: Any) -> Step:
    return Step(action, {"queue_name": "wq", **body}, status, answer)


ANOTHER_CLIENT = "98e1f4a6-2b9e-11e3-b191-71861300734d"
REFUSED = 400
SAID_CREATED = "Queue wq created."
TTL = 300
SEVEN = [seen(number, ttl=TTL) for number in range(7)]
CLAIMED = [seen(number, ttl=7200, claim="<c>") for number in range(2)]

RECORDED: dict[str, list[Step]] = {
    "queue_create": [
        in_wq("queue_create", 201, SAID_CREATED),
        in_wq("queue_create", 204, SAID_CREATED),
        Step(
            "queue_create",
            {"queue_name": "wq2", "metadata": {"_default_message_ttl": 120, "a": 1}},
            201,
            "Queue wq2 created.",
        ),
        Step("queue_create", {"queue_name": "wq3", "metadata": {"_default_message_ttl": 1}}, REFUSED),
    ],
    "queue_get": [
        in_wq("queue_get", 200, {}),
        in_wq("queue_create", 201, SAID_CREATED, metadata={"a": 1}),
        in_wq("queue_get", 200, {"a": 1}),
        Step("queue_get", {}, REFUSED),
    ],
    "queue_list": [
        Step("queue_list", {}, 200, {"queues": []}),
        *(
            Step("queue_create", {"queue_name": f"wq{i}", "metadata": {"i": i}}, 201, f"Queue wq{i} created.")
            for i in range(4)
        ),
        Step("queue_list", {}, 200, {"queues": [{"name": f"wq{i}"} for i in range(4)]}),
        Step("queue_list", {"limit": 2}, 200, {"queues": [{"name": "wq0"}, {"name": "wq1"}]}),
        Step("queue_list", {"limit": 2, "marker": "wq1"}, 200, {"queues": [{"name": "wq2"}, {"name": "wq3"}]}),
        Step(
            "queue_list",
            {"detailed": True},
            200,
            {"queues": [{"name": f"wq{i}", "metadata": {"i": i}} for i in range(4)]},
        ),
        Step("queue_list", {"limit": 21}, REFUSED),
        Step("queue_list", {"limit": "x"}, REFUSED),
    ],
    "queue_purge": [
        post(2, TTL),
        in_wq("queue_purge", 204, {}, resource_types=["messages"]),
        in_wq("message_list", 200, {"messages": []}, echo=True),
        in_wq("queue_purge", 204, {}),
    ],
    "message_post": [
        post(2, TTL),
        in_wq("message_post", 201, {"message_ids": ["<other>"]}, messages=[{"body": 1}]),
        in_wq("message_post", REFUSED, messages=[{"body": 1, "ttl": 59}]),
        in_wq("message_post", REFUSED, messages=[{"body": 1, "ttl": "x"}]),
        in_wq("message_post", REFUSED, messages=[{"ttl": 60}]),
        in_wq("message_post", REFUSED, messages=[]),
        in_wq("message_post", REFUSED, messages={}),
        in_wq("message_post", REFUSED),
        Step("message_post", {"queue_name": "b@d", "messages": [{"body": 1, "ttl": 60}]}, REFUSED),
    ],
    "message_list": [
        Step("message_list", {"queue_name": "absent"}, 200, {"messages": []}),
        post(7, TTL),
        in_wq("message_list", 200, {"messages": []}),
        in_wq("message_list", 200, {"messages": SEVEN}, echo=True),
        Step("message_list", {"queue_name": "wq"}, 200, {"messages": SEVEN}, ANOTHER_CLIENT),
        in_wq("message_list", 200, {"messages": SEVEN[:3]}, echo=True, limit=3),
        in_wq("message_list", REFUSED, echo=True, limit=21),
        in_wq("message_list", REFUSED, echo=True, limit=0),
        in_wq(
            "claim_create",
            201,
            {"claim_id": "<c>", "messages": [seen(number, ttl=TTL, claim="<c>") for number in range(5)]},
            ttl=60,
            grace=60,
            limit=5,
        ),
        in_wq("message_list", 200, {"messages": SEVEN[5:]}, echo=True),
        in_wq(
            "message_list",
            200,
            {"messages": [seen(number, ttl=TTL, claim="<c>") for number in range(5)] + SEVEN[5:]},
            echo=True,
            include_claimed=True,
        ),
    ],
    "message_delete_many": [
        post(6, TTL),
        in_wq("message_delete_many", 204, {}, message_ids=["<m0>", "<m1>"]),
        in_wq("message_delete_many", 200, {"messages": [seen(n, ttl=TTL, claim_count=0) for n in (2, 3)]}, pop=2),
        in_wq("message_delete_many", REFUSED, message_ids=["<m0>"], pop=1),
        in_wq("message_delete_many", REFUSED),
        in_wq("message_delete_many", REFUSED, pop=21),
        in_wq("message_delete_many", 200, {"messages": [seen(n, ttl=TTL, claim_count=0) for n in (4, 5)]}, pop=20),
        in_wq("message_delete_many", 200, {"messages": []}, pop=1),
    ],
    "claim_create": [
        Step("claim_create", {"queue_name": "absent", "ttl": 60, "grace": 60}, 204, {"claim_id": None}),
        post(3, 7200),
        in_wq("claim_create", 201, {"claim_id": "<c>", "messages": CLAIMED}, ttl=60, grace=60, limit=2),
        in_wq("claim_create", 201, {"claim_id": "<d>", "messages": [seen(2, ttl=7200, claim="<d>")]}),
        in_wq("claim_create", 204, {"claim_id": None}, ttl=60, grace=60),
        in_wq("claim_create", REFUSED, ttl=59, grace=60),
        in_wq("claim_create", REFUSED, ttl=60, grace=43201),
        in_wq("claim_create", REFUSED, ttl=60, grace=60, limit=21),
    ],
    "claim_get": [
        post(3, 7200),
        in_wq("claim_create", 201, {"claim_id": "<c>", "messages": CLAIMED}, ttl=60, grace=60, limit=2),
        in_wq("claim_get", 200, {"age": 0, "ttl": 60, "messages": CLAIMED}, claim_id="<c>"),
        in_wq("claim_get", 404, claim_id="nope"),
        in_wq("claim_get", REFUSED),
    ],
    # The status and the shape are facts that were written down about these, without a recording.
    "the rest": [
        in_wq("queue_get_stats", 404, {"messages": {"claimed": 0, "free": 0, "total": 0}}),
        in_wq("queue_create", 201, SAID_CREATED),
        in_wq("queue_get_stats", 200, {"messages": {"claimed": 0, "free": 0, "total": 0}}),
        post(2, TTL),
        in_wq(
            "queue_get_stats",
            200,
            {
                "messages": {
                    "claimed": 0,
                    "free": 2,
                    "total": 2,
                    "oldest": {"id": "<m0>", "age": 0, "created": "<time>"},
                    "newest": {"id": "<m1>", "age": 0, "created": "<time>"},
                }
            },
        ),
        in_wq("message_get", 200, {"messages": seen(0, ttl=TTL)}, message_id="<m0>"),
        in_wq("message_get", 404, message_id="nope"),
        in_wq("message_get_many", 200, {"messages": [seen(1, ttl=TTL)]}, message_ids=["<m1>", "nope"]),
        in_wq("message_get_many", 200, {"messages": []}, message_ids=["nope"]),
        in_wq("claim_create", 201, {"claim_id": "<c>", "messages": [seen(0, ttl=TTL, claim="<c>")]}, limit=1, ttl=60),
        in_wq("message_delete", 403, message_id="<m0>"),
        in_wq("message_delete", 400, message_id="<m0>", claim_id="nope"),
        in_wq("claim_update", 204, "Claim <c> updated.", claim_id="<c>", ttl=120),
        in_wq("claim_update", 404, claim_id="nope", ttl=120),
        in_wq("message_delete", 204, {}, message_id="<m0>", claim_id="<c>"),
        in_wq("claim_delete", 204, "Claim <c> deleted.", claim_id="<c>"),
        in_wq("claim_delete", 204, "Claim <c> deleted.", claim_id="<c>"),
        in_wq("message_delete", 204, {}, message_id="<m1>"),
        in_wq("queue_delete", 204, "Queue wq removed."),
        in_wq("queue_delete", 204, "Queue wq removed."),
    ],
    "where ours is right instead": [
        # A list was taken, and stored.
        Step("queue_create", {"queue_name": "wq3", "metadata": []}, REFUSED),
        # An unknown type purged nothing, and was answered with 204.
        in_wq("queue_purge", REFUSED, resource_types=["x"]),
        Step("queue_list", {}, 200, {"queues": []}),
        in_wq("queue_create", 201, SAID_CREATED),
        # The count was left out.
        Step("queue_list", {"with_count": True}, 200, {"queues": [{"name": "wq"}], "count": 1}),
    ],
}
"""By the recording's name. What a list answers as the ``marker`` of the next page is added, and looked at elsewhere."""


@pytest.fixture
def parts() -> Iterator[Parts]:
    made = make_parts()
    yield made
    made.close()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("steps", RECORDED.values(), ids=RECORDED.keys())
def test_recorded(parts: Parts, steps: list[Step], format_: Format) -> None:
    client = Client(parts, format_=format_)
    found: dict[str, str] = {}
    for step in steps:
        body = json.loads(_filled(json.dumps(step.body), found))
        reply = client.call(step.action, body, Client_ID=step.client)
        assert reply["headers"] == {"status": step.status}
        answer = reply["body"]
        if step.answer is None:
            assert isinstance(answer["error"], str)
            continue
        if step.action.endswith("_list"):
            answer.pop("marker", None)
        _compare(answer, step.answer, found)


def _filled(text: str, found: dict[str, str]) -> str:
    return re.sub("<[a-z0-9]+>", lambda match: found[match.group()], text)


def _compare(value: Any, recorded: Any, found: dict[str, str]) -> None:
    """Assert that they are equal; the first time that a text in angle brackets comes up it may be anything."""
    if isinstance(recorded, dict):
        assert isinstance(value, dict)
        assert value.keys() == recorded.keys()
        for key, each in recorded.items():
            _compare(value[key], each, found)
    elif isinstance(recorded, list):
        assert isinstance(value, list)
        assert len(value) == len(recorded)
        for one, other in zip(value, recorded, strict=True):
            _compare(one, other, found)
    elif isinstance(recorded, str) and re.fullmatch("<[a-z0-9]+>", recorded):
        assert isinstance(value, str)
        assert value == found.setdefault(recorded, value)
    else:
        wanted = _filled(recorded, found) if isinstance(recorded, str) else recorded
        assert (type(value), value) == (type(wanted), wanted)
