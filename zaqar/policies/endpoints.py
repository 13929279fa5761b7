# SPDX-License-Identifier: Apache-2.0
"""The rules of each endpoint, for the documentation and its tests."""

from __future__ import annotations

from oslo_policy import policy

from zaqar.policies import list_rules

Endpoint = tuple[str, str]
"""A method and a path template."""

OPEN: dict[Endpoint, str] = {
    ("GET", "/"): "shows the versions, which are public",
    ("GET", "/v2/"): "describes the API, and nothing of a tenant",
    ("GET", "/v2/openapi.json"): "describes the API, and nothing of a tenant",
    ("GET", "/v2/asyncapi.json"): "describes the API, and nothing of a tenant",
    ("GET", "/confirm"): "the link carries a signature",
    ("POST", "/confirm"): "the link carries a signature",
}
"""Endpoints without a rule, and the reason."""


def rules_of_endpoints() -> dict[Endpoint, list[policy.RuleDefault]]:
    """Return the rules of each endpoint. All of them have to admit a caller without a signature."""
    found: dict[Endpoint, list[policy.RuleDefault]] = {}
    for rule in list_rules():
        for operation in rule.operations if isinstance(rule, policy.DocumentedRuleDefault) else ():
            found.setdefault((operation["method"], operation["path"]), []).append(rule)
    return found
