# SPDX-License-Identifier: Apache-2.0
"""The access rule for the limits of a project."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "limits:get",
        ANYBODY,
        "Show the limits of the project, and how much of them it uses.",
        [{"method": "GET", "path": "/v2/limits"}],
    ),
]
