# SPDX-License-Identifier: Apache-2.0
"""The access rules for the health of the service."""

from oslo_policy import policy

from zaqar.policies.base import ADMIN, ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "ping:get",
        ANYBODY,
        "Ask whether the service and its stores answer.",
        [{"method": method, "path": "/v2/ping"} for method in ("GET", "HEAD")],
    ),
    policy.DocumentedRuleDefault(
        "health:get", ADMIN, "Show the state of the service and its stores.", [{"method": "GET", "path": "/v2/health"}]
    ),
]
