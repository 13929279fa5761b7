# SPDX-License-Identifier: Apache-2.0
"""Who may use messages."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "messages:get_all",
        ANYBODY,
        "List the messages of a queue or topic.",
        [{"method": "GET", "path": "/v2/queues/{queue_name}/messages"}],
    ),
    policy.DocumentedRuleDefault(
        "messages:create", ANYBODY, "Post messages.", [{"method": "POST", "path": "/v2/queues/{queue_name}/messages"}]
    ),
    policy.DocumentedRuleDefault(
        "messages:get",
        ANYBODY,
        "Show a message.",
        [{"method": "GET", "path": "/v2/queues/{queue_name}/messages/{message_id}"}],
    ),
    policy.DocumentedRuleDefault(
        "messages:delete",
        ANYBODY,
        "Delete a message.",
        [{"method": "DELETE", "path": "/v2/queues/{queue_name}/messages/{message_id}"}],
    ),
    policy.DocumentedRuleDefault(
        "messages:delete_all",
        ANYBODY,
        "Delete or pop several messages.",
        [{"method": "DELETE", "path": "/v2/queues/{queue_name}/messages"}],
    ),
]
