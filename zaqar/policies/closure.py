# SPDX-License-Identifier: Apache-2.0
"""Finds which attributes of caller and target a policy rule reads, including all rules that it refers to.

:mod:`zaqar.policies.loaded` calls it once after the rules were loaded. The result is the key under which a decision may
be cached. It also finds the rules that cannot be evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oslo_policy import policy

# The classes have no public names; these are the ones that the library's own parser makes.
_EXAMPLES = policy.Rules.from_dict({"role": "role:x", "generic": "x:x", "always": "@", "never": "!"})
_ROLE, _GENERIC, _ALWAYS, _NEVER = (type(_EXAMPLES[name]) for name in ("role", "generic", "always", "never"))

_EXAMPLE_CALLER = {
    "roles": ["xx"],
    "project_id": "xx",
    "tenant_id": "xx",
    "user_id": "xx",
    "system_scope": "xx",
    "system": "xx",
    "is_admin": False,
}

CALLER_NAMES = frozenset(_EXAMPLE_CALLER)
"""The attributes of a caller that a rule can name on the left side of a check."""


class BadRule(ValueError):
    """A rule cannot be evaluated. The text is a sentence for the operator that names the rule."""


class Closure(NamedTuple):
    """The attributes that a rule reads: of the caller on the left side of its checks, of the target on the right side.

    ``is_pure``: the decision depends on nothing else. It is False if the rule has checks that ask another service or
    checks of plug-ins.
    """

    caller: frozenset[str]
    target: frozenset[str]
    is_pure: bool


def find_closure(name: str, rules: Mapping[str, Any]) -> Closure:
    """Follow the rule ``name``. Raises BadRule for a rule that is in a circle, undefined or cannot be evaluated."""
    walk = _Walk(rules)
    walk.visit_rule(name)
    return Closure(frozenset(walk.caller), walk.target.names(), walk.is_pure)


def references(check: Any) -> Iterator[str]:
    """Yield the names of the rules that a check refers to directly."""
    for part in _parts(check):
        yield from references(part)
    if type(check) is policy.RuleCheck:
        yield check.match


def check_was_parsed(name: str, written: str | list[Any], check: Any) -> None:
    """Raise BadRule if oslo.policy replaced a part of the rule that it could not parse by "never".

    That is not safe if the part is inside ``not``, and it is never what the operator meant.
    """
    if list(_words(written)).count("!") != _count_never(check):
        raise BadRule(f"the rule {name!r} cannot be parsed.")


def _words(written: str | list[Any]) -> Iterator[str]:
    if isinstance(written, str):
        yield from re.split(r"[\s()]+", written)
    else:
        for part in written:
            yield from _words(part)


def _count_never(check: Any) -> int:
    return int(type(check) is _NEVER) + sum(map(_count_never, _parts(check)))


def _parts(check: Any) -> list[Any]:
    if isinstance(check, policy.NotCheck):
        return [check.rule]
    return list(check.rules) if isinstance(check, policy.AndCheck | policy.OrCheck) else []


class _ExampleTarget(Mapping[str, str]):
    """A target that has every attribute, and records which ones were read."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self._asked.add(name)
        return "xx"

    def names(self) -> frozenset[str]:
        return frozenset(self._asked)

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)


class _Walk:
    def __init__(self, rules: Mapping[str, Any]) -> None:
        self._rules = rules
        self._within: list[str] = []
        self._done: set[str] = set()
        self.caller: set[str] = set()
        self.target = _ExampleTarget()
        self.is_pure = True

    def visit_rule(self, name: str) -> None:
        if name in self._within:
            circle = " -> ".join(map(repr, [*self._within[self._within.index(name) :], name]))
            raise BadRule(f"rules refer to each other in a circle: {circle}.")
        if name not in self._done:
            self._within.append(name)
            self._visit(self._rules[name])
            self._within.pop()
            self._done.add(name)

    def _visit(self, check: Any) -> None:
        for part in _parts(check):
            self._visit(part)
        if type(check) is policy.RuleCheck:
            if check.match not in self._rules:
                raise BadRule(f"the rule {self._within[-1]!r} refers to {check.match!r}, which is not defined.")
            self.visit_rule(check.match)
        elif type(check) in (_ROLE, _GENERIC):
            self._visit_leaf(check)
        elif not _parts(check) and type(check) not in (_ALWAYS, _NEVER):
            self._visit_foreign(check)

    def _visit_leaf(self, check: Any) -> None:
        # oslo.policy detects an error in a check, such as "%(project_id)d", only when the check is evaluated.
        try:
            check(self.target, _EXAMPLE_CALLER, None)
        except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as exc:
            raise BadRule(f"the rule {self._within[-1]!r} cannot be evaluated at {str(check)!r}: {exc}.") from exc
        if type(check) is _ROLE:
            self.caller.add("roles")
        elif not _is_literal(check.kind):
            self.caller.add(check.kind.partition(".")[0])

    def _visit_foreign(self, check: Any) -> None:
        self.is_pure = False
        if getattr(check, "kind", None) in ("http", "https"):
            try:
                _ = check.match % self.target
            except (TypeError, ValueError) as exc:
                raise BadRule(f"the rule {self._within[-1]!r} cannot be evaluated at {str(check)!r}: {exc}.") from exc


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except ValueError:
        return False
    return True
