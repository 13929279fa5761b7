# SPDX-License-Identifier: Apache-2.0
"""The access rules for queues."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "queues:get_all", ANYBODY, "List the queues of a project.", [{"method": "GET", "path": "/v2/queues"}]
    ),
    policy.DocumentedRuleDefault(
        "queues:create", ANYBODY, "Create a queue.", [{"method": "PUT", "path": "/v2/queues/{queue_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "queues:get", ANYBODY, "Show the metadata of a queue.", [{"method": "GET", "path": "/v2/queues/{queue_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "queues:delete",
        ANYBODY,
        "Delete a queue with all that is in it.",
        [{"method": "DELETE", "path": "/v2/queues/{queue_name}"}],
    ),
    policy.DocumentedRuleDefault(
        "queues:update",
        ANYBODY,
        "Change the metadata of a queue.",
        [{"method": "PATCH", "path": "/v2/queues/{queue_name}"}],
    ),
    policy.DocumentedRuleDefault(
        "queues:stats",
        ANYBODY,
        "Show how many messages are in a queue.",
        [{"method": "GET", "path": "/v2/queues/{queue_name}/stats"}],
    ),
    policy.DocumentedRuleDefault(
        "queues:share",
        ANYBODY,
        "Make a pre-signed URL of a queue.",
        [{"method": "POST", "path": "/v2/queues/{queue_name}/share"}],
    ),
    policy.DocumentedRuleDefault(
        "queues:purge", ANYBODY, "Empty a queue.", [{"method": "POST", "path": "/v2/queues/{queue_name}/purge"}]
    ),
]
