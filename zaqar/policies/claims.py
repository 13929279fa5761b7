# SPDX-License-Identifier: Apache-2.0
"""The access rules for claims."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "claims:create", ANYBODY, "Claim messages.", [{"method": "POST", "path": "/v2/queues/{queue_name}/claims"}]
    ),
    policy.DocumentedRuleDefault(
        "claims:get",
        ANYBODY,
        "Show a claim and its messages.",
        [{"method": "GET", "path": "/v2/queues/{queue_name}/claims/{claim_id}"}],
    ),
    policy.DocumentedRuleDefault(
        "claims:delete",
        ANYBODY,
        "Release a claim.",
        [{"method": "DELETE", "path": "/v2/queues/{queue_name}/claims/{claim_id}"}],
    ),
    policy.DocumentedRuleDefault(
        "claims:update",
        ANYBODY,
        "Renew a claim.",
        [{"method": "PATCH", "path": "/v2/queues/{queue_name}/claims/{claim_id}"}],
    ),
]
