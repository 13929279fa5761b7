# SPDX-License-Identifier: Apache-2.0
"""Pre-signed URLs with Keystone: made by a caller with a token, used by a client without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.api.authenticated import AuthenticatedApi
from tests.keystone import Keystone
from zaqar.access import signed_urls
from zaqar.model import QUEUE, QueueName

KEY = "k" * 32
MESSAGES = "/v2/queues/q/messages"
POST = {"messages": [{"body": "here", "ttl": 300}]}


@pytest.fixture(scope="module")
def keystone() -> Keystone:
    keystone: Keystone = servers.shared("keystone")
    return keystone


@pytest.fixture
def make_api(keystone: Keystone, tmp_path: Path) -> Callable[..., AuthenticatedApi]:
    return lambda **options: AuthenticatedApi(keystone, tmp_path, signed_url__secret_key=KEY, **options)


def headers_of(shared: dict[str, Any]) -> dict[str, str]:
    return {
        "URL_Signature": shared["signature"],
        "URL_Paths": ",".join(shared["paths"]),
        "URL_Methods": ",".join(shared["methods"]),
        "URL_Expires": shared["expires"],
        "X_Project_ID": shared["project"],
    }


def test_a_member_shares_a_queue_and_a_client_without_a_token_posts(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone
) -> None:
    api, token = make_api(), keystone.token("member", "demo")
    wanted = {"methods": ["POST", "GET"]}
    for bad in (None, "bad"):
        assert api.status("/v2/queues/q/share", "POST", body=wanted, token=bad) == 401
    # The project is the token's, whatever a header says.
    other = keystone.id_of("project", "other")
    shared = api.request("POST", "/v2/queues/q/share", wanted, token=token, X_Project_ID=other).json
    assert shared["project"] == keystone.id_of("project", "demo")
    headers, questions = headers_of(shared), api.questions
    assert api.request("POST", MESSAGES, POST, **headers).status_code == 201
    listed = api.get(f"{MESSAGES}?echo=true", **headers, X_Roles="admin", X_Identity_Status="Confirmed")
    assert [message["body"] for message in listed.json["messages"]] == ["here"]
    assert api.questions == questions, "Keystone is not asked about a signature"
    for path in ("/v2/queues/q", "/v2/queues", "/v2/health", "/v2/queues/q/stats", "/v2/queues/other/messages"):
        assert api.status(path, **headers) == 404
        assert api.status(path, token=token, **headers) == 404, "a token beside a signature does not count"
    assert api.status("/v2/queues/q/share", "POST", body={}, **headers) == 404
    assert api.status(MESSAGES, **{**headers, "X_Project_ID": other}) == 404
    assert api.status(MESSAGES, **{name: value for name, value in headers.items() if name != "URL_Signature"}) == 401
    api.clock.advance(86400)
    assert api.status(MESSAGES, **headers) == 404


def test_a_reader_can_share_only_what_a_reader_may_do(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone, tmp_path: Path
) -> None:
    rules = tmp_path / "policy.yaml"
    rules.write_text('"messages:create": "role:member"\n')
    api = make_api(oslo_policy__policy_file=str(rules))
    reader, member = keystone.token("reader", "demo"), keystone.token("member", "demo")

    def status(token: str, *methods: str) -> int:
        return api.status("/v2/queues/q/share", "POST", body={"methods": methods}, token=token)

    assert (status(reader, "GET"), status(reader, "POST", "GET"), status(member, "POST")) == (200, 403, 200)


def test_a_confirmation_without_a_valid_signature_changes_nothing(
    make_api: Callable[..., AuthenticatedApi], keystone: Keystone
) -> None:
    """Such a request passes Keystone, because its signature is compared with the subscription only later."""
    api = make_api(notification__require_confirmation=True, notification__webhook_allowed_networks=["192.0.2.0/24"])
    token, project = keystone.token("member", "demo"), keystone.id_of("project", "demo")
    subscriber = {"subscriber": "http://192.0.2.1/"}
    made = api.request("POST", "/v2/queues/q/subscriptions", subscriber, token=token).json
    one = f"/v2/queues/q/subscriptions/{made['subscription_id']}"

    def headers(key: str, *terms: str) -> dict[str, str]:
        expires = signed_urls.format_time(api.clock() + 60)
        paths, methods = [f"{one}/confirm"], ["PUT"]
        signature = signed_urls.sign(
            key, project=project, paths=paths, methods=methods, expires=expires, bound_to=terms
        )
        return headers_of(
            {"signature": signature, "paths": paths, "methods": methods, "expires": expires, "project": project}
        )

    stored, _ = api.parts.subscriptions.get(QueueName(project, QUEUE, "q"), made["subscription_id"])
    confirm = {"confirmed": True}
    refused = {
        api.request("PUT", f"{one}/confirm", body, **bad, X_Roles="admin").text
        for bad in (headers("x" * 32, *stored.grant_terms), headers(KEY), headers(KEY, "http://192.0.2.2/", "0"))
        for body in (confirm, None, [])
    }
    assert refused == {'{"title":"Not found","description":"The signature does not open this."}'}
    for method in ("GET", "PATCH", "DELETE", "POST"):
        assert api.status(f"{one}/confirm", method, **headers(KEY, *stored.grant_terms)) == 404
    assert api.get(one, token=token).json["confirmed"] is False
    assert api.status(f"{one}/confirm", "PUT", body=confirm, **headers(KEY, *stored.grant_terms)) == 204
    assert api.get(one, token=token).json["confirmed"] is True
