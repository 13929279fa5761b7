# SPDX-License-Identifier: Apache-2.0
"""Checks of single fields, and the errors of the JSON schema validator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.errors import InvalidInput
from zaqar.schemas.fields import (
    NAME_PATTERN,
    Validator,
    check_name,
    check_range,
    parse_boolean,
    parse_integer,
)

GOOD_NAMES = ["a", "Z", "0", "_", "-", "a.b", "...", "..a", ".a", "-.-", "x" * 64]
BAD_NAMES = [
    "",
    ".",
    "..",
    "x" * 65,
    "a b",
    "a/b",
    "a\n",
    "\na",
    "\x00",
    "é",
    "\uff41",
    "a,b",
    "a%20b",
    "~",
    "\u017f",
    "\u212a",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(name: str) -> None:
    check_name(name, field="queue_name")
    assert re.search(NAME_PATTERN, name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(name, field="queue_name")
    assert caught.value.field == "queue_name"


@given(name=st.text(max_size=66) | st.text(st.sampled_from("aZ09_-.\n/"), max_size=66))
def test_the_pattern_in_the_schema_accepts_the_same_names(name: str) -> None:
    # As ECMA 262 reads it: there "$" does not match before a newline.
    documented = re.search(NAME_PATTERN.replace("$", r"\Z"), name) is not None
    try:
        check_name(name, field="name")
    except InvalidInput:
        assert not documented
    else:
        assert documented


@pytest.mark.parametrize(("value", "fits"), [(1, False), (2, True), (5, True), (6, False), (-(2**63), False)])
def test_range(value: int, fits: bool) -> None:
    if fits:
        check_range(value, 2, 5, field="ttl", unit=" seconds")
        return
    with pytest.raises(InvalidInput, match=rf"^ttl: must be from 2 to 5 seconds, not {value}$"):
        check_range(value, 2, 5, field="ttl", unit=" seconds")


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("20", 20), ("007", 7), ("00000000000000000007", 7)])
def test_integers_of_a_query(text: str, value: int) -> None:
    assert parse_integer(text, 1, 20, field="limit") == value


@pytest.mark.parametrize("text", ["-1", "-0", "0"])
def test_negative_integers_of_a_query(text: str) -> None:
    assert parse_integer(text, -1, 20, field="limit") == int(text)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "21", "-1", "", "-", "--1", "+1", " 1", "1 ", "1\n", "1.0", "1e1", "0x1", "1_0", "a", "1\x00"),
        *("\u0661", "\u00b2", "\uff11", "9" * 21, "9" * 5000, "0" * 20 + "7", str(2**63)),
    ],
)
def test_bad_integers_of_a_query(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^limit: must be .*from 1 to 20"):
        parse_integer(text, 1, 20, field="limit")


def test_booleans_of_a_query() -> None:
    for text in ("true", "True", "TRUE", "1", "yes", "on", "t", "y"):
        assert parse_boolean(text, field="echo") is True
    for text in ("false", "False", "0", "no", "OFF", "f", "n"):
        assert parse_boolean(text, field="echo") is False
    for text in ("", "2", "tru", "true ", "null", "-1", "ja", "\u0661"):
        with pytest.raises(InvalidInput, match=r"^echo: must be true or false$"):
            parse_boolean(text, field="echo")


# -- Validator -------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "required": ["a", "b"],
    "additionalProperties": False,
    "properties": {
        "a": {"type": ["integer", "null"], "minimum": 1, "maximum": 5},
        "b": {"type": "array", "minItems": 1, "items": {"type": "object", "properties": {"c": {"enum": ["x", "y"]}}}},
        "d": {"type": "string", "pattern": "^d+$", "minLength": 1},
        "e": {"type": "string", "maxLength": 2},
    },
}

COMPLAINTS: list[tuple[Any, str, str]] = [
    ([], "body", "must be of type object"),
    (None, "body", "must be of type object"),
    ({}, "body", "lacks the field 'a'"),
    ({"a": 1}, "body", "lacks the field 'b'"),
    ({"a": 1, "b": [{}], "z": 1}, "body", "has an unknown field 'z'"),
    ({"a": 0, "b": [{}]}, "a", "must be at least 1, not 0"),
    ({"a": 6, "b": [{}]}, "a", "must be at most 5, not 6"),
    ({"a": True, "b": [{}]}, "a", "must be of type integer or null"),
    ({"a": 1.0, "b": [{}]}, "a", "must be of type integer or null"),
    ({"a": 9.5, "b": [{}]}, "a", "must be of type integer or null"),
    ({"a": "1", "b": [{}]}, "a", "must be of type integer or null"),
    ({"a": 1, "b": {}}, "b", "must be of type array"),
    ({"a": 1, "b": []}, "b", "must not be empty"),
    ({"a": 1, "b": [{}, 5, 6]}, "b[1]", "must be of type object"),
    ({"a": 1, "b": [{"c": "x"}, {"c": "z"}]}, "b[1].c", "must be one of x, y"),
    ({"a": 1, "b": [{"c": ["x" * 100_000]}]}, "b[0].c", "must be one of x, y"),
    ({"a": 1, "b": [{}], "d": "e"}, "d", "must match ^d+$"),
    ({"a": 1, "b": [{}], "e": "long"}, "e", "breaks the rule 'maxLength'"),
]


@pytest.mark.parametrize(("value", "field", "reason"), COMPLAINTS)
def test_errors_name_the_field(value: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Validator(SCHEMA).check(value)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_good_values_pass() -> None:
    validator = Validator(SCHEMA)
    for value in ({"a": 1, "b": [{}]}, {"a": None, "b": [{"c": "y", "more": 1}], "d": "ddd", "e": ""}):
        validator.check(value)


def test_the_whole_document_has_a_name() -> None:
    with pytest.raises(InvalidInput) as caught:
        Validator(SCHEMA).check(5, root="metadata")
    assert caught.value.field == "metadata"
    with pytest.raises(InvalidInput) as caught:
        Validator({"type": "array", "items": {"type": "integer"}}).check([1, "x"], root="metadata")
    assert caught.value.field == "[1]"


@pytest.mark.parametrize("bad", ["1", 1.0, 60.0, 1e3, True, False, None, [], {}, [1]])
def test_other_numbers_are_not_accepted_as_integers(bad: Any) -> None:
    """In JSON Schema 60.0 is an integer, and in Python True is one."""
    with pytest.raises(InvalidInput):
        Validator({"type": "integer"}).check(bad)


class Counted(list[Any]):
    """Counts how many of its items were read."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.seen += 1
            yield item


def test_validation_stops_at_the_first_bad_field() -> None:
    items = Counted([1, "bad", *range(1000), "bad", "bad"])
    with pytest.raises(InvalidInput) as caught:
        Validator({"type": "array", "items": {"type": "integer"}}).check(items)
    assert caught.value.field == "[1]"
    assert items.seen < 10
