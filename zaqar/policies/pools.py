# SPDX-License-Identifier: Apache-2.0
"""The access rules for pools."""

from oslo_policy import policy

from zaqar.policies.base import ADMIN

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault("pools:get_all", ADMIN, "List the pools.", [{"method": "GET", "path": "/v2/pools"}]),
    policy.DocumentedRuleDefault(
        "pools:create", ADMIN, "Register a pool.", [{"method": "PUT", "path": "/v2/pools/{pool_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "pools:get", ADMIN, "Show a pool.", [{"method": "GET", "path": "/v2/pools/{pool_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "pools:delete", ADMIN, "Remove a pool.", [{"method": "DELETE", "path": "/v2/pools/{pool_name}"}]
    ),
    policy.DocumentedRuleDefault(
        "pools:update", ADMIN, "Change a pool.", [{"method": "PATCH", "path": "/v2/pools/{pool_name}"}]
    ),
]
