# SPDX-License-Identifier: Apache-2.0
"""The loaded rules: checked once, and then never changed. The Authorizer asks them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_policy import policy

from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.context import Context
from zaqar.errors import PolicyUnavailable
from zaqar.model import QueueName
from zaqar.policies import files
from zaqar.policies.closure import CALLER_NAMES, BadRule, Closure, check_was_parsed, find_closure, references
from zaqar.policies.targets import target_names

_DECISIONS_BYTES = 8 * 1024 * 1024
"""Memory for cached decisions: about 10,000 for callers with a few roles. Callers influence the size of an entry."""

_ADMIN = "context_is_admin"

_FIELDS = {
    "roles": "roles",
    "project_id": "project",
    "tenant_id": "project",
    "user_id": "user_id",
    "system_scope": "system_scope",
    "system": "system_scope",
}
"""Attribute of the caller in a rule -> field of the Context."""


class _Plan(NamedTuple):
    """The inputs of a decision: ``of_caller`` takes some from a Context, ``target`` names attributes of the target.

    Decisions are cached only if ``is_pure``.
    """

    of_caller: Callable[[Context], Any]
    target: tuple[str, ...]
    asks_admin: bool
    is_pure: bool


class LoadedPolicy:
    """Decides by the rules of ``found``, which were read from files, and by the defaults of all other rules.

    oslo.policy takes tens of microseconds for a decision, so decisions are cached. The key has exactly the inputs that
    the rule and the rules that it refers to can read. Raises StartupError for rules that cannot be used.
    """

    def __init__(self, conf: cfg.ConfigOpts, defaults: list[policy.RuleDefault], found: files.PolicyFiles) -> None:
        # With use_conf=False neither authorize() nor enforce() reads a file.
        self._enforcer = policy.Enforcer(conf, rules=_parse(found), use_conf=False)
        self._enforcer.register_defaults(defaults)
        # Enforcer.load_rules() does the same for defaults that replace no deprecated rule. We have no deprecated rules.
        for default in defaults:
            self._enforcer.rules.setdefault(default.name, default.check)
        self._closures = self._check_rules(found)
        self._plans = {default.name: self._plan(default.name) for default in defaults}
        self._decisions: BoundedCache[tuple[Any, ...], bool] = BoundedCache(_DECISIONS_BYTES)
        self.open = frozenset(rule for rule, plan in self._plans.items() if self._is_open(rule, plan))
        """Rules that admit every caller to every target."""

    def _check_rules(self, found: files.PolicyFiles) -> dict[str, Closure]:
        rules = self._enforcer.rules
        try:
            for name, written in found.rules.items():
                check_was_parsed(name, written, rules[name])
            return {name: find_closure(name, rules) for name in rules}
        except BadRule as exc:
            raise files.refuse(str(exc)) from exc
        except RecursionError:
            raise files.refuse("a rule is nested too deeply.") from None

    def _plan(self, rule: str) -> _Plan:
        closure = self._closures[rule]
        asks_admin = "is_admin" in closure.caller or not closure.is_pure
        if asks_admin:
            also = self._closures[_ADMIN]
            is_pure = closure.is_pure and also.is_pure
            closure = Closure(closure.caller | also.caller, closure.target | also.target, is_pure)
        fields = {_FIELDS[name] for name in closure.caller if name in _FIELDS}
        fields |= {_FIELDS[name] for name in closure.target if name in ("project_id", "tenant_id", "user_id")}
        of_caller = attrgetter(*sorted(fields)) if fields else _nothing
        return _Plan(of_caller, tuple(sorted(closure.target - _FIELDS.keys())), asks_admin, closure.is_pure)

    def _is_open(self, rule: str, plan: _Plan) -> bool:
        is_constant = plan.is_pure and plan.of_caller is _nothing and not plan.target
        return is_constant and self._decide(plan, Context("", ""), rule, {})

    def asks_for(self, rule: str, name: str) -> bool:
        """Whether the decision by ``rule`` can depend on the attribute ``name`` of the target."""
        plan = self._plans[rule]
        return name in plan.target or not plan.is_pure

    def admits(self, context: Context, rule: str, queue_name: QueueName | None, attributes: Mapping[str, str]) -> bool:
        """Whether the rule admits the caller. Raises PolicyUnavailable if it asks a service that does not answer."""
        plan = self._plans[rule]
        if not plan.is_pure:
            return self._decide(plan, context, rule, _target(queue_name, attributes))
        # PERF: few calls and no dicts, because every request under a strict policy comes here.
        key = (rule, plan.of_caller(context))
        target: Mapping[str, str] = {}
        if plan.target:
            target = _target(queue_name, attributes)
            key = (*key, *map(target.get, plan.target))
        admitted = self._decisions.get(key)
        if admitted is None:
            admitted = self._decide(plan, context, rule, target)
            self._decisions.put(key, admitted, size_of(key))
        return admitted

    def _decide(self, plan: _Plan, context: Context, rule: str, target: Mapping[str, str]) -> bool:
        of_project = {"project_id": context.project, "tenant_id": context.project}
        target = {**of_project, **target}
        caller: dict[str, Any] = {**of_project, "roles": sorted(context.roles), "is_admin": False}
        if context.user_id is not None:
            target["user_id"] = caller["user_id"] = context.user_id
        if context.system_scope is not None:
            caller["system_scope"] = context.system_scope
        try:
            if plan.asks_admin:
                caller["is_admin"] = bool(self._enforcer.authorize(_ADMIN, target, caller))
            return bool(self._enforcer.authorize(rule, target, caller))
        except (OSError, RuntimeError) as exc:
            # The checks of the kinds http and https raise these. The errors of the library requests are OSErrors.
            if plan.is_pure:
                raise
            raise PolicyUnavailable from exc
        except KeyError:
            # The URL of the check has an attribute that this target does not have. In the same case the other checks of
            # the library are false.
            if plan.is_pure:
                raise
            return False

    def find_warnings(self, found: files.PolicyFiles) -> Iterator[str]:
        """Yield warnings about rules that can be used but are probably not what the operator meant."""
        known = self._enforcer.registered_rules
        used = {_ADMIN, self._enforcer.default_rule}
        used.update(name for check in self._enforcer.rules.values() for name in references(check))
        for name in found.rules:
            if name not in known and name not in used:
                close = difflib.get_close_matches(name, known, 1)
                meant = f" Did you mean {close[0]!r}?" if close else ""
                yield f"there is no rule {name!r}, so it decides nothing.{meant}"
        for rule, closure in self._closures.items():
            if names := sorted(closure.caller - CALLER_NAMES):
                yield f"the rule {rule!r} asks for {', '.join(names)}, which no caller has; such a check is false."
            # A rule without a colon is used by other rules, each with its own target.
            own = rule in known and rule in found.rules and ":" in rule
            if own and (names := sorted(closure.target - target_names(rule))):
                yield f"the rule {rule!r} asks for %({names[0]})s, which its target has not; such a check is false."


def _nothing(context: Context) -> None:
    """The inputs from the caller of a decision that is the same for all callers."""


def _target(queue_name: QueueName | None, attributes: Mapping[str, str]) -> dict[str, str]:
    if queue_name is None:
        return dict(attributes)
    return {"kind": queue_name.kind, f"{queue_name.kind}_name": queue_name.name, **attributes}


def _parse(found: files.PolicyFiles) -> policy.Rules:
    try:
        with _quiet_parser():
            return policy.Rules.from_dict(dict(found.rules))
    except RecursionError:
        raise files.refuse("a rule is nested too deeply.") from None


@contextmanager
def _quiet_parser() -> Iterator[None]:
    """Suppress the traceback that oslo.policy logs for a rule that it cannot parse. The StartupError names the rule."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("oslo_policy._parser")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
