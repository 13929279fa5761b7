# SPDX-License-Identifier: Apache-2.0
"""The access rules for flavors."""

from oslo_policy import policy

from zaqar.policies.base import ADMIN, ANYBODY

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "flavors:get_all", ANYBODY, "List the flavors.", [{"method": "GET", "path": "/v2/flavors"}]
    ),
    policy.DocumentedRuleDefault(
        "flavors:create", ADMIN, "Define a flavor.", [{"method": "PUT", "path": "/v2/flavors/{flavor_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "flavors:get", ANYBODY, "Show a flavor.", [{"method": "GET", "path": "/v2/flavors/{flavor_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "flavors:delete", ADMIN, "Remove a flavor.", [{"method": "DELETE", "path": "/v2/flavors/{flavor_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "flavors:update", ADMIN, "Change a flavor.", [{"method": "PATCH", "path": "/v2/flavors/{flavor_name}"}]
    ),
]
