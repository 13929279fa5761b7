# SPDX-License-Identifier: Apache-2.0
"""The access rules for topics."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "topics:get_all", ANYBODY, "List the topics of a project.", [{"method": "GET", "path": "/v2/topics"}]
    ),
    policy.DocumentedRuleDefault(
        "topics:create", ANYBODY, "Create a topic.", [{"method": "PUT", "path": "/v2/topics/{topic_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "topics:get", ANYBODY, "Show the metadata of a topic.", [{"method": "GET", "path": "/v2/topics/{topic_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "topics:delete",
        ANYBODY,
        "Delete a topic with all that is in it.",
        [{"method": "DELETE", "path": "/v2/topics/{topic_name}"}],
    ),
    policy.DocumentedRuleDefault(
        "topics:update",
        ANYBODY,
        "Change the metadata of a topic.",
        [{"method": "PATCH", "path": "/v2/topics/{topic_name}"}],
    ),
    policy.DocumentedRuleDefault(
        "topics:stats",
        ANYBODY,
        "Show how many messages are in a topic.",
        [{"method": "GET", "path": "/v2/topics/{topic_name}/stats"}],
    ),
    policy.DocumentedRuleDefault(
        "topics:share",
        ANYBODY,
        "Make a pre-signed URL of a topic.",
        [{"method": "POST", "path": "/v2/topics/{topic_name}/share"}],
    ),
    policy.DocumentedRuleDefault(
        "topics:purge", ANYBODY, "Empty a topic.", [{"method": "POST", "path": "/v2/topics/{topic_name}/purge"}]
    ),
]
