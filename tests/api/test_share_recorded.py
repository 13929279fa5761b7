# SPDX-License-Identifier: Apache-2.0
"""Exchanges with the reference (zaqar 23.0.1) about pre-signed URLs and confirmations, asked of this service.

Bodies are compared by structure: ids, times and signatures differ. ``OURS`` lists the answers that differ on purpose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.api.client import Api
from zaqar.model import SUBSCRIPTION_CONFIRMATION, QueueName
from zaqar.notification.confirmation import Confirmations

MESSAGES = "/v2/queues/sh/messages"
SHARE = "/v2/queues/sh/share"
HEADERS = ("URL-Signature", "URL-Paths", "URL-Methods", "URL-Expires", "X-Project-ID")


class Exchange(NamedTuple):
    """A recorded request and its answer. ``signed`` holds the differences from the headers of the answer "methods"."""

    name: str
    method: str
    path: str
    body: Any
    status: int
    answer: Any = None
    signed: dict[str, str | None] | None = None


def _shared(methods: list[str], *paths: str) -> dict[str, Any]:
    return {
        "project": "<project>",
        "paths": [f"/v2/queues/sh/{path}" for path in paths or ("messages",)],
        "methods": methods,
        "expires": "<time>",
        "signature": "<sig>",
    }


ERROR = {"title": "<text>"}
MESSAGE = {"age": "<age>", "body": {"n": 0}, "href": f"{MESSAGES}/<id>", "id": "<id>", "ttl": 300}
POST = {"messages": [{"body": {"n": 0}, "ttl": 300}]}

RECORDED = [
    Exchange("default", "POST", SHARE, {}, 200, _shared(["GET"])),
    Exchange("methods", "POST", SHARE, {"methods": ["GET", "POST"]}, 200, _shared(["GET", "POST"])),
    Exchange("use it", "GET", f"{MESSAGES}?echo=true", None, 200, {"links": "<links>", "messages": [MESSAGE]}, {}),
    Exchange("use it for one message", "GET", f"{MESSAGES}/<id>", None, 200, MESSAGE, {}),
    Exchange("use it to post", "POST", MESSAGES, POST, 201, {"resources": [f"{MESSAGES}/<id>"]}, {}),
    Exchange("method not covered", "DELETE", f"{MESSAGES}/<id>", None, 404, ERROR, {}),
    Exchange("other path", "GET", "/v2/queues/sh/claims/x", None, 404, ERROR, {}),
    Exchange("other queue", "GET", "/v2/queues/other/messages", None, 404, ERROR, {}),
    Exchange("other project", "GET", MESSAGES, None, 404, ERROR, {"X-Project-ID": "other"}),
    Exchange("tampered methods", "DELETE", f"{MESSAGES}?pop=1", None, 404, ERROR, {"URL-Methods": "DELETE,GET,POST"}),
    Exchange("wrong signature", "GET", MESSAGES, None, 404, ERROR, {"URL-Signature": "0" * 64}),
    Exchange("empty signature", "GET", MESSAGES, None, 404, ERROR, {"URL-Signature": ""}),
    Exchange("expired", "GET", MESSAGES, None, 404, ERROR, {"URL-Expires": "2015-01-01T00:00:00"}),
    Exchange("expires not a date", "GET", MESSAGES, None, 404, ERROR, {"URL-Expires": "x"}),
    Exchange("no expires", "GET", MESSAGES, None, 200, {"links": [], "messages": []}, {"URL-Expires": None}),
    Exchange(
        "paths",
        "POST",
        SHARE,
        {"methods": ["GET", "DELETE", "PATCH", "PUT"], "paths": ["messages", "subscriptions", "claims"]},
        200,
        _shared(["DELETE", "GET", "PATCH", "PUT"], "claims", "messages", "subscriptions"),
    ),
    Exchange("expires given", "POST", SHARE, {"expires": "2100-01-01T00:00:00"}, 200, _shared(["GET"])),
    Exchange("unknown key", "POST", SHARE, {"foo": 1}, 400, ERROR),
    Exchange("bad path", "POST", SHARE, {"paths": ["queues"]}, 400, ERROR),
    Exchange("methods not a list", "POST", SHARE, {"methods": "GET"}, 400, ERROR),
    Exchange("expires in the past", "POST", SHARE, {"expires": "2015-01-01T00:00:00"}, 400, ERROR),
    Exchange("expires integer", "POST", SHARE, {"expires": 5}, 400, ERROR),
    Exchange("expires text", "POST", SHARE, {"expires": "x"}, 400, ERROR),
    Exchange("empty methods", "POST", SHARE, {"methods": []}, 200, _shared(["GET"])),
    Exchange("empty paths", "POST", SHARE, {"paths": []}, 200, _shared(["GET"])),
    Exchange("unknown method", "POST", SHARE, {"methods": ["BREW"]}, 200, _shared(["BREW"])),
    Exchange("array", "POST", SHARE, [], 500, ERROR),
    Exchange("no body", "POST", SHARE, None, 400, ERROR),
    Exchange("broken json", "POST", SHARE, b"{", 400, ERROR),
    Exchange("GET share", "GET", SHARE, None, 405, ERROR),
]

OURS: dict[str, tuple[int, Any]] = {
    "no expires": (404, ERROR),
    "unknown method": (400, ERROR),
    "array": (400, ERROR),
}
"""Answers that differ: the reference accepts an unsigned request, signs an invalid method, or fails."""


def _generalised(answer: Any) -> Any:
    """The answer with the placeholders of the recording, and without descriptions of errors."""
    if "title" in answer:
        assert set(answer) == {"title", "description"}
        return ERROR
    text = re.sub(r'"(href|id|age)": (?:"(/[^"]*/)?[0-9a-f]{24,}"|[0-9]+)', _placeholder, json.dumps(answer))
    text = re.sub(r"(/messages/)[0-9a-f]{24,}", r"\1<id>", text)
    found = json.loads(text)
    for name, placeholder in (("project", "<project>"), ("expires", "<time>"), ("signature", "<sig>")):
        if name in found:
            found[name] = placeholder
    if found.get("links"):
        found["links"] = "<links>"
    return found


def _placeholder(match: re.Match[str]) -> str:
    return f'"{match[1]}": "{match[2] or ""}{"<age>" if match[1] == "age" else "<id>"}"'


def test_recorded_requests_with_pre_signed_urls_have_the_recorded_answers(make_api: Callable[..., Api]) -> None:
    api = make_api(signed_url__secret_key="k" * 32)
    id_ = api.send("sh", {"n": 0})[0]
    headers: dict[str, str | None] = {}
    for exchange in RECORDED:
        sent = None if exchange.signed is None else headers | exchange.signed
        raw = exchange.body if isinstance(exchange.body, bytes) else None
        result = api.request(
            exchange.method,
            exchange.path.replace("<id>", id_),
            None if raw else exchange.body,
            raw=raw,
            headers=sent,
        )
        status, answer = OURS.get(exchange.name, (exchange.status, exchange.answer))
        assert result.status_code == status, f"{exchange.name}: {result.text}"
        assert _generalised(result.json) == answer, exchange.name
        assert result.headers["Content-Type"].startswith("application/json"), exchange.name
        if exchange.name == "methods":
            shared = result.json
            values = [shared["signature"], ",".join(shared["paths"]), ",".join(shared["methods"])]
            headers = dict(zip(HEADERS, [*values, shared["expires"], shared["project"]], strict=True))


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_recorded_confirmations_have_the_recorded_answers(make_api: Callable[..., Api], kind: str) -> None:
    """A receiver sends back the headers that it got."""
    api = make_api(
        notification__require_confirmation=True,
        notification__webhook_allowed_networks=["192.0.2.0/24"],
        signed_url__secret_key="k" * 32,
    )
    collection = f"/v2/{kind}s/cf/subscriptions"
    subscription = {"subscriber": "http://192.0.2.1/c", "ttl": 600}
    made = api.post(collection, subscription)
    assert (made.status_code, list(made.json)[:1]) == (201, ["subscription_id"])
    assert made.headers["Location"] == collection
    id_ = made.json["subscription_id"]
    stored, now = api.parts.subscriptions.get(QueueName(api.project, kind, "cf"), id_)
    document = json.loads(Confirmations(api.parts.conf).document(SUBSCRIPTION_CONFIRMATION, stored, now=now))
    # A receiver has no account, and at most a Client-ID of its own.
    headers: dict[str, str | None] = {name: document[name] for name in HEADERS}
    path = document["WSGISubscribeURL"].removeprefix("http://127.0.0.1:8888")
    assert path == document["URL-Paths"] == f"{collection}/{id_}/confirm"

    wrong = api.put(path, document["SubscribeBody"], headers={**headers, "URL-Signature": "0" * 64})
    assert (wrong.status_code, _generalised(wrong.json)) == (404, ERROR)
    confirmed = api.put(path, document["SubscribeBody"], headers=headers)
    assert (confirmed.status_code, confirmed.text, confirmed.headers["Location"]) == (204, "", path)
    shown = api.get(f"{collection}/{id_}").json
    shown.pop("age")
    assert shown == {
        "confirmed": True,
        "id": id_,
        "options": {},
        "source": "cf",
        "subscriber": "http://192.0.2.1/c",
        "ttl": 600,
    }
    assert api.put(path, document["UnsubscribeBody"], headers=headers).status_code == 204
    assert api.get(f"{collection}/{id_}").json["confirmed"] is False
    assert api.post(collection, subscription).json["subscription_id"] == id_
