# SPDX-License-Identifier: Apache-2.0
"""Filters of subscriptions: which bodies match, and the errors of invalid filters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.schemas.refusals import refusal_of
from zaqar.errors import InvalidInput
from zaqar.schemas.filters import MOST_CONDITIONS, MOST_ELEMENTS, MOST_LEVELS, MOST_STEPS, MOST_TEXT, compile_filter


def matches(policy: Any, body: Any) -> bool:
    return compile_filter(policy, field="options.filter").matches(body)


MATCHES: list[tuple[Any, list[Any], list[Any]]] = [
    # policy, bodies that match, bodies that do not
    (
        {"a": ["x"]},
        [{"a": "x"}, {"a": "x", "b": 1}, {"a": ["y", "x"]}, {"a": [["x"]]}, [{"b": 1}, {"a": "x"}]],
        [{"a": "X"}, {"a": "xx"}, {"a": ["y"]}, {"a": {"x": 1}}, {"b": "x"}, {}, {"a": []}, "x", None, [], 1, ["a"]],
    ),
    ({"a": ["x", "y"]}, [{"a": "x"}, {"a": "y"}], [{"a": "z"}]),
    ({"a": ["x"], "b": ["y"]}, [{"a": "x", "b": "y"}], [{"a": "x"}, {"b": "y"}, {"a": "y", "b": "x"}]),
    ({"a": [1]}, [{"a": 1}, {"a": 1.0}], [{"a": True}, {"a": "1"}, {"a": 2}, {"a": None}]),
    ({"a": [0.5]}, [{"a": 0.5}, {"a": 5e-1}], [{"a": 0}]),
    ({"a": [True]}, [{"a": True}], [{"a": 1}, {"a": False}, {"a": "true"}]),
    ({"a": [False]}, [{"a": False}], [{"a": 0}, {"a": None}, {"a": ""}, {}]),
    ({"a": [None]}, [{"a": None}, {"a": [None]}], [{}, {"a": 0}, {"a": False}, {"a": "null"}]),
    ({"a": [{"prefix": "ab"}]}, [{"a": "ab"}, {"a": "abc"}, {"a": [1, "abx"]}], [{"a": "a"}, {"a": 1}, {"a": {}}, {}]),
    ({"a": [{"suffix": "bc"}]}, [{"a": "bc"}, {"a": "abc"}], [{"a": "bcd"}, {"a": None}]),
    (
        {"a": [{"equals-ignore-case": "Straße"}]},
        [{"a": "straße"}, {"a": "STRASSE"}],
        [{"a": "straßen"}, {"a": "strase"}, {"a": 1}],
    ),
    (
        {"a": [{"anything-but": "x"}]},
        [{"a": "y"}, {"a": 1}, {"a": None}, {"a": ["x", "y"]}],
        [{"a": "x"}, {"a": ["x"]}, {"a": []}, {}, {"a": {"x": 1}}],
    ),
    ({"a": [{"anything-but": ["x", 1]}]}, [{"a": "y"}, {"a": True}], [{"a": "x"}, {"a": 1}, {"a": 1.0}]),
    ({"a": [{"anything-but": {"prefix": "x"}}]}, [{"a": "y"}, {"a": 1}], [{"a": "xy"}, {"a": "x"}, {}]),
    ({"a": [{"anything-but": {"suffix": "x"}}]}, [{"a": "xy"}], [{"a": "yx"}]),
    ({"a": [{"anything-but": False}]}, [{"a": 0}, {"a": True}], [{"a": False}]),
    ({"a": [{"numeric": ["=", 5]}]}, [{"a": 5}, {"a": 5.0}], [{"a": "5"}, {"a": 6}]),
    ({"a": [{"numeric": [">", 5]}]}, [{"a": 5.1}, {"a": 10**18}], [{"a": 5}, {"a": True}, {"a": "6"}]),
    ({"a": [{"numeric": ["<=", 0]}]}, [{"a": 0}, {"a": -1}], [{"a": False}, {"a": 1e-300}]),
    ({"a": [{"numeric": [">=", 1, "<", 3]}]}, [{"a": 1}, {"a": 2.99}, {"a": [9, 2]}], [{"a": 3}, {"a": 0.99}]),
    ({"a": [{"exists": True}]}, [{"a": 1}, {"a": None}, {"a": []}, {"a": {}}], [{}, {"b": 1}]),
    ({"a": [{"exists": False}]}, [{}, {"b": 1}, [{"b": 1}]], [{"a": 1}, {"a": None}, {"a": []}, "x", 1]),
    ({"a": [{"exists": False}, "x"]}, [{}, {"a": "x"}], [{"a": "y"}]),
    ({"a": [{"exists": False}, {"exists": True}]}, [{}, {"a": "x"}], ["x"]),
    ({"a": [{"prefix": "x"}, 3, {"numeric": [">", 9]}]}, [{"a": "xy"}, {"a": 3}, {"a": 10}], [{"a": 4}, {"a": "3"}]),
    (
        {"a": {"b": ["x"]}},
        [{"a": {"b": "x"}}, {"a": {"b": ["x"]}}, {"a": [{"b": "y"}, {"b": "x"}]}, {"a": [[{"b": "x"}]]}],
        [{"a": "x"}, {"a": {"c": "x"}}, {"b": "x"}, {"a": []}, {}],
    ),
    # All conditions have to match the same element.
    (
        {"a": {"b": [1], "c": [2]}},
        [{"a": [{"b": 1, "c": 2}]}],
        [{"a": [{"b": 1}, {"c": 2}]}],
    ),
    ({"a": {"b": [{"exists": False}]}}, [{}, {"a": {}}, {"a": {"c": 1}}], [{"a": {"b": 1}}, {"a": 5}, {"a": "b"}]),
    (
        {"$or": [{"a": [1]}, {"b": [2]}]},
        [{"a": 1}, {"b": 2}, {"a": 1, "b": 3}],
        [{"a": 2, "b": 1}, {}, "x"],
    ),
    (
        {"k": ["x"], "$or": [{"a": [1]}, {"b": {"c": [{"numeric": [">", 1]}]}}]},
        [{"k": "x", "a": 1}, {"k": "x", "b": {"c": 2}}],
        [{"a": 1}, {"k": "x"}, {"k": "x", "b": {"c": 1}}],
    ),
    ({"a": {"$or": [{"b": [1]}, {"c": [1]}]}}, [{"a": {"b": 1}}, {"a": {"c": 1}}], [{"b": 1}, {"a": {}}]),
    ({"a.b": ["x"]}, [{"a.b": "x"}], [{"a": {"b": "x"}}]),
    ({"": [""]}, [{"": ""}], [{"": " "}]),
]


@pytest.mark.parametrize(
    ("policy", "body", "expected"),
    [(policy, body, True) for policy, good, _ in MATCHES for body in good]
    + [(policy, body, False) for policy, _, bad in MATCHES for body in bad],
)
def test_what_matches(policy: Any, body: Any, expected: bool) -> None:
    assert matches(policy, body) is expected


def nested(levels: int) -> Any:
    policy: Any = ["x"]
    for _ in range(levels):
        policy = {"a": policy}
    return policy


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (None, "filter"),
        ([], "filter"),
        ("x", "filter"),
        ({}, "filter"),
        ({1: ["x"]}, "filter"),
        ({"a": "x"}, "filter.a"),
        ({"a": None}, "filter.a"),
        ({"a": []}, "filter.a"),
        ({"a": {}}, "filter.a"),
        ({"a": {"b": 1}}, "filter.a.b"),
        ({"a": [[]]}, "filter.a[0]"),
        ({"a": ["x", {}]}, "filter.a[1]"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "filter.a[0]"),
        ({"a": [{"exists": True, "prefix": "x"}]}, "filter.a[0]"),
        ({"a": [{"like": "x"}]}, "filter.a[0]"),
        ({"a": [{"prefix": 1}]}, "filter.a[0].prefix"),
        ({"a": [{"suffix": None}]}, "filter.a[0].suffix"),
        ({"a": [{"equals-ignore-case": ["x"]}]}, "filter.a[0].equals-ignore-case"),
        ({"a": [{"exists": 1}]}, "filter.a[0].exists"),
        ({"a": [{"anything-but": []}]}, "filter.a[0].anything-but"),
        ({"a": [{"anything-but": [[]]}]}, "filter.a[0].anything-but[0]"),
        ({"a": [{"anything-but": {}}]}, "filter.a[0].anything-but"),
        ({"a": [{"anything-but": {"numeric": [">", 1]}}]}, "filter.a[0].anything-but"),
        ({"a": [{"anything-but": {"prefix": 1}}]}, "filter.a[0].anything-but.prefix"),
        ({"a": [{"numeric": 5}]}, "filter.a[0].numeric"),
        ({"a": [{"numeric": []}]}, "filter.a[0].numeric"),
        ({"a": [{"numeric": [">", 1, "<"]}]}, "filter.a[0].numeric"),
        ({"a": [{"numeric": ["!=", 1]}]}, "filter.a[0].numeric[0]"),
        ({"a": [{"numeric": [[], 1]}]}, "filter.a[0].numeric[0]"),
        ({"a": [{"numeric": [">", "1"]}]}, "filter.a[0].numeric[1]"),
        ({"a": [{"numeric": [">", True]}]}, "filter.a[0].numeric[1]"),
        ({"a": [{"numeric": [">", 1, "<", None]}]}, "filter.a[0].numeric[3]"),
        ({"a": [{"numeric": ["<", 1, ">", 0]}]}, "filter.a[0].numeric"),
        ({"a": [{"numeric": [">", 1, "<", 0]}]}, "filter.a[0].numeric"),
        ({"a": [{"numeric": ["=", 1, "<", 3]}]}, "filter.a[0].numeric"),
        ({"$or": []}, "filter.$or"),
        ({"$or": {"a": [1]}}, "filter.$or"),
        ({"$or": [{"a": [1]}, 5]}, "filter.$or[1]"),
        ({"$or": [{"a": [1]}, {"b": 5}]}, "filter.$or[1].b"),
        ({"a b": 1}, "filter.'a b'"),
        ({"a": {"ключ": [{"prefix": 1}]}}, "filter.a.'\\u043a\\u043b\\u044e\\u0447'[0].prefix"),
        ({"a": list(range(MOST_CONDITIONS + 1))}, f"filter.a[{MOST_CONDITIONS}]"),
        ({"a": [{"anything-but": list(range(MOST_CONDITIONS))}]}, f"filter.a[0].anything-but[{MOST_CONDITIONS - 1}]"),
        ({"a": ["x" * MOST_TEXT]}, "filter.a[0]"),
        ({"k" * MOST_TEXT: ["x"]}, f"filter.'{'k' * 64}'[0]"),
        (nested(MOST_LEVELS + 1), "filter" + ".a" * MOST_LEVELS),
    ],
)
def test_an_error_has_the_path_of_the_invalid_part(policy: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_filter(policy, field="filter")
    assert caught.value.field == field


def test_a_filter_at_the_limits_is_accepted() -> None:
    assert matches({"a": list(range(MOST_CONDITIONS))}, {"a": MOST_CONDITIONS - 1})
    body: Any = "x"
    for _ in range(MOST_LEVELS):
        body = {"a": body}
    assert matches(nested(MOST_LEVELS), body)


def test_a_match_examines_a_limited_number_of_elements() -> None:
    assert matches({"a": ["x"]}, {"a": [0] * (MOST_ELEMENTS - 1) + ["x"]})
    assert not matches({"a": ["x"]}, {"a": [0] * MOST_ELEMENTS + ["x"]})
    # All arrays of a body count together.
    assert not matches({"a": ["x"], "b": ["y"]}, {"a": [0] * (MOST_ELEMENTS - 1) + ["x"], "b": ["y"]})


class Counted(list[Any]):
    """An array that counts how many of its elements are read."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for element in super().__iter__():
            self.seen += 1
            yield element


def deep(levels: int, conditions: Any) -> Any:
    return conditions if levels == 0 else {"a": deep(levels - 1, conditions)}


@pytest.mark.parametrize(
    ("policy", "element", "most"),
    [
        ([{"prefix": f"{n}."} for n in range(MOST_CONDITIONS)], "x", MOST_ELEMENTS),
        ([{"suffix": f"{n}."} for n in range(MOST_CONDITIONS)], "x", MOST_ELEMENTS),
        ([{"equals-ignore-case": f"{n}."} for n in range(MOST_CONDITIONS)], "x", MOST_ELEMENTS),
        ([f"{n}." for n in range(MOST_CONDITIONS)], "x", MOST_ELEMENTS),
        ([{"numeric": ["=", n]} for n in range(10)], -1, MOST_ELEMENTS),
        ([{"numeric": ["=", n]} for n in range(MOST_CONDITIONS)], -1, MOST_STEPS // MOST_CONDITIONS + 1),
        ([{"anything-but": {"prefix": "x"}}] * MOST_CONDITIONS, "x", MOST_STEPS // MOST_CONDITIONS + 1),
        ({"$or": [{str(n): [1]} for n in range(MOST_CONDITIONS)]}, {}, MOST_STEPS // (2 * MOST_CONDITIONS) + 1),
        ({"$or": [deep(7, {str(n): [1]}) for n in range(MOST_CONDITIONS)]}, deep(7, {}), MOST_STEPS // 1000 + 1),
    ],
    ids=["prefix", "suffix", "case", "equal", "few", "numeric", "anything-but", "or", "deep"],
)
def test_a_match_makes_a_limited_number_of_comparisons(policy: Any, element: Any, most: int) -> None:
    """The more conditions there are, the fewer elements are examined."""
    array = Counted([element] * (2 * MOST_ELEMENTS))
    assert not matches({"a": policy}, {"a": array})
    assert 0 < array.seen <= most + 1
    if most == MOST_ELEMENTS:
        assert array.seen >= most


def seconds_of(policy: Any, body: Any) -> float:
    compiled = compile_filter(policy, field="filter")

    def once() -> float:
        began = time.perf_counter()
        compiled.matches(body)
        return time.perf_counter() - began

    return min(once() for _ in range(20))


@pytest.mark.parametrize("name", ["prefix", "suffix", "equals-ignore-case"])
def test_many_conditions_on_texts_take_about_as_long_as_a_few(name: str) -> None:
    """Compared one by one, 150 of them would take 50 times as long as one, for a message with 600 words."""
    body = {"a": [f"word-{n}-drow" for n in range(600)]}
    few, many = ({"a": [{name: f"{n}{'.' * 20}{n}"} for n in range(count)]} for count in (2, MOST_CONDITIONS))
    assert seconds_of(many, body) < 8 * seconds_of(few, body)


texts = st.text("aAbß", max_size=4)


@given(wanted=st.lists(texts, min_size=1, max_size=8), value=texts)
def test_several_conditions_on_texts_match_if_any_matches(wanted: list[str], value: str) -> None:
    expected = {
        "prefix": any(value.startswith(text) for text in wanted),
        "suffix": any(value.endswith(text) for text in wanted),
        "equals-ignore-case": any(value.casefold() == text.casefold() for text in wanted),
    }
    for name, result in expected.items():
        assert matches({"a": [{name: text} for text in wanted]}, {"a": value}) == result


def test_the_size_grows_with_the_filter() -> None:
    def size_of(policy: Any) -> int:
        return compile_filter(policy, field="filter").size

    small = size_of({"a": [1]})
    assert small < 5000
    assert size_of({"a": ["x" * 10_000]}) > small + 10_000
    assert size_of({"a": [{"numeric": ["=", n]} for n in range(MOST_CONDITIONS)]}) > 20 * small


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c", ""]), inner, max_size=4)
    ),
    max_leaves=20,
)
operators = st.one_of(
    st.dictionaries(st.sampled_from(["prefix", "suffix", "equals-ignore-case"]), st.text(max_size=3), min_size=1),
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.fixed_dictionaries({"anything-but": scalars | st.lists(scalars)}),
    st.fixed_dictionaries({"numeric": st.tuples(st.sampled_from(["=", "<", ">="]), st.integers()).map(list)}),
)
policies = st.recursive(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", ""]),
        st.lists(scalars | operators | documents, min_size=1, max_size=3),
        min_size=1,
    ),
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1)
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=8,
)


@given(policy=policies | documents, bodies=st.lists(documents | st.dictionaries(st.sampled_from("abc"), documents)))
def test_any_json_is_accepted_or_refused_as_a_filter_and_can_be_matched(policy: Any, bodies: list[Any]) -> None:
    refusal = refusal_of(lambda: compile_filter(policy, field="filter"))
    if refusal is not None:
        assert refusal.field.startswith("filter")
        return
    compiled = compile_filter(policy, field="filter")
    assert all(compiled.matches(body) in (True, False) for body in bodies)


@given(value=scalars, other=documents)
def test_a_scalar_matches_itself_and_anything_but_is_its_opposite(value: Any, other: Any) -> None:
    assert matches({"a": [value]}, {"a": value})
    if not isinstance(other, dict | list):
        assert matches({"a": [value]}, {"a": other}) is not matches({"a": [{"anything-but": value}]}, {"a": other})
