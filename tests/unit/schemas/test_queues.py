# SPDX-License-Identifier: Apache-2.0
"""Metadata, their patches, purges, and the filters of a listing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workers import default_limits, make_limits
from zaqar.errors import Conflict, InvalidInput
from zaqar.model import Queue, QueueRules
from zaqar.schemas.queues import QueueSchemas, make_filter, rules_of, shown_defaults

SCHEMAS = QueueSchemas(default_limits())


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def patched(metadata: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
    return SCHEMAS.apply_patch(SCHEMAS.parse_patch(raw(list(operations))), metadata)


# -- pointers and patches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pointer", "key"),
    [
        ("/metadata/a", "a"),
        ("/metadata/ ", " "),
        ("/metadata/metadata", "metadata"),
        ("/metadata/é", "é"),
        ("/metadata/~0", "~"),
        ("/metadata/~1", "/"),
        ("/metadata/~01", "~1"),
        ("/metadata/~10", "/0"),
        ("/metadata/~0~1~0", "~/~"),
        ("/metadata/a~1b~1c", "a/b/c"),
        ("/metadata/~00", "~0"),
        ("/metadata/0", "0"),
        ("/metadata/-", "-"),
        ("/metadata/a%2Fb", "a%2Fb"),
    ],
)
def test_pointers(pointer: str, key: str) -> None:
    assert patched({}, {"op": "add", "path": pointer, "value": 1}) == {key: 1}


@given(key=st.text(min_size=1))
def test_every_key_has_a_pointer(key: str) -> None:
    token = key.replace("~", "~0").replace("/", "~1")
    assert patched({}, {"op": "add", "path": f"/metadata/{token}", "value": 1}) == {key: 1}


@pytest.mark.parametrize(
    "pointer",
    [
        *("", "/", "a", "metadata/a", "/metadata", "/metadata/", "//metadata/a", "/Metadata/a", "/metadata/a/b"),
        *("/metadata/a/", "/metadata//a", "/a", "/a/metadata/b", " /metadata/a", "/metadata\n/a"),
        *("/metadata/~", "/metadata/~2", "/metadata/a~", "/metadata/~~0", "/metadata/~~01", "/metadata/~0~"),
    ],
)
def test_bad_pointers(pointer: str) -> None:
    good = {"op": "add", "path": "/metadata/good", "value": 1}
    for op in ("add", "replace", "remove"):
        with pytest.raises(InvalidInput) as caught:
            SCHEMAS.parse_patch(raw([good, {**good, "op": op, "path": pointer}]))
        assert caught.value.field == "[1].path"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "body"),
        (None, "body"),
        ("x", "body"),
        ({"op": "add", "path": "/metadata/a", "value": 1}, "body"),
        ([1], "[0]"),
        ([[]], "[0]"),
        ([{}], "[0]"),
        ([{"op": "add", "value": 1}], "[0]"),
        ([{"path": "/metadata/a", "value": 1}], "[0]"),
        ([{"op": "add", "path": "/metadata/a"}], "[0]"),
        ([{"op": "replace", "path": "/metadata/a"}], "[0]"),
        ([{"op": "test", "path": "/metadata/a", "value": 1}], "[0].op"),
        ([{"op": "move", "path": "/metadata/a", "from": "/metadata/b"}], "[0].op"),
        ([{"op": "Add", "path": "/metadata/a", "value": 1}], "[0].op"),
        ([{"op": None, "path": "/metadata/a"}], "[0].op"),
        ([{"op": ["add"], "path": "/metadata/a", "value": 1}], "[0].op"),
        ([{"op": "remove", "path": 5}], "[0].path"),
        ([{"op": "remove", "path": None}], "[0].path"),
        ([{"op": "remove", "path": ["/metadata/a"]}], "[0].path"),
    ],
)
def test_bad_patches_name_the_field(document: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMAS.parse_patch(raw(document))
    assert caught.value.field == field


def test_operations_build_on_each_other() -> None:
    before = {"a": 1, "b": [1]}
    after = patched(
        before,
        {"op": "add", "path": "/metadata/c", "value": {"x": 1}},
        {"op": "replace", "path": "/metadata/c", "value": None},
        {"op": "remove", "path": "/metadata/a"},
        {"op": "add", "path": "/metadata/a", "value": 2},
        {"op": "add", "path": "/metadata/b", "value": [2]},
        {"op": "remove", "path": "/metadata/c", "value": "ignored"},
    )
    assert after == {"a": 2, "b": [2]}
    assert before == {"a": 1, "b": [1]}


def test_an_empty_patch_changes_nothing() -> None:
    assert patched({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("op", ["replace", "remove"])
def test_a_missing_key_conflicts(op: str) -> None:
    first = {"op": "remove", "path": "/metadata/a"}
    with pytest.raises(Conflict, match=rf"^\[1\]\.path: there is no key 'a' to {op}$"):
        patched({"a": 1}, first, {"op": op, "path": "/metadata/a", "value": 1})


@pytest.mark.parametrize("key", sorted(shown_defaults(default_limits())))
def test_a_reserved_key_is_never_missing(key: str) -> None:
    assert patched({}, {"op": "remove", "path": f"/metadata/{key}"}) == {}
    assert patched({}, {"op": "replace", "path": f"/metadata/{key}", "value": 60}) == {key: 60}


# -- metadata --------------------------------------------------------------------------------------------------------


def test_metadata_without_a_body() -> None:
    assert SCHEMAS.parse_metadata(b"") == {}
    assert SCHEMAS.parse_metadata(b'{"a":1}') == {"a": 1}
    with pytest.raises(InvalidInput, match=r"^metadata: not valid JSON"):
        SCHEMAS.parse_metadata(b" ")


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ([], "metadata"),
        (None, "metadata"),
        (5, "metadata"),
        ({"_default_message_ttl": 59}, "_default_message_ttl"),
        ({"_retry_policy": {"minimum_delay": "5"}}, "_retry_policy.minimum_delay"),
        ({"_retry_policy": {"minimum_delay": 25}}, "_retry_policy.maximum_delay"),
        ({"_dead_letter_queue": "a\n"}, "_dead_letter_queue"),
        ({"_dead_letter_queue": ""}, "_dead_letter_queue"),
        ({"_dead_letter_queue": "orders"}, "_dead_letter_queue"),
        ({"_enable_encrypt_messages": True}, "_enable_encrypt_messages"),
        ({"_flavor": 1}, "_flavor"),
    ],
)
def test_bad_metadata_name_the_field(metadata: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMAS.check_metadata(metadata, name="orders")
    assert caught.value.field == field


def test_metadata_size_is_that_of_what_is_stored() -> None:
    schemas = QueueSchemas(make_limits(max_queue_metadata=20))
    schemas.check_metadata(schemas.parse_metadata(b' { "a" : "0123456789ab" } '), name="q")
    schemas.check_metadata({"a": "é" * 6}, name="q")
    for too_large in ({"a": "0123456789abc"}, {"a": "é" * 7}):
        with pytest.raises(InvalidInput, match=r"^metadata: has 2[12] bytes, more than 20$"):
            schemas.check_metadata(too_large, name="q")


def test_rules_without_metadata_are_the_defaults() -> None:
    limits = default_limits()
    assert rules_of({}, limits) == QueueRules(
        limits.max_messages_post_size, limits.default_message_ttl, limits.default_message_delay, None, None, None
    )
    shown = shown_defaults(limits)
    assert rules_of(shown, limits) == rules_of({}, limits)


def test_rules_from_metadata() -> None:
    metadata = {
        "_max_messages_post_size": 10,
        "_default_message_ttl": 61,
        "_default_message_delay": 2,
        "_dead_letter_queue": "dead",
        "_dead_letter_queue_messages_ttl": 62,
        "_max_claim_count": 3,
        "_enable_encrypt_messages": False,
        "mine": 1,
    }
    assert rules_of(metadata, default_limits()) == QueueRules(10, 61, 2, "dead", 62, 3)


def test_lowered_limits_apply_to_stored_metadata() -> None:
    lowered = make_limits(max_messages_post_size=9, max_message_ttl=60, max_message_delay=1)
    metadata = {
        "_max_messages_post_size": 10,
        "_default_message_ttl": 61,
        "_default_message_delay": 2,
        "_dead_letter_queue_messages_ttl": 62,
    }
    assert rules_of(metadata, lowered) == QueueRules(9, 60, 1, None, 60, None)


# -- purge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "types"),
    [
        (b"", ["messages", "subscriptions"]),
        (b'{"resource_types":["messages"]}', ["messages"]),
        (b'{"resource_types":["subscriptions"]}', ["subscriptions"]),
        (b'{"resource_types":[]}', []),
    ],
)
def test_purge(body: bytes, types: list[str]) -> None:
    assert SCHEMAS.parse_purge(body) == types


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "body"),
        ({}, "body"),
        ({"resource_types": ["messages"], "more": 1}, "body"),
        ({"resource_types": "messages"}, "resource_types"),
        ({"resource_types": None}, "resource_types"),
        ({"resource_types": ["messages", "claims"]}, "resource_types[1]"),
        ({"resource_types": [["messages"]]}, "resource_types[0]"),
    ],
)
def test_bad_purges_name_the_field(document: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMAS.parse_purge(raw(document))
    assert caught.value.field == field


# -- filters ---------------------------------------------------------------------------------------------------------


def queue(name: str = "q", **metadata: Any) -> Queue:
    return Queue(uid="0" * 24, project="p", name=name, metadata=metadata)


def filter_by(name: str | None, **values: str) -> Callable[[Queue], bool]:
    keep = make_filter(name, values)
    assert keep is not None
    assert keep.needs_metadata is bool(values)
    return keep.keeps


def test_no_filter() -> None:
    assert make_filter(None, {}) is None
    assert make_filter("", {}) is None


@pytest.mark.parametrize(
    ("value", "spellings", "others"),
    [
        ("red", ["red"], ["Red", "red ", "re", "redd"]),
        ("5", ["5"], ["05", "5.0"]),
        ("true", ["true"], ["True", "1"]),
        ("", [], ["x", "0"]),
        (5, ["5", "05", "+5"], ["5.0", "5.5", "x", "", "true", "5e0", "0x5", "\u0665 x", "9" * 5000]),
        (0, ["0", "-0", "00"], ["false", "0.0", "null"]),
        (-3, ["-3", "-03"], ["3", "--3"]),
        (2**63 - 1, [str(2**63 - 1)], [str(2**63), "9.223372036854775807e18"]),
        (1.5, ["1.5", "1.50", "15e-1", "01.5"], ["1.51", "1", "x", "nan", "inf", "1,5"]),
        (2.0, ["2", "2.0", "2e0"], ["2.1", "two"]),
        (1e308, ["1e308", "1" + "0" * 308], ["1e309", "inf", "9" * 5000]),
        (True, ["true", "True", "TRUE"], ["1", "t", "yes", "false"]),
        (False, ["false", "False"], ["0", "no", "", "true"]),
        (None, [], ["null", "None", "0", "false", "x"]),
        ([1], [], ["[1]", "1"]),
        ({"a": 1}, [], ['{"a": 1}', "a"]),
    ],
    ids=repr,
)
def test_a_query_parameter_equals_a_metadata_value(value: Any, spellings: list[str], others: list[str]) -> None:
    for text in spellings:
        assert filter_by(None, key=text)(queue(key=value)), text
    for text in others:
        assert not filter_by(None, key=text)(queue(key=value)), text


def test_a_queue_must_match_all_filters() -> None:
    keep = filter_by("^a", team="red", size="5")
    assert keep(queue("ab", team="red", size=5, more=1))
    for name, team, size in (("ba", "red", 5), ("ab", "red", 6), ("ab", "blue", 5)):
        assert not keep(queue(name, team=team, size=size))
    assert not keep(queue("ab", team="red"))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("b", ["abc", "b"]),
        ("^b$", ["b"]),
        ("^$", []),
        (".", ["abc", "b", "x.y"]),
        (r"\.", ["x.y"]),
        ("(?i)ABC|Y$", ["abc", "x.y"]),
        ("(a)(?P<two>b)", ["abc"]),
        (r"\bb\b", ["b"]),
        ("é", []),
        ("\x00", []),
        (r"\pL\p{Ll}c", ["abc"]),
    ],
)
def test_names_are_searched(pattern: str, names: list[str]) -> None:
    keep = filter_by(pattern)
    assert [name for name in ("abc", "b", "x.y") if keep(queue(name))] == names


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", "[", "*", "a{2,1}", "(?=a)", r"(a)\1", "a**", "\\", "a{1001}", "(" * 2000),
        # Valid, but too large.
        *(r"\pL{40}", r"(\pL{30}){30}", "(((a{100}){100}){100}){100}"),
    ],
    ids=range(13),
)
def test_bad_patterns(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match=r"^name: is not a regular expression that RE2 accepts$"):
        make_filter(pattern, {})
    assert capfd.readouterr() == ("", "")


def seconds(pattern: str, names: list[str]) -> float:
    """Return the seconds to compile it and search all names: the fastest of three runs."""
    took = math.inf
    for _ in range(3):
        started = time.perf_counter()
        keep = filter_by(pattern)
        for name in names:
            keep(queue(name))
        took = min(took, time.perf_counter() - started)
    return took


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*)*x$", "^(([a-z])+.)+[A-Z]+$", "(.*a){20}"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """If a name does not match, a backtracking engine tries 2**60 ways."""
    names = ["a" * 60 + "!"] * 100
    assert seconds(pattern, names) < 200 * seconds("b$", names)


def test_large_patterns_are_bounded_too() -> None:
    names = ["a" * 63 + "-"] * 20
    # Each one almost reaches the memory limit of an expression, and uses most of its states for each character.
    for pattern in ("(.?){900}$", "([a-z]?){1000}$", "|".join(["(x+x+)+y"] * 300), r"(\pL?){12}$"):
        assert seconds(pattern, names) < 5000 * seconds("b$", names)
