# SPDX-License-Identifier: Apache-2.0
"""The examples of the WebSocket reference work: each example on the page is carried out, in both formats."""

from __future__ import annotations

import importlib.util
import json
import re
import textwrap
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.unit.workers import make_limits
from zaqar import conf
from zaqar.transport.websocket import asyncapi, close_codes
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.wsgi import openapi

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "websocket.rst").read_text()
NGINX = (ROOT / "etc" / "nginx" / "zaqar.conf").read_text()
ALL_ACTIONS = asyncapi.all_actions(ACTIONS)


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


examples = _load("websocket_examples")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    api = openapi.document(make_limits(), admin_mode=True, pooling=True)
    made = asyncapi.document(
        ACTIONS,
        limits=make_limits(),
        schemas=api["components"]["schemas"],
        served=asyncapi.Served(admin_mode=True, pooling=True, keystone=True, host="h", port=1),
        close_codes=close_codes.MEANINGS,
    )
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(made))
    return decoded


def check(described: dict[str, Any], message: str, member: str, value: Any) -> None:
    schema = described["channels"]["connection"]["messages"][message]["payload"]["properties"][member]
    whole = {"allOf": [schema], "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize("name", ALL_ACTIONS)
def test_examples_are_answered_as_the_page_says(described: dict[str, Any], name: str) -> None:
    action = ALL_ACTIONS[name]
    example = examples.run(action)
    assert example.status in action.answers, example.reply
    check(described, name, "body", example.request)
    check(described, f"{name}.{example.status}", "body", example.reply)
    # The other format has the same answer, and a second run shows the same ids.
    assert examples.run(action, form="msgpack") == example


def test_a_connection_subscribes_itself(described: dict[str, Any]) -> None:
    for form in ("json", "msgpack"):
        example = examples.run(ACTIONS["subscription_create"], form=form, own=True)
        assert example.status == 201
        assert "subscriber" not in example.request
        check(described, "subscription_create.201", "body", example.reply)


def test_the_page_shows_placeholders_instead_of_random_ids() -> None:
    uid, id_ = uuid.uuid4().hex[:24], uuid.uuid4().hex
    shown = examples.mask({"a": [f"{uid}000000000007", id_, "whsec_" + id_], "text": f"Claim {uid} deleted."})
    assert uid not in json.dumps(shown) and id_ not in json.dumps(shown)
    assert shown["a"][0].endswith("000000000007")


def blocks(page: str) -> list[Any]:
    found = re.findall(r"^\.\. code-block:: json\n\n((?:   .*\n|\n)+)", page, re.MULTILINE)
    return [json.loads(textwrap.dedent(block)) for block in found]


def test_the_frames_of_the_page_are_real(described: dict[str, Any]) -> None:
    request, reply, authentication, push, waiting, opening, frame = blocks(PAGE)
    with examples.service() as made:
        answer = made.session.answer(made.session.read(json.dumps(request)))
        authenticated = made.session.answer(made.session.read(json.dumps(authentication)))
    assert json.loads(answer.frame) == reply
    assert authenticated.status == 200
    jsonschema.validate(authentication, described["channels"]["connection"]["messages"]["authenticate"]["payload"])
    payload = described["channels"]["connection"]["messages"]["notification"]["payload"]
    jsonschema.validate(push, payload)
    assert set(push) == set(payload["properties"])
    with examples.service() as made:
        assert made.session.answer(made.session.read(json.dumps(waiting))).pending is not None
        opened = json.loads(made.session.answer(made.session.read(json.dumps(opening))).frame)
    assert set(opened["body"]) == {"position"}
    schema = described["channels"]["connection"]["messages"]["stream.message"]["payload"]
    jsonschema.Draft202012Validator({"allOf": [schema], "components": described["components"]}).validate(frame)


def test_the_error_of_the_description_is_real(described: dict[str, Any]) -> None:
    (shown,) = described["channels"]["connection"]["messages"]["error"]["examples"]
    request = shown["payload"]["request"]
    frame = {"action": request["action"], "headers": request["headers"], "body": request["body"]}
    with examples.service() as made:
        answer = made.session.answer(made.session.read(json.dumps(frame)))
    assert json.loads(answer.frame) == shown["payload"]


@pytest.mark.parametrize(
    ("status", "action", "body"),
    [
        (400, "queue_create", {"queue_name": "a b"}),
        (400, "queue_create", "text"),
        (400, "no_action", {}),
        (403, "pool_delete", {"pool_name": "gold"}),
        (404, "message_get", {"queue_name": "greetings", "message_id": "0" * 36}),
        (404, "queue_get_stats", {"queue_name": "absent"}),
        (404, "topic_get_stats", {"topic_name": "absent"}),
        (409, "subscription_create", {"queue_name": "greetings"}),
        (503, "subscription_create", {"queue_name": "greetings"}),
    ],
)
def test_the_described_errors_are_real(described: dict[str, Any], status: int, action: str, body: Any) -> None:
    frame = {"action": action, "headers": {"Client-ID": examples.CLIENT, "X-Project-ID": "demo"}, "body": body}
    with examples.service() as made:
        if status == 409:
            made.prepare_node()
            assert made.ask(action, body)[0] == 201
        answer = made.session.answer(made.session.read(json.dumps(frame)))
    assert answer.status == status
    payload = described["channels"]["connection"]["messages"]["error"]["payload"]
    whole = {"allOf": [payload], "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(json.loads(answer.frame))


def test_the_proxy_of_the_sample_waits_longer_than_a_ping() -> None:
    location = NGINX[NGINX.index("location = /websocket {") :]
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", location)
    options = conf.load([], default_config_files=[])["drivers:transport:websocket"]
    assert int(seconds) > options.ping_interval


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "subscription_confirm"])
def test_a_signature_opens_what_the_page_says(name: str) -> None:
    """The path is that of the action itself, or of the collection above it."""
    action = ACTIONS[name]
    collection = re.sub(r"/{(message|claim|subscription)_id}$", "", action.path)
    with examples.service() as made:
        body = made.prepare(action)
        path = collection.format(**body)
        status, answer = made.ask(name, body, headers=made.signature(path, action.method))
        opened = status != 403
    assert opened is asyncapi.opens_signed(action), (path, answer)
