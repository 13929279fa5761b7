# SPDX-License-Identifier: Apache-2.0
"""Frames that a running OpenStack Zaqar answered, sent to a session: on each store in JSON, and in MessagePack.

Each row has the frame and its answer. ``ours`` is the answer of this service if it differs on purpose, with the
reason; the compatibility page tells each of them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

from tests.api.client import ALICE, BOB, Api
from tests.api.marks import on_every_store, on_one_store
from zaqar.storage.base.nodes import Node
from zaqar.transport.websocket.session import Session

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.rst").read_text()
WEBHOOK = "http://192.0.2.9/ws"


class Error(NamedTuple):
    """The body of an error: a sentence or null in ``error``, and maybe a text in ``exception``."""

    sentence: bool
    exception: bool


BY_SCHEMA, BY_RULE, BY_BOTH = Error(True, False), Error(False, True), Error(True, True)


class Ours(NamedTuple):
    """Status and body of this service's answer. ``why`` is a part of a sentence on the compatibility page."""

    status: int
    body: Any
    why: str


class Row(NamedTuple):
    """A frame and its answer. ``headers`` replace the usual ones; None leaves one out.

    In bodies ``<m0>`` is the id of the first message that was posted, ``<c0>`` that of the first claim, ``<id>`` is an
    id of any kind and ``<age>`` a number of seconds.
    """

    name: str
    action: str
    body: Any
    status: int
    answer: Any
    ours: Ours | None = None
    headers: Mapping[str, Any] | None = None


NO_BODY = object()


def drafts(count: int, ttl: int) -> list[dict[str, Any]]:
    return [{"body": {"n": n}, "ttl": ttl} for n in range(count)]


def posted(count: int, ttl: int) -> Row:
    body = {"queue_name": "wq", "messages": drafts(count, ttl)}
    return Row("messages are posted", "message_post", body, 201, {"message_ids": ["<id>"] * count})


def shown(*numbers: int, ttl: int = 300, claim: str | None = None, **more: Any) -> list[dict[str, Any]]:
    return [{"age": "<age>", "body": {"n": n}, "claim_id": claim, "id": "<id>", "ttl": ttl, **more} for n in numbers]


def wq(**fields: Any) -> dict[str, Any]:
    return {"queue_name": "wq", **fields}


def refused(name: str, action: str, body: Any, error: Error, **more: Any) -> Row:
    return Row(name, action, body, 400, error, **more)


def listed(*names: str) -> dict[str, Any]:
    return {"queues": [{"name": name} for name in names]}


def with_marker(body: dict[str, Any]) -> Ours:
    return Ours(200, {**body, "marker": body["queues"][-1]["name"]}, "Its answer has a ``marker``")


POPPED: dict[str, Any] = {"claim_count": 0}
ALL_QUEUES = listed("wq0", "wq1", "wq2", "wq3")
DETAILED = {"queues": [{"metadata": {"i": i}, "name": f"wq{i}"} for i in range(4)]}
FREE = {"claim_id": None}

RECORDED: dict[str, list[Row]] = {
    "authenticate": [
        Row(
            "without Keystone",
            "authenticate",
            NO_BODY,
            0,
            "the connection was closed",
            Ours(200, {"message": "Authentified."}, "``authenticate`` without Keystone"),
            headers={"X-Auth-Token": "a token"},
        ),
        Row("and the connection is usable", "queue_list", NO_BODY, 200, {"queues": []}),
    ],
    "claim_create": [
        Row("missing queue", "claim_create", {"queue_name": "absent", "ttl": 60, "grace": 60}, 204, FREE),
        posted(3, 7200),
        Row(
            "two",
            "claim_create",
            wq(ttl=60, grace=60, limit=2),
            201,
            {"claim_id": "<id>", "messages": shown(0, 1, ttl=7200, claim="<id>")},
        ),
        Row("defaults", "claim_create", wq(), 201, {"claim_id": "<id>", "messages": shown(2, ttl=7200, claim="<id>")}),
        Row("nothing left", "claim_create", wq(ttl=60, grace=60), 204, FREE),
        refused("ttl 59", "claim_create", wq(ttl=59, grace=60), BY_RULE),
        refused("grace 43201", "claim_create", wq(ttl=60, grace=43201), BY_RULE),
        refused("limit 21", "claim_create", wq(ttl=60, grace=60, limit=21), BY_RULE),
    ],
    "claim_get": [
        posted(3, 7200),
        Row(
            "claim",
            "claim_create",
            wq(ttl=60, grace=60, limit=2),
            201,
            {"claim_id": "<id>", "messages": shown(0, 1, ttl=7200, claim="<id>")},
        ),
        Row(
            "get",
            "claim_get",
            wq(claim_id="<c0>"),
            200,
            {"age": "<age>", "ttl": 60, "messages": shown(0, 1, ttl=7200, claim="<id>")},
        ),
        Row("missing", "claim_get", wq(claim_id="nope"), 404, BY_BOTH),
        refused("no id", "claim_get", wq(), BY_SCHEMA),
    ],
    "errors": [
        refused("unknown action", "nope", {}, BY_SCHEMA),
        refused("no Client-ID", "queue_list", NO_BODY, BY_SCHEMA, headers={"Client-ID": None}),
        refused("no project", "queue_list", NO_BODY, BY_SCHEMA, headers={"X-Project-ID": None}),
        Row(
            "empty project",
            "queue_list",
            NO_BODY,
            200,
            {"queues": []},
            Ours(400, BY_SCHEMA, "an empty ``X-Project-ID``"),
            headers={"X-Project-ID": ""},
        ),
        refused("bad Client-ID", "message_list", wq(), BY_RULE, headers={"Client-ID": "nope"}),
        refused("body is a string", "queue_create", "x", BY_SCHEMA),
        refused("no queue", "queue_create", {}, BY_SCHEMA),
        refused("bad name", "queue_create", {"queue_name": "b@d"}, BY_RULE),
        Row("still usable", "queue_list", NO_BODY, 200, {"queues": []}),
    ],
    "message_delete_many": [
        posted(6, 300),
        Row("ids", "message_delete_many", wq(message_ids=["<m0>", "<m1>"]), 204, {}),
        Row("pop 2", "message_delete_many", wq(pop=2), 200, {"messages": shown(2, 3, **POPPED)}),
        refused("both", "message_delete_many", wq(message_ids=["<m0>"], pop=1), BY_RULE),
        refused("neither", "message_delete_many", wq(), BY_RULE),
        refused("pop 21", "message_delete_many", wq(pop=21), BY_RULE),
        Row("pop the rest", "message_delete_many", wq(pop=20), 200, {"messages": shown(4, 5, **POPPED)}),
        Row("pop from an empty queue", "message_delete_many", wq(pop=1), 200, {"messages": []}),
    ],
    "message_list": [
        Row("missing queue", "message_list", {"queue_name": "absent"}, 200, {"messages": []}),
        posted(7, 300),
        Row("no echo", "message_list", wq(), 200, {"messages": []}),
        Row("echo", "message_list", wq(echo=True), 200, {"messages": shown(*range(7))}),
        Row("another client", "message_list", wq(), 200, {"messages": shown(*range(7))}, headers={"Client-ID": BOB}),
        Row("limit 3", "message_list", wq(echo=True, limit=3), 200, {"messages": shown(0, 1, 2)}),
        refused("limit 21", "message_list", wq(echo=True, limit=21), BY_RULE),
        refused("limit 0", "message_list", wq(echo=True, limit=0), BY_RULE),
        Row(
            "claim",
            "claim_create",
            wq(ttl=60, grace=60, limit=5),
            201,
            {"claim_id": "<id>", "messages": shown(*range(5), claim="<id>")},
        ),
        Row("claimed ones are hidden", "message_list", wq(echo=True), 200, {"messages": shown(5, 6)}),
        Row(
            "include_claimed",
            "message_list",
            wq(echo=True, include_claimed=True),
            200,
            {"messages": shown(*range(7))},
            Ours(
                200,
                {"messages": [*shown(*range(5), claim="<id>"), *shown(5, 6)]},
                "``claim_id`` of a message that is claimed",
            ),
        ),
    ],
    "message_post": [
        posted(2, 300),
        Row("no ttl", "message_post", wq(messages=[{"body": 1}]), 201, {"message_ids": ["<id>"]}),
        refused("ttl 59", "message_post", wq(messages=[{"body": 1, "ttl": 59}]), BY_RULE),
        refused("ttl is a string", "message_post", wq(messages=[{"body": 1, "ttl": "x"}]), BY_RULE),
        refused("no body", "message_post", wq(messages=[{"ttl": 60}]), BY_RULE),
        refused("empty", "message_post", wq(messages=[]), BY_RULE),
        refused("an object", "message_post", wq(messages={}), BY_SCHEMA),
        refused("no messages", "message_post", wq(), BY_SCHEMA),
        refused("bad name", "message_post", {"queue_name": "b@d", "messages": drafts(1, 60)}, BY_RULE),
    ],
    "queue_create": [
        Row("create", "queue_create", wq(), 201, "Queue wq created."),
        Row("again", "queue_create", wq(), 204, "Queue wq created."),
        Row(
            "metadata",
            "queue_create",
            {"queue_name": "wq2", "metadata": {"_default_message_ttl": 120, "a": 1}},
            201,
            "Queue wq2 created.",
        ),
        refused(
            "bad reserved metadata",
            "queue_create",
            {"queue_name": "wq3", "metadata": {"_default_message_ttl": 1}},
            BY_RULE,
        ),
        Row(
            "metadata is a list",
            "queue_create",
            {"queue_name": "wq3", "metadata": []},
            201,
            "Queue wq3 created.",
            Ours(400, BY_SCHEMA, "``metadata`` of ``queue_create`` must be an object"),
        ),
        Row(
            "missing flavor",
            "queue_create",
            {"queue_name": "wq3", "metadata": {"_flavor": "absent"}},
            204,
            "Queue wq3 created.",
            # The previous row created the queue in OpenStack Zaqar only.
            Ours(201, "Queue wq3 created.", "``metadata`` of ``queue_create`` must be an object"),
        ),
    ],
    "queue_get": [
        Row("missing", "queue_get", wq(), 200, {}),
        Row("create", "queue_create", wq(metadata={"a": 1}), 201, "Queue wq created."),
        Row("get", "queue_get", wq(), 200, {"a": 1}),
        refused("no name", "queue_get", {}, BY_SCHEMA),
    ],
    "queue_list": [
        Row("empty", "queue_list", NO_BODY, 200, {"queues": []}),
        *(
            Row(
                "create",
                "queue_create",
                {"queue_name": f"wq{i}", "metadata": {"i": i}},
                201,
                f"Queue wq{i} created.",
            )
            for i in range(4)
        ),
        Row("all", "queue_list", NO_BODY, 200, ALL_QUEUES, with_marker(ALL_QUEUES)),
        Row("a body", "queue_list", {}, 200, ALL_QUEUES, with_marker(ALL_QUEUES)),
        Row("limit", "queue_list", {"limit": 2}, 200, listed("wq0", "wq1"), with_marker(listed("wq0", "wq1"))),
        Row(
            "marker",
            "queue_list",
            {"limit": 2, "marker": "wq1"},
            200,
            listed("wq2", "wq3"),
            with_marker(listed("wq2", "wq3")),
        ),
        Row("detailed", "queue_list", {"detailed": True}, 200, DETAILED, with_marker(DETAILED)),
        refused("limit 21", "queue_list", {"limit": 21}, BY_RULE),
        refused("limit is a string", "queue_list", {"limit": "x"}, BY_SCHEMA),
        Row(
            "with_count",
            "queue_list",
            {"with_count": True},
            200,
            ALL_QUEUES,
            Ours(200, {**ALL_QUEUES, "marker": "wq3", "count": 4}, "the reference ignores ``with_count``"),
        ),
    ],
    "queue_purge": [
        posted(2, 300),
        Row(
            "bad type",
            "queue_purge",
            wq(resource_types=["x"]),
            204,
            {},
            Ours(400, BY_BOTH, "``queue_purge`` refuses unknown resource types"),
        ),
        Row("messages", "queue_purge", wq(resource_types=["messages"]), 204, {}),
        Row("list", "message_list", wq(echo=True), 200, {"messages": []}),
        Row("no types", "queue_purge", wq(), 204, {}),
    ],
    "subscription_create": [
        Row(
            "of the connection",
            "subscription_create",
            wq(ttl=600),
            201,
            {"message": "Subscription wq created.", "subscription_id": "<id>"},
        ),
        Row("again", "subscription_create", wq(ttl=600), 409, "Subscription wq not created."),
        Row(
            "of a webhook",
            "subscription_create",
            wq(subscriber=WEBHOOK, ttl=600, options={"a": 1}),
            201,
            {"message": "Subscription wq created.", "subscription_id": "<id>"},
            Ours(
                201,
                {"message": "Subscription wq created.", "subscription_id": "<id>", "secret": "<secret>"},
                "The reply to ``subscription_create`` also has the ``secret``",
            ),
        ),
        Row(
            "no ttl",
            "subscription_create",
            {"queue_name": "wq2"},
            201,
            {"message": "Subscription wq2 created.", "subscription_id": "<id>"},
        ),
        refused("ttl 59", "subscription_create", wq(ttl=59), BY_RULE),
        Row(
            "bad subscriber",
            "subscription_create",
            wq(subscriber="ftp://x", ttl=600),
            500,
            BY_BOTH,
            Ours(400, BY_BOTH, "A ``subscriber`` with a scheme that the service does not support is 400"),
        ),
        refused("no queue", "subscription_create", {"ttl": 600}, BY_SCHEMA),
    ],
}


class Client:
    """One connection to a worker, in one of the formats, with a project of its own."""

    def __init__(self, api: Api, form: str) -> None:
        node = Node(uuid.uuid4().hex, "here", "localhost", 0, "", api.clock() + 3600, b"key")
        api.parts.management.nodes.add(node=node)
        api.parts.connection_subscriptions.serve_as(node.id)
        self.session = Session(api.parts, connection=uuid.uuid4().hex)
        self.form = form
        self._headers = {"Client-ID": ALICE, "X-Project-ID": uuid.uuid4().hex}
        self._known: dict[str, str] = {}

    def send(self, frame: Any) -> dict[str, Any]:
        """The reply, which must have the format of the frame."""
        text: str | bytes = json.dumps(frame) if self.form == "json" else msgpack.packb(frame)
        reply = self.session.answer(self.session.read(text))
        assert type(reply.frame) is type(text)
        document: dict[str, Any] = json.loads(reply.frame) if self.form == "json" else msgpack.unpackb(reply.frame)
        assert document["headers"] == {"status": reply.status}
        return document

    def ask(self, row: Row) -> dict[str, Any]:
        sent = {**self._headers, **(row.headers or {})}
        frame: dict[str, Any] = {
            "action": row.action,
            "headers": {name: value for name, value in sent.items() if value is not None},
        }
        if row.body is not NO_BODY:
            frame["body"] = self._filled(row.body)
        reply = self.send(frame)
        self._remember(reply["body"])
        if row.action != "authenticate":
            echo = {"action": row.action, "body": frame.get("body", {}), "api": "v2", "headers": frame["headers"]}
            assert reply["request"] == echo
        else:
            assert reply["request"] == {"action": "authenticate", "body": {}, "api": "v2", "headers": {}}
        return reply

    def _filled(self, value: Any) -> Any:
        text = json.dumps(value)
        return json.loads(re.sub(r"<[mc]\d>", lambda match: self._known[match[0]], text))

    def _remember(self, body: Any) -> None:
        if isinstance(body, dict):
            self._known |= {f"<m{n}>": id_ for n, id_ in enumerate(body.get("message_ids", ()))}
            if body.get("claim_id"):
                self._known.setdefault("<c0>", body["claim_id"])


def masked(value: Any, key: str = "") -> Any:
    """The body of a reply with placeholders, as the table has it."""
    if isinstance(value, dict):
        return {name: masked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner, key) for inner in value]
    if key == "age":
        assert type(value) is int and 0 <= value <= 5
        return "<age>"
    if key in ("id", "claim_id", "subscription_id", "message_ids") and isinstance(value, str):
        return "<id>"
    return "<secret>" if key == "secret" else value


def check_error(expected: Error, body: Any) -> None:
    """An error has a sentence, even if the recorded ``error`` is null, and ``exception`` if the recorded one has it."""
    assert set(body) <= {"error", "exception"}
    assert isinstance(body["error"], str) and body["error"]
    if expected.exception:
        assert isinstance(body["exception"], str) and body["exception"]


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(notification__webhook_allowed_networks=["192.0.2.0/24"])


@on_one_store
@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_frames_have_the_recorded_replies(api: Api, name: str, form: str) -> None:
    replay(Client(api, form), name)


@on_every_store
def test_recorded_frames_have_the_recorded_replies_on_every_store(api: Api) -> None:
    for name in RECORDED:
        replay(Client(api, "json"), name)


def replay(client: Client, name: str) -> None:
    for row in RECORDED[name]:
        reply = client.ask(row)
        expected = (row.ours.status, row.ours.body) if row.ours else (row.status, row.answer)
        assert reply["headers"]["status"] == expected[0], (row.name, reply)
        if isinstance(expected[1], Error):
            check_error(expected[1], reply["body"])
        else:
            assert masked(reply["body"]) == expected[1], row.name


@on_one_store
@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_recorded_frames_that_are_no_requests_are_400(api: Api, form: str) -> None:
    """The reply is 400 with as much of the request as could be read, and the connection stays usable."""
    client = Client(api, form)
    headers = {"Client-ID": ALICE, "X-Project-ID": "p"}
    nothing: dict[str, Any] = {"action": None, "body": {}, "api": "v2", "headers": {}}
    for frame, echo in (
        ([1], nothing),
        (5, nothing),
        ({}, nothing),
        ({"headers": headers}, {**nothing, "headers": headers}),
        ({"action": "queue_list"}, {**nothing, "action": "queue_list"}),
    ):
        reply = client.send(frame)
        assert (reply["headers"], reply["request"]) == ({"status": 400}, echo), frame
        check_error(BY_SCHEMA, reply["body"])
    answer = client.session.answer(client.session.read("{" if client.form == "json" else b"\xc1"))
    assert answer.status == 400 and answer.close is None
    assert client.ask(Row("", "queue_list", NO_BODY, 200, None))["headers"]["status"] == 200


def test_every_difference_is_on_the_compatibility_page() -> None:
    text = " ".join(PAGE.split())
    reasons = {row.ours.why for rows in RECORDED.values() for row in rows if row.ours}
    assert len(reasons) == 9
    assert {reason for reason in reasons if reason not in text} == set()
