# SPDX-License-Identifier: Apache-2.0
"""Policy rules about the target of a request: names, and the scheme of a subscriber as it is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.client import Api
from tests.api.test_common import assert_error

MakeApi = Callable[..., Api]
ON_MAILS = ("get", "delete", "update", "confirm", "confirm_unsigned", "rotate_secret", "deliveries", "resend")


@pytest.fixture
def make_strict(make_api: MakeApi, tmp_path: Path) -> MakeApi:
    def make(policy: str) -> Api:
        path = tmp_path / "policy.yaml"
        path.write_text(policy)
        return make_api(oslo_policy__policy_file=str(path), notification__webhook_allowed_networks=["192.0.2.0/24"])

    return make


def test_rules_may_depend_on_the_names_of_queues_and_topics(make_strict: MakeApi) -> None:
    api = make_strict("\"messages:create\": \"'open':%(queue_name)s or 'news':%(topic_name)s or role:editor\"\n")
    body = {"messages": [{"body": 1}]}
    for path, status in (("queues/open", 201), ("queues/news", 403), ("topics/news", 201), ("topics/open", 403)):
        assert api.post(f"/v2/{path}/messages", body).status_code == status, path
    assert api.post("/v2/queues/news/messages", body, headers={"X-Roles": "Editor"}).status_code == 201


def subscribe(api: Api, subscriber: str, **headers: str) -> str:
    answer = api.post("/v2/queues/q/subscriptions", {"subscriber": subscriber}, headers=headers)
    assert answer.status_code == 201
    return f"/v2/queues/q/subscriptions/{answer.json['subscription_id']}"


def test_a_rule_may_depend_on_the_scheme_of_a_new_subscriber(make_strict: MakeApi) -> None:
    api = make_strict('"subscription:create": "\'mailto\':%(scheme)s or role:admin"\n')
    path = "/v2/queues/q/subscriptions"
    subscribe(api, "MAILTO:a@example.org")
    assert_error(api.post(path, {"subscriber": "http://192.0.2.1/"}), 403, "subscription:create")
    assert len(api.get(path).json["subscriptions"]) == 1
    subscribe(api, "http://192.0.2.1/", **{"X-Roles": "admin"})
    # A subscriber without a scheme that could be allowed is invalid, whatever the policy says.
    for raw in (b"", b"{", b"[]", b'{"subscriber": 1}', b'{"ttl": 60}'):
        assert_error(api.request("POST", path, raw=raw), 400)


def test_a_rule_may_depend_on_the_scheme_of_a_stored_subscriber(make_strict: MakeApi) -> None:
    rule = "'mailto':%(scheme)s or role:admin"
    api = make_strict("".join(f'"subscription:{action}": "{rule}"\n' for action in ON_MAILS))
    mail, hook = subscribe(api, "mailto:a@example.org"), subscribe(api, "http://192.0.2.1/")
    requests = [
        ("GET", "", None),
        ("PATCH", "", {"ttl": 100}),
        ("PUT", "/confirm", {"confirmed": True}),
        ("POST", "/rotate_secret", None),
        ("GET", "/deliveries", None),
        ("POST", "/resend", {"state": "dead"}),
        ("DELETE", "", None),
    ]
    for method, tail, body in requests:
        assert_error(api.request(method, hook + tail, body), 403, "subscription:")
        # Only webhooks have a secret.
        expected = (400,) if tail == "/rotate_secret" else (200, 204)
        assert api.request(method, mail + tail, body).status_code in expected, (method, tail)
    assert api.get(hook).status_code == 403
    assert api.get(hook, headers={"X-Roles": "admin"}).status_code == 200
    # There is no such subscription, so there is nothing that the rule could allow.
    for path in (mail, mail[:-24] + "0" * 24, mail[:-24] + "x"):
        assert_error(api.get(path), 403)
        assert_error(api.get(path, headers={"X-Roles": "admin"}), 404)


def test_a_change_of_the_subscriber_needs_permission_for_both_schemes(make_strict: MakeApi) -> None:
    api = make_strict('"subscription:update": "\'mailto\':%(scheme)s"\n')
    mail, hook = subscribe(api, "mailto:a@example.org"), subscribe(api, "http://192.0.2.1/")
    assert api.patch(mail, {"subscriber": "mailto:b@example.org"}).status_code == 204
    assert_error(api.patch(mail, {"subscriber": "http://192.0.2.2/"}), 403, "subscription:update")
    assert_error(api.patch(hook, {"subscriber": "mailto:c@example.org"}), 403, "subscription:update")
    assert_error(api.patch(mail, {"subscriber": "nonsense"}), 400)
    assert api.get(mail).json["subscriber"] == "mailto:b@example.org"


def test_the_stored_scheme_is_read_only_if_a_rule_needs_it(
    make_strict: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_strict('"subscription:get": "\'q\':%(queue_name)s"\n')
    mail = subscribe(api, "mailto:a@example.org")
    reads = []
    find = type(api.parts.subscriptions).find
    monkeypatch.setattr(type(api.parts.subscriptions), "find", lambda *args: reads.append(1) or find(*args))
    assert api.get(mail).status_code == 200
    assert len(reads) == 1
