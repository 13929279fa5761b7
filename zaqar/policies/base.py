# SPDX-License-Identifier: Apache-2.0
"""The basic rules, and helpers to define rules."""

from oslo_policy import policy

ADMIN = "role:admin"
ANYBODY = ""


def on_both(method: str, tail: str) -> list[policy.Operation]:
    """Return the operation on queues and the same one on topics, for a rule that covers both."""
    return [{"method": method, "path": f"/v2/{kind}s/{{{kind}_name}}{tail}"} for kind in ("queue", "topic")]


RULES = [
    policy.RuleDefault("context_is_admin", ADMIN, "Who is an administrator of the service."),
    policy.RuleDefault(
        "admin_or_owner", "is_admin:True or project_id:%(project_id)s", "Administrators, and the project of the target."
    ),
]
