# SPDX-License-Identifier: Apache-2.0
"""The access rules for messages."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY, on_both

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "messages:get_all",
        ANYBODY,
        "List the messages of a queue or topic.",
        on_both("GET", "/messages"),
    ),
    policy.DocumentedRuleDefault("messages:create", ANYBODY, "Post messages.", on_both("POST", "/messages")),
    policy.DocumentedRuleDefault(
        "messages:get",
        ANYBODY,
        "Show a message.",
        on_both("GET", "/messages/{message_id}"),
    ),
    policy.DocumentedRuleDefault(
        "messages:delete",
        ANYBODY,
        "Delete a message.",
        on_both("DELETE", "/messages/{message_id}"),
    ),
    policy.DocumentedRuleDefault(
        "messages:delete_all",
        ANYBODY,
        "Delete or pop several messages.",
        on_both("DELETE", "/messages"),
    ),
]
