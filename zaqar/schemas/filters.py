# SPDX-License-Identifier: Apache-2.0
"""Filters of subscriptions, which select messages by their bodies like the filter policies of Amazon SNS.

The schemas of subscriptions compile a filter to check it, and the notifier compiles it to match messages.

::

    filter     = {key: conditions | filter, ..., "$or": [filter, filter, ...]}     all of them must match
    conditions = [condition, ...]                                                 any of them must match
    condition  = text | number | true | false | null                              equal
               | {"prefix": text} | {"suffix": text} | {"equals-ignore-case": text}
               | {"anything-but": value | [value, ...] | {"prefix": text} | {"suffix": text}}
               | {"numeric": [operator, number]} | {"numeric": [">" or ">=", number, "<" or "<=", number]}
               | {"exists": true | false}

A key is a key of the object at that place in the body. A missing key matches only ``{"exists": false}``. An array in
the body matches if any of its elements matches, including the elements of nested arrays. A body that is not an object
or an array of objects never matches. A filter is compiled once, into closures.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zaqar.errors import InvalidInput

MOST_CONDITIONS = 150
MOST_TEXT = 16_384
"""Limit in characters of all keys and texts of a filter together."""
MOST_LEVELS = 10
MOST_ELEMENTS = 1000
"""Array elements that one match examines at most: a filter must not take longer than sending the message."""
MOST_STEPS = 10_000
"""Comparisons of keys and conditions with array elements that one match makes at most. It bounds the time of a match.

All prefixes of one list count as one condition, and so do all suffixes, all texts that ignore case, and all equal
values.
"""

_BYTES_OF_A_NODE = 500
"""Estimated memory of a compiled condition or key."""

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$-]{1,64}")
_ABSENT = object()


class _Search:
    """One match of a body, with the rest of its budget."""

    __slots__ = ("left", "steps")

    def __init__(self) -> None:
        self.left = MOST_ELEMENTS
        self.steps = MOST_STEPS

    def elements(self, array: list[Any], cost: int) -> Iterator[Any]:
        """Yield the elements of an array and its nested arrays until the budget is spent. Each takes ``cost`` steps."""
        todo = [iter(array)]
        while todo:
            for element in todo[-1]:
                if self.left <= 0 or self.steps < cost:
                    return
                self.left -= 1
                if isinstance(element, list):
                    todo.append(iter(element))
                    break
                self.steps -= cost
                yield element
            else:
                todo.pop()


_Test = Callable[[Any], bool]
_Rule = Callable[[Any, _Search], bool]


class Filter:
    """A checked and compiled filter.

    ``size`` is its estimated memory in bytes, ``steps`` the estimated largest number of comparisons of one match.
    """

    __slots__ = ("_rule", "size", "steps")

    def __init__(self, rule: _Rule, size: int, steps: int) -> None:
        self._rule = rule
        self.size = size
        self.steps = steps

    def matches(self, body: Any) -> bool:
        """Whether the decoded body of a message matches. Never raises."""
        return self._rule(body, _Search())


def compile_filter(policy: object, *, field: str) -> Filter:
    """Compile the filter in an option. Raises InvalidInput with the path of the invalid part."""
    compiler = _Compiler()
    rule = compiler.object_rule(policy, field, 1)
    size = _BYTES_OF_A_NODE * (1 + compiler.nodes + compiler.conditions) + 4 * compiler.text
    return Filter(rule, size, min(MOST_STEPS, MOST_ELEMENTS * compiler.nodes))


@dataclass(slots=True)
class _Compiler:
    conditions: int = 0
    text: int = 0
    nodes: int = 0
    """Rules and tests so far: the largest number of comparisons for one object."""

    def object_rule(self, policy: object, path: str, level: int) -> _Rule:
        if not isinstance(policy, dict) or not policy:
            raise InvalidInput(path, "must be an object with at least one key")
        if level > MOST_LEVELS:
            raise InvalidInput(path, f"a filter has at most {MOST_LEVELS} levels")
        before = self.nodes
        rules = tuple(self._member_rule(key, value, path, level) for key, value in policy.items())
        return _for_objects(rules, self.nodes - before)

    def _member_rule(self, key: object, value: object, path: str, level: int) -> _Rule:
        if not isinstance(key, str):
            raise InvalidInput(path, "has a key that is not a string")
        self.nodes += 1
        path += "." + (key if _PLAIN_KEY.fullmatch(key) else ascii(key[:64]))
        if key == "$or":
            return self._or_rule(value, path, level)
        self._count_text(key, path)
        if isinstance(value, dict):
            return _member(key, self.object_rule(value, path, level + 1))
        return _member(key, self._list_rule(value, path))

    def _or_rule(self, value: object, path: str, level: int) -> _Rule:
        if not isinstance(value, list) or not value:
            raise InvalidInput(path, "must be an array of filters")
        rules = tuple(self.object_rule(each, f"{path}[{i}]", level + 1) for i, each in enumerate(value))
        return lambda body, search: any(rule(body, search) for rule in rules)

    def _list_rule(self, value: object, path: str) -> _Rule:
        if not isinstance(value, list) or not value:
            raise InvalidInput(path, "must be an object, or an array of conditions that is not empty")
        wanted: list[object] = []
        tests: list[_Test] = []
        # All texts of one operator become one test, whose time hardly depends on their number.
        texts: dict[str, list[str]] = {}
        presence: set[bool] = set()
        for i, condition in enumerate(value):
            element_path = f"{path}[{i}]"
            self._count_condition(element_path)
            if not isinstance(condition, dict):
                wanted.append(self._scalar(condition, element_path))
            elif "exists" in condition and len(condition) == 1:
                presence.add(self._boolean(condition["exists"], f"{element_path}.exists"))
            elif len(condition) == 1 and (name := next(iter(condition))) in _OF_TEXTS:
                texts.setdefault(name, []).append(self._string(condition[name], f"{element_path}.{name}"))
            else:
                tests.append(self._operator(condition, element_path))
        if wanted:
            tests.append(_one_of(wanted))
        tests += (_OF_TEXTS[name](tuple(values)) for name, values in texts.items())
        self.nodes += len(tests)
        return _for_values(tuple(tests), presence)

    def _operator(self, condition: dict[Any, Any], path: str) -> _Test:
        if len(condition) != 1:
            raise InvalidInput(path, "a condition has exactly one operator")
        name, operand = next(iter(condition.items()))
        operand_path = f"{path}.{name}"
        match name:
            case "anything-but":
                return self._anything_but(operand, operand_path)
            case "numeric":
                return _numeric(operand, operand_path)
            case _:
                raise InvalidInput(
                    path,
                    "a condition is a string, number, boolean or null, or an object with one of prefix, suffix, "
                    "equals-ignore-case, anything-but, numeric and exists",
                )

    def _anything_but(self, operand: object, path: str) -> _Test:
        if isinstance(operand, dict):
            if len(operand) != 1 or not operand.keys() <= {"prefix", "suffix"}:
                raise InvalidInput(path, "must be a value, an array of values, or an object with prefix or suffix")
            name, text = next(iter(operand.items()))
            unwanted = _OF_TEXTS[name]((self._string(text, f"{path}.{name}"),))
        else:
            values = operand if isinstance(operand, list) else [operand]
            if not values:
                raise InvalidInput(path, "must not be empty")
            for i, value in enumerate(values):
                self._count_condition(f"{path}[{i}]")
                self._scalar(value, f"{path}[{i}]" if isinstance(operand, list) else path)
            unwanted = _one_of(values)
        return lambda value: not isinstance(value, dict) and not unwanted(value)

    def _scalar(self, value: object, path: str) -> object:
        if isinstance(value, str):
            return self._string(value, path)
        if value is None or isinstance(value, bool | int | float):
            return value
        raise InvalidInput(path, "must be a string, a number, a boolean or null")

    def _string(self, value: object, path: str) -> str:
        if not isinstance(value, str):
            raise InvalidInput(path, "must be a string")
        self._count_text(value, path)
        return value

    def _boolean(self, value: object, path: str) -> bool:
        if not isinstance(value, bool):
            raise InvalidInput(path, "must be true or false")
        return value

    def _count_condition(self, path: str) -> None:
        self.conditions += 1
        if self.conditions > MOST_CONDITIONS:
            raise InvalidInput(path, f"a filter has at most {MOST_CONDITIONS} conditions")

    def _count_text(self, text: str, path: str) -> None:
        self.text += len(text)
        if self.text > MOST_TEXT:
            raise InvalidInput(path, f"the keys and texts of a filter have at most {MOST_TEXT} characters together")


def _for_objects(rules: Sequence[_Rule], nodes: int) -> _Rule:
    """All rules match one object: the body itself, or the same element of an array. ``nodes`` is the cost of one."""

    def rule(body: Any, search: _Search) -> bool:
        if isinstance(body, dict):
            return all(each(body, search) for each in rules)
        if isinstance(body, list):
            return any(
                all(each(element, search) for each in rules)
                for element in search.elements(body, nodes)
                if isinstance(element, dict)
            )
        # A missing object has no keys, so {"exists": false} matches for each of them.
        return body is _ABSENT and all(each({}, search) for each in rules)

    return rule


def _member(key: str, rule: _Rule) -> _Rule:
    return lambda body, search: rule(body.get(key, _ABSENT), search)


def _for_values(tests: Sequence[_Test], presence: set[bool]) -> _Rule:
    """Any test matches the value, or an element of an array. ``presence`` has the values of ``exists`` conditions."""

    def rule(value: Any, search: _Search) -> bool:
        if value is _ABSENT or presence:
            there = value is not _ABSENT
            if not there or there in presence:
                return there in presence
        if isinstance(value, list):
            return any(test(element) for element in search.elements(value, len(tests)) for test in tests)
        return any(test(value) for test in tests)

    return rule


def _kind(value: object) -> str:
    """Return the JSON type of a value. In Python True equals 1, in JSON it does not."""
    if isinstance(value, bool) or value is None:
        return "constant"
    return "text" if isinstance(value, str) else "number" if isinstance(value, int | float) else "container"


def _one_of(wanted: Sequence[object]) -> _Test:
    values = frozenset((_kind(value), value) for value in wanted)
    # A container is not hashable, and never equal to a scalar.
    return lambda value: not isinstance(value, dict | list) and (_kind(value), value) in values


def _prefixes(wanted: Sequence[str]) -> _Test:
    if len(wanted) == 1:
        (prefix,) = wanted
        return lambda value: isinstance(value, str) and value.startswith(prefix)
    starts_with_any = _starts_with_any(wanted)
    return lambda value: isinstance(value, str) and starts_with_any(value)


def _suffixes(wanted: Sequence[str]) -> _Test:
    if len(wanted) == 1:
        (suffix,) = wanted
        return lambda value: isinstance(value, str) and value.endswith(suffix)
    starts_with_any = _starts_with_any([suffix[::-1] for suffix in wanted])
    longest = max(map(len, wanted))
    return lambda value: isinstance(value, str) and starts_with_any(value[max(0, len(value) - longest) :][::-1])


def _starts_with_any(wanted: Sequence[str]) -> Callable[[str], bool]:
    """Make a test whether a text starts with any of these. Its time grows with the logarithm of their number."""
    prefixes: list[str] = []
    for prefix in sorted(wanted):
        # A prefix that starts with a shorter prefix adds nothing.
        if not prefixes or not prefix.startswith(prefixes[-1]):
            prefixes.append(prefix)

    def test(value: str) -> bool:
        # No prefix starts with another one. So if the text starts with a prefix, no other prefix sorts between the two.
        place = bisect_right(prefixes, value)
        return place > 0 and value.startswith(prefixes[place - 1])

    return test


def _ignoring_case(wanted: Sequence[str]) -> _Test:
    folded = frozenset(text.casefold() for text in wanted)
    # PERF: folding never shortens a text, so a text longer than all folded ones cannot be equal to one.
    longest = max(map(len, folded))
    return lambda value: isinstance(value, str) and len(value) <= longest and value.casefold() in folded


_OF_TEXTS: dict[str, Callable[[Sequence[str]], _Test]] = {
    "prefix": _prefixes,
    "suffix": _suffixes,
    "equals-ignore-case": _ignoring_case,
}


def _numeric(operand: object, path: str) -> _Test:
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        raise InvalidInput(path, "must be an array of one or two comparisons, each an operator and a number")
    pairs = []
    for i in range(0, len(operand), 2):
        name, number = operand[i : i + 2]
        if not isinstance(name, str) or name not in _COMPARISONS:
            raise InvalidInput(f"{path}[{i}]", "must be one of " + ", ".join(_COMPARISONS))
        if _kind(number) != "number":
            raise InvalidInput(f"{path}[{i + 1}]", "must be a number")
        pairs.append((name, number))
    if len(pairs) == 1:
        return _compared(*pairs[0])
    (lower, low), (upper, high) = pairs
    if lower not in (">", ">=") or upper not in ("<", "<=") or low > high:
        raise InvalidInput(path, "two comparisons are > or >= a number, then < or <= one that is not less")
    above, below = _compared(lower, low), _compared(upper, high)
    return lambda value: above(value) and below(value)


def _compared(name: str, number: float) -> _Test:
    compare = _COMPARISONS[name]
    return lambda value: _kind(value) == "number" and compare(value, number)
