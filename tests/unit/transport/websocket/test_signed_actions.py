# SPDX-License-Identifier: Apache-2.0
"""The actions that the headers of a pre-signed URL open, their caller, and signatures that open nothing."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.websocket import JSON, MSGPACK, Format
from zaqar import app, conf
from zaqar.access.signed_urls import format_time, sign
from zaqar.model import QUEUE, QueueName
from zaqar.schemas.share import METHODS
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.action import Action, Answer, Call
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.session import Session

PAGE = Path(__file__).parents[4] / "docs" / "signed_urls.rst"
KEY, OLD_KEY = "k" * 32, "o" * 32
PROJECT = "9b0c4b8a6e8b4d0f"
ID = "0123456789abcdef01234567"

OPENED: Mapping[tuple[str, str], set[str]] = {
    ("messages", "GET"): {
        "message_list",
        "message_get",
        "message_get_many",
        "stream_open",
        "stream_credit",
        "stream_close",
    },
    ("messages", "POST"): {"message_post"},
    ("messages", "DELETE"): {"message_delete", "message_delete_many"},
    ("claims", "POST"): {"claim_create"},
    ("claims", "GET"): {"claim_get"},
    ("claims", "PATCH"): {"claim_update"},
    ("claims", "DELETE"): {"claim_delete"},
    ("subscriptions", "GET"): {"subscription_list", "subscription_get"},
    ("subscriptions", "POST"): {"subscription_create"},
    ("subscriptions", "PATCH"): {"subscription_update"},
    ("subscriptions", "PUT"): {"subscription_confirm"},
    ("subscriptions", "DELETE"): {"subscription_delete"},
}
"""The actions by path and method. Other paths and methods open nothing."""

OF_TOPICS = ("messages", "subscriptions")


class Probe:
    """The service on stores in memory, and a session whose actions only record their callers."""

    def __init__(self, **options: Any) -> None:
        configuration = conf.load(default_config_files=[])
        settings = {"signed_url__secret_key": KEY, "signed_url__previous_secret_keys": [OLD_KEY], "admin_mode": True}
        for name, value in {**settings, "pooling": True, **options}.items():
            group, _, option = name.rpartition("__")
            configuration.set_override(option, value, group or None)
        self.clock = FakeClock()
        self.parts = app.build(
            configuration, clock=self.clock, management=MemoryManagementStore(), messages=MemoryMessageStore()
        )
        self.calls: list[Call] = []
        actions = {name: replace(action, handle=self._note) for name, action in ACTIONS.items()}
        self._session = Session(self.parts, connection=uuid.uuid4().hex, actions=actions)

    def _note(self, parts: app.Parts, call: Call) -> Answer:
        self.calls.append(call)
        return Answer(200, {})

    def ask(self, action: str, body: Any, headers: Mapping[str, Any], form: Format = JSON) -> tuple[int, Any]:
        """Status and body of the reply. It must not repeat a signature of the frame."""
        named = {"Client-ID": str(uuid.uuid4()), **headers}
        frame = {"action": action, "headers": named, "body": body}
        reply = self._session.answer(self._session.read(form.encode(frame)))
        document = form.decode(reply.frame)
        signature = headers.get("URL-Signature")
        if isinstance(signature, str) and len(signature) > 1:
            assert signature not in json.dumps(document)
        return reply.status, document["body"]

    def is_opened(self, action: str, body: Any, headers: Mapping[str, Any], form: Format = JSON) -> bool:
        """Whether the action was carried out. If not, the reply must be the one refusal of signatures."""
        before = len(self.calls)
        status, answer = self.ask(action, body, headers, form)
        if status == 200:
            assert len(self.calls) == before + 1
            return True
        assert (status, answer["error"]) == (403, "The signature does not open this."), (action, answer)
        assert len(self.calls) == before
        return False

    def grant(
        self,
        paths: Sequence[str],
        methods: Sequence[str],
        *,
        key: str = KEY,
        seconds: float = 60,
        project: str = PROJECT,
        bound_to: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The headers with a signature, as lists."""
        expires = format_time(self.clock() + seconds)
        signature = sign(key, project=project, paths=paths, methods=methods, expires=expires, bound_to=bound_to)
        return {
            "URL-Signature": signature,
            "URL-Paths": list(paths),
            "URL-Methods": list(methods),
            "URL-Expires": expires,
            "X-Project-ID": project,
        }


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe()


def body_of(action: Action, kind: str = "queue", name: str = "mail") -> dict[str, Any]:
    """A valid body of this action: each required field, and the queue or topic."""
    values: dict[str, Any] = {"string": ID, "integer": 60, "boolean": True, "array": [], "object": {}}
    body = {field: values[about.type] for field, about in action.fields.items() if about.required}
    body |= {f"{each}_name": name for each in ("queue", "topic") if f"{each}_name" in body}
    if f"{kind}_name" in action.fields:
        body[f"{kind}_name"] = name
    return body


def kinds_of(action: Action) -> list[str]:
    return [kind for kind in ("queue", "topic") if f"{kind}_name" in action.fields]


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["queue", "topic"])
@pytest.mark.parametrize("collection", ["messages", "claims", "subscriptions"])
@pytest.mark.parametrize("method", METHODS)
def test_each_signed_path_and_method_opens_its_actions(probe: Probe, kind: str, collection: str, method: str) -> None:
    headers = probe.grant([f"/v2/{kind}s/mail/{collection}"], [method])
    opened = {
        action.name
        for action in ACTIONS.values()
        if action.name != "authenticate" and probe.is_opened(action.name, body_of(action, kind), headers)
    }
    expected = OPENED.get((collection, method), set())
    assert opened == (expected if kind == "queue" or collection in OF_TOPICS else set())


def test_the_documentation_has_the_table_of_signed_actions() -> None:
    text = PAGE.read_text()
    section = text[text.index(".. _signed-frames:") : text.index("If it is refused")]
    shown, path = {}, ""
    for first, second, third in re.findall(r"   \* -(.*)\n     -(.*)\n     -(.*)\n", section):
        path = first.strip(" `") or path
        if actions := set(re.findall(r"``(\w+_\w+)``", third)):
            shown[path, second.strip(" `")] = actions
    assert shown == OPENED


@pytest.mark.parametrize("form", [JSON, MSGPACK], ids=lambda form: form.name)
@pytest.mark.parametrize(("collection", "method"), OPENED)
def test_a_body_must_name_the_signed_queue_or_topic(probe: Probe, collection: str, method: str, form: Format) -> None:
    for name in OPENED[collection, method]:
        action = ACTIONS[name]
        headers = probe.grant([f"/v2/queues/mail/{collection}"], [method])
        assert probe.is_opened(name, body_of(action), headers, form)
        for other in ("Mail", "mai", "mail2", "mail.", "-"):
            assert not probe.is_opened(name, body_of(action, name=other), headers, form)
        if "topic" in kinds_of(action):
            assert not probe.is_opened(name, body_of(action, "topic"), headers, form)
            status, answer = probe.ask(name, body_of(action) | {"topic_name": "mail"}, headers, form)
            assert status == 400, answer
        for path in ("/v2/queues/other", "/v2/topics/mail", "/v1/queues/mail", "/v2/queues/mail/messages"):
            assert not probe.is_opened(name, body_of(action), probe.grant([f"{path}/{collection}"], [method]), form)


IDS = [f"{ID}/confirm", f"{ID}/../{ID}", "..", ".", "", "a/b", "a%2Fb", "a?b", "a#b", "\u00fc", "x" * 129, "a b"]


@pytest.mark.parametrize("value", IDS)
def test_an_id_cannot_lead_to_another_path(probe: Probe, value: str) -> None:
    """It is one segment of the path, so it cannot lead out of the signed path."""
    signed = [f"/v2/queues/mail/{each}" for each in ("messages", "claims", "subscriptions")]
    headers = probe.grant(signed, METHODS)
    for noun in ("message", "claim", "subscription"):
        assert not probe.is_opened(f"{noun}_get", {"queue_name": "mail", f"{noun}_id": value}, headers)


@pytest.mark.parametrize("name", ["..", ".", "mail/messages", "mail%2Fx", "", "x" * 65, "\u00fc", "mail\n"])
def test_a_name_cannot_lead_to_another_path(probe: Probe, name: str) -> None:
    before = len(probe.calls)
    headers = probe.grant([f"/v2/queues/{name}/messages", "/v2/queues/mail/messages"], ["GET"])
    status, answer = probe.ask("message_list", {"queue_name": name}, headers)
    assert status in (400, 403), answer
    assert len(probe.calls) == before


# -- for whom ----------------------------------------------------------------------------------------------------------


def test_a_signed_action_has_no_identity_whatever_its_headers_claim(probe: Probe) -> None:
    """Without Keystone headers say who a caller is, but not beside a signature."""
    claims = {"X-Roles": "admin", "X-User-Id": "root", "X-Auth-Token": "x" * 20, "X-Service-Token": "y" * 20}
    headers = probe.grant(["/v2/queues/mail/messages"], ["GET"])
    assert probe.is_opened("message_list", {"queue_name": "mail"}, {**headers, **claims})
    caller = probe.calls[-1].caller
    assert (caller.project, caller.signed, caller.user_id, caller.token) == (PROJECT, True, None, None)
    assert (caller.roles, caller.system_scope, probe.calls[-1].grant) == (frozenset(), None, None)
    assert probe.calls[-1].queue_name == QueueName(PROJECT, QUEUE, "mail")
    # The next frame has no identity: the signed frame leaves nothing behind.
    status, _ = probe.ask("message_list", {"queue_name": "mail"}, {"X-Project-ID": "other"})
    assert status == 200
    assert (probe.calls[-1].caller.project, probe.calls[-1].caller.signed) == ("other", False)


def test_names_of_headers_match_in_any_case(probe: Probe) -> None:
    headers = probe.grant(["/v2/queues/mail/messages"], ["GET"])
    for change in (str.lower, str.upper, lambda name: name.replace("-", "_")):
        spelt = {change(name): headers[name] for name in headers}
        assert probe.is_opened("message_list", {"queue_name": "mail"}, spelt)
    forged = {**headers, "url-signature": "0" * 64}
    assert probe.ask("message_list", {"queue_name": "mail"}, forged)[0] in (400, 403)


@pytest.mark.parametrize("value", [None, "", " ", 0, False, [], {}, "0" * 64])
def test_a_frame_with_an_invalid_signature_is_not_served_without_one(probe: Probe, value: Any) -> None:
    """A frame with the header is never served as a frame without it."""
    before = len(probe.calls)
    status, answer = probe.ask("queue_list", {}, {"X-Project-ID": PROJECT, "URL-Signature": value})
    assert (status, len(probe.calls)) == (403, before), answer


# -- time and keys -----------------------------------------------------------------------------------------------------


def test_a_signature_expires_at_its_time() -> None:
    probe = Probe()
    headers = probe.grant(["/v2/queues/mail/messages"], ["GET"], seconds=10)
    body = {"queue_name": "mail"}
    assert probe.is_opened("message_list", body, headers)
    probe.clock.advance(9.9)
    assert probe.is_opened("message_list", body, headers)
    probe.clock.advance(0.1)
    assert not probe.is_opened("message_list", body, headers)


def test_only_signatures_by_present_and_former_keys_are_valid(probe: Probe) -> None:
    paths, body = ["/v2/queues/mail/messages"], {"queue_name": "mail"}
    assert probe.is_opened("message_list", body, probe.grant(paths, ["GET"], key=OLD_KEY))
    for key in ("", "another", KEY[:-1]):
        assert not probe.is_opened("message_list", body, probe.grant(paths, ["GET"], key=key))
    keyless = Probe(signed_url__secret_key=None, signed_url__previous_secret_keys=[])
    for key in ("", KEY):
        assert not keyless.is_opened("message_list", body, keyless.grant(paths, ["GET"], key=key))


# -- confirmations -----------------------------------------------------------------------------------------------------


def test_a_confirmation_opens_only_its_action(probe: Probe) -> None:
    path = f"/v2/queues/mail/subscriptions/{ID}/confirm"
    headers = probe.grant([path], ["PUT"], bound_to=["http://192.0.2.1", "1"])
    body = {"queue_name": "mail", "subscription_id": ID, "confirmed": True}
    # The handler must check the grant, because only the handler reads the subscription.
    assert probe.is_opened("subscription_confirm", body, headers)
    grant = probe.calls[-1].grant
    assert grant is not None
    assert grant(["http://192.0.2.1", "1"])
    assert not grant(["http://192.0.2.1", "2"])
    assert not probe.is_opened("subscription_confirm", {**body, "subscription_id": ID[::-1]}, headers)
    assert not probe.is_opened("subscription_confirm", {**body, "queue_name": "other"}, headers)
    topic = {name: value for name, value in body.items() if name != "queue_name"} | {"topic_name": "mail"}
    assert not probe.is_opened("subscription_confirm", topic, headers)
    for action in ACTIONS.values():
        if action.name not in ("authenticate", "subscription_confirm"):
            assert not probe.is_opened(action.name, body_of(action), headers)
            # Nor if the path of another action is signed with it.
            paths = [path, "/v2/queues/mail/messages", "/v2/queues/mail/claims", "/v2/queues/mail/subscriptions"]
            more = probe.grant(paths, METHODS, bound_to=["http://192.0.2.1", "1"])
            assert not probe.is_opened(action.name, body_of(action), more)
