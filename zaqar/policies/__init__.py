# SPDX-License-Identifier: Apache-2.0
"""Who may do what: the rules, and the one place that asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from zaqar import conf as configuration
from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.context import Context
from zaqar.errors import Forbidden, StartupError
from zaqar.model import Address
from zaqar.policies import base, claims, flavors, health, messages, pools, queues, subscriptions, topics

_DECISIONS_BYTES = 8 * 1024 * 1024
"""Memory that remembered decisions may take: about 10,000 for callers with a few roles. Callers choose the length."""


def list_rules() -> list[policy.RuleDefault]:
    """Every rule with its default, as oslo.policy's generators ask for them."""
    modules = (base, queues, messages, claims, subscriptions, topics, pools, flavors, health)
    return [rule for module in modules for rule in module.RULES]


class Authorizer:
    """Decides by the rules and the operator's policy files, which are read once, here.

    No decision looks at a file again: one that is being written, or is gone, must neither fail a request nor open the
    defaults. A changed policy counts when the service reads its whole configuration anew. Decisions are kept, as
    oslo.policy takes tens of microseconds for each. Raises StartupError if a file cannot be used.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._enforcer = _load(conf)
        self._decisions: BoundedCache[tuple[Any, ...], bool] = BoundedCache(_DECISIONS_BYTES)

    def check(self, context: Context, rule: str, address: Address | None = None, **attributes: str) -> None:
        """Return if the rule admits the caller, raise Forbidden if it does not.

        ``address`` is the queue or topic that the request is about, in the caller's project. ``attributes`` are what
        else the target has, such as ``pool_name``. No rule is asked for a signed request: what its signature grants was
        checked when it was made.
        """
        if context.signed:
            return
        key = (
            (rule, context.project, context.roles, context.user_id, context.system_scope, address, *attributes.items())
            if attributes
            else (rule, context.project, context.roles, context.user_id, context.system_scope, address)
        )
        allowed = self._decisions.get(key)
        if allowed is None:
            allowed = self._decide(context, rule, address, attributes)
            self._decisions.put(key, allowed, size_of(key))
        if not allowed:
            raise Forbidden(f"The policy does not allow this: {rule}")

    def _decide(self, context: Context, rule: str, address: Address | None, attributes: Mapping[str, str]) -> bool:
        target = {"project_id": context.project, "tenant_id": context.project, **attributes}
        creds: dict[str, Any] = {"roles": sorted(context.roles), "project_id": context.project, "is_admin": False}
        if address is not None:
            target |= {"kind": address.kind, f"{address.kind}_name": address.name}
        if context.user_id is not None:
            target["user_id"] = creds["user_id"] = context.user_id
        if context.system_scope is not None:
            creds["system_scope"] = context.system_scope
        creds["is_admin"] = bool(self._enforcer.authorize("context_is_admin", target, creds))
        return bool(self._enforcer.authorize(rule, target, creds))


def _load(conf: cfg.ConfigOpts) -> policy.Enforcer:
    location = conf.get_location("policy_file", "oslo_policy")
    chosen = location is not None and location.location not in (cfg.Locations.opt_default, cfg.Locations.set_default)
    if chosen and configuration.policy_file(conf) is None:
        # oslo.policy would go on with the defaults, which admit everybody to most of the API.
        raise StartupError(f"[oslo_policy] policy_file: there is no file {conf.oslo_policy.policy_file}.")
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(list_rules())
    try:
        enforcer.load_rules()
        enforcer.check_rules(raise_on_violation=True)
    except (OSError, ValueError, AttributeError, TypeError, policy.InvalidDefinitionError) as exc:
        # AttributeError and TypeError are what oslo.policy raises for a file that is YAML but no mapping of rules.
        raise StartupError(f"[oslo_policy] policy_file: {' '.join(str(exc).split())}") from exc
    for name, rule in enforcer.file_rules.items():
        # oslo.policy makes "never" of a rule that it cannot parse. That is safe, but not what the operator meant.
        if str(rule.check) == "!" and str(rule.check_str).strip() != "!":
            raise StartupError(f"[oslo_policy] policy_file: the rule {name!r} cannot be parsed.")
    # From now on enforce() and authorize() ask what was loaded and no file.
    enforcer.use_conf = False
    return enforcer
