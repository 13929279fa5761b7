# SPDX-License-Identifier: Apache-2.0
"""Every endpoint checks the rule that the documentation names for it, with the right target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import JSON_PATCH, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from zaqar.context import Context
from zaqar.model import QueueName
from zaqar.policies import list_rules
from zaqar.policies.endpoints import OPEN, Endpoint, rules_of_endpoints
from zaqar.policies.targets import target_names
from zaqar.transport.wsgi import app

SHARE = {("POST", f"/v2/{kind}s/{{{kind}_name}}/share") for kind in ("queue", "topic")}

NAMES = {
    "queue_name": "q",
    "topic_name": "t",
    "pool_name": "fast",
    "flavor_name": "gold",
    "message_id": "50b68a50d6f5b8c8a7c62b01",
    "claim_id": "51db7067821e727dc24df754",
    "subscription_id": "51db7067821e727dc24df755",
    "delivery_id": "0" * 36,
}
BODIES: dict[Endpoint, Any] = {
    ("POST", "/messages"): {"messages": [{"body": 1, "ttl": 60}]},
    ("POST", "/subscriptions"): {"subscriber": "mailto:b@example.org", "ttl": 60},
    ("PATCH", "/subscriptions/{subscription_id}"): {"subscriber": "mailto:c@example.org"},
}


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("{}")
    monkeypatch.setenv("OS_OSLO_POLICY__POLICY_FILE", str(path))
    return path


@pytest.fixture
def api(tmp_path: Path, policy_file: Path) -> Iterator[Api]:
    driver = DRIVERS["memory"]
    options = {"pooling": True, "pooling:catalog__enable_virtual_pool": True}
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), **options)
    yield api
    api.close()


def endpoints(api: Api) -> list[Endpoint]:
    """Method and path template of everything that is served."""
    return [
        (name.removeprefix("on_").upper(), path)
        for path, resource in (app.routes(api.parts) | app.pages(api.parts)).items()
        for name in dir(resource)
        if name.startswith("on_")
    ]


def documented() -> dict[Endpoint, list[str]]:
    """The rules of each endpoint, from the descriptions of the rules."""
    return {endpoint: [rule.name for rule in rules] for endpoint, rules in rules_of_endpoints().items()}


def request(api: Api, endpoint: Endpoint) -> int:
    method, path = endpoint
    body = BODIES.get((method, path.partition("_name}")[2]))
    headers: dict[str, str | None] = {"X-Roles": "admin", "X-User-Id": "user"}
    if method == "PATCH" and path.endswith(("{queue_name}", "{topic_name}")):
        headers["Content-Type"] = JSON_PATCH
    return api.request(method, path.format(**NAMES), body, headers=headers).status_code


def test_every_endpoint_has_a_rule_or_is_open_on_purpose(api: Api) -> None:
    served = endpoints(api)
    assert len(set(served)) == len(served)
    assert set(served) - documented().keys() == OPEN.keys()
    assert documented().keys() - set(served) <= SHARE


def test_each_rule_is_checked_by_exactly_its_endpoints(api: Api, policy_file: Path) -> None:
    """With a policy that refuses some rules, 403 for the endpoints that these rules name and for no others.

    If an endpoint checked another rule than its own, or one more, one of the policies would show it.
    """
    served = endpoints(api)
    rules = documented()
    names = sorted({name for names in rules.values() for name in names})
    several = {frozenset(of_endpoint) for of_endpoint in rules.values() if len(of_endpoint) > 1}
    for refused in [*halves(names), *(set(names) - of_endpoint for of_endpoint in several)]:
        policy_file.write_text("".join(f'"{rule}": "!"\n' for rule in refused))
        api.parts.authorizer.reload(api.parts.conf)
        found = {endpoint for endpoint in served if request(api, endpoint) == 403}
        assert found == {endpoint for endpoint in served if refused & set(rules.get(endpoint, ()))}, refused


def halves(names: list[str]) -> Iterator[set[str]]:
    """Yield sets of names. For any two names, one of the sets has the first name and not the second.

    Each set has the names that have a certain bit in their place, or those without it. So there are few sets: twice the
    logarithm of the number of names.
    """
    for bit in range((len(names) - 1).bit_length()):
        with_bit = {name for place, name in enumerate(names) if place >> bit & 1}
        yield with_bit
        yield set(names) - with_bit


def removes_last(endpoint: Endpoint) -> tuple[bool, int]:
    """The order in which each request finds its resource: requests that remove most come last."""
    return endpoint[0] == "DELETE" or endpoint[1].endswith("/purge"), -len(endpoint[1])


def test_every_endpoint_passes_its_target(api: Api, monkeypatch: pytest.MonkeyPatch, policy_file: Path) -> None:
    """The targets in the guide are those of the calls, with a policy that uses the scheme in all rules."""
    seen: dict[str, set[str]] = {}
    check = type(api.parts.authorizer).check

    def note(self: Any, context: Context, rule: str, queue_name: QueueName | None = None, **attributes: str) -> None:
        names = set(attributes)
        if queue_name is not None:
            assert queue_name.project == context.project == api.project
            names |= {"kind", f"{queue_name.kind}_name"}
            assert queue_name.name == NAMES[f"{queue_name.kind}_name"]
        assert all(attributes[name] == NAMES[name] for name in attributes if name.endswith("_name"))
        seen.setdefault(rule, set()).update(names)
        check(self, context, rule, queue_name, **attributes)

    policy_file.write_text(
        "".join(
            f'"{rule.name}": "not \'x\':%(scheme)s"\n' for rule in list_rules() if "scheme" in target_names(rule.name)
        )
    )
    api.parts.authorizer.reload(api.parts.conf)
    made = {}
    for kind, name in (("queues", "q"), ("topics", "t")):
        body = {"subscriber": "mailto:a@example.org"}
        made[kind] = api.post(f"/v2/{kind}/{name}/subscriptions", body).json["subscription_id"]
    monkeypatch.setattr(type(api.parts.authorizer), "check", note)
    # Requests that remove something come last, and requests that remove most at the very end.
    for endpoint in sorted(endpoints(api), key=removes_last):
        monkeypatch.setitem(NAMES, "subscription_id", made["topics" if "topics" in endpoint[1] else "queues"])
        request(api, endpoint)
    of_caller = {"project_id", "tenant_id", "user_id"}
    shares = {"queues:share", "topics:share"}
    names = {rule for rules in documented().values() for rule in rules}
    assert seen.keys() | shares == names
    for rule in names - shares:
        assert seen[rule] == target_names(rule) - of_caller, rule
