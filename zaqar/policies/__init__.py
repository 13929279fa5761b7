# SPDX-License-Identifier: Apache-2.0
"""Who may do what: the rules, and the one place that asks them."""

from __future__ import annotations

from oslo_config import cfg
from oslo_policy import policy

from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.context import Context
from zaqar.errors import Forbidden, StartupError
from zaqar.policies import base, claims, flavors, health, messages, pools, queues, subscriptions, topics

_DECISIONS_BYTES = 8 * 1024 * 1024
"""Memory that remembered decisions may take: about 10,000 for callers with a few roles. Callers choose the length."""


def list_rules() -> list[policy.RuleDefault]:
    """Every rule with its default, as oslo.policy's generators ask for them."""
    modules = (base, queues, messages, claims, subscriptions, topics, pools, flavors, health)
    return [rule for module in modules for rule in module.RULES]


class Authorizer:
    """Decides by the rules and the operator's policy file, read once: a changed file counts from the next reload.

    Decisions are kept, as oslo.policy takes tens of microseconds for each.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._enforcer = policy.Enforcer(conf)
        self._enforcer.register_defaults(list_rules())
        try:
            self._enforcer.load_rules()
        except (OSError, ValueError, AttributeError, TypeError, policy.InvalidDefinitionError) as exc:
            # The second pair is what oslo.policy makes of a file that is YAML but no mapping of rules.
            raise StartupError(f"[oslo_policy] policy_file: {' '.join(str(exc).split())}") from exc
        self._decisions: BoundedCache[tuple[str, str, frozenset[str], str | None], bool] = BoundedCache(
            _DECISIONS_BYTES
        )

    def check(self, context: Context, rule: str) -> None:
        """Return where the rule admits the caller to the caller's own project, raise Forbidden where it does not."""
        key = (rule, context.project, context.roles, context.user_id)
        allowed = self._decisions.get(key)
        if allowed is None:
            allowed = self._decide(context, rule)
            self._decisions.put(key, allowed, size_of(key))
        if not allowed:
            raise Forbidden(f"The policy does not allow this: {rule}")

    def _decide(self, context: Context, rule: str) -> bool:
        target = {"project_id": context.project}
        creds = {
            "roles": sorted(context.roles),
            "project_id": context.project,
            "user_id": context.user_id,
            "is_admin": False,
        }
        creds["is_admin"] = bool(self._enforcer.authorize("context_is_admin", target, creds))
        return bool(self._enforcer.authorize(rule, target, creds))
