# SPDX-License-Identifier: Apache-2.0
"""The strict JSON decoder: tables of values at its bounds, and comparisons with two other parsers."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.schemas.refusals import refusal_of
from zaqar.errors import InvalidInput
from zaqar.schemas import strict_json
from zaqar.schemas.strict_json import INT64_MAX, INT64_MIN, MAX_DEPTH, decode, encode


def refusal(raw: bytes) -> str | None:
    """Return why it is refused, None if it is accepted."""
    error = refusal_of(lambda: decode(raw))
    return None if error is None else error.reason


def is_equal_json(one: Any, other: Any) -> bool:
    """Whether two values are equal and have equal types at all levels: 1, 1.0 and true are different values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_equal_json(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_equal_json, one, other))
    if isinstance(one, float):
        return one.hex() == other.hex()
    return bool(one == other)


# -- against other parsers -------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(INT64_MIN, INT64_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=25,
)


@given(value=values, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 1, "\t"]))
def test_every_spelling_of_a_value_is_read(value: Any, ascii_only: bool, indent: int | str | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert is_equal_json(decode(raw), value)
    assert is_equal_json(decode(encode(value)), value)
    assert is_equal_json(decode(msgspec.json.encode(value)), value)


STRUCTURE = [*"[]{},:", *" \n\t\r\f\v\x00\xa0\ufeff"]
GOOD = [
    *('"a"', '"\\u0061"', '""', '"\\\\"', '"[{"', '"\\/"', '"\x7f"', '"é\U0001f600"', '"\\ud83d\\ude00"', '"\\u0000"'),
    *("0", "-0", "1", "-1", "1.5", "-0.0", "1e5", "1E+5", "1e-400", "1e308", "true", "false", "null"),
    *("9223372036854775807", "-9223372036854775808"),
]
BAD = [
    *('"\\"', '"\\x"', '"\t"', '"\\ud83d"', '"\\ude00"', '"\\ude00\\ud83d"', '"\\uD83D\\u0041"', '"\\u00zz"', "'a'"),
    *("01", "+1", ".5", "1.", "0x1", "1_0", "\u0665", "1e309", "-1e309", "NaN", "Infinity", "-Infinity", "nan"),
    *("9223372036854775808", "-9223372036854775809", "1" * 30, "True", "None", "//", "", " 1 ", "1 1", "\u00a01"),
]

tokens = st.lists(st.sampled_from(STRUCTURE + GOOD + BAD), max_size=12).map("".join)
leaves = st.integers(0, 7).flatmap(lambda n: st.sampled_from(GOOD if n else BAD))
keys = st.sampled_from(['"a"', '"\\u0061"', '"b"', '"c"', '"d"', '""', "a"])
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(keys, inner), max_size=3).map(lambda pairs: f"{{{','.join(map(':'.join, pairs))}}}")
    ),
    max_leaves=8,
)

BEYOND_JSON = ("is given twice", "too large for a double", "does not fit into 64 bits", "half of a surrogate pair")


@given(text=documents | documents | tokens)
@example(text="")
@example(text='{"a":1,"\\u0061":1}')
@example(text="[1,]")
def test_accepts_what_another_strict_parser_accepts(text: str) -> None:
    raw = text.encode()
    reason = refusal(raw)
    try:
        theirs = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        assert reason is not None
        return
    if reason is None:
        assert is_equal_json(decode(raw), theirs)
    else:
        # Well-formed, and refused by one of the additional rules of the module.
        assert any(words in reason for words in BEYOND_JSON), reason


@given(raw=st.binary(max_size=20) | tokens.map(lambda text: text.encode("utf-16-le")))
@example(raw=b"\xed\xa0\x80")
@example(raw=b'"\xed\xa0\x80"')
@example(raw=b'"\xc0\xaf"')
@example(raw=b'"\xf4\x90\x80\x80"')
@example(raw=b'\xef\xbb\xbf"a"')
@example(raw=b'\xff\xfe"\x00a\x00"\x00')
def test_bytes_are_utf_8_or_refused(raw: bytes) -> None:
    # json.loads() guesses the encoding of bytes (and would take UTF-16); here there is only one.
    if refusal(raw) is None:
        assert is_equal_json(decode(raw), json.loads(raw.decode()))


def test_bad_utf_8_is_located() -> None:
    with pytest.raises(InvalidInput, match=r"^metadata: not valid UTF-8 at byte 3$"):
        decode(b'"ab\xff"', field="metadata")


@pytest.mark.parametrize("raw", [b"", b" ", b"{", b"[1,]", b'{"a"}', b"'a'", b"1 2", b'"a\nb"'])
def test_bad_syntax_is_located(raw: bytes) -> None:
    assert "line 1 column" in (refusal(raw) or "")


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX])
def test_every_int64_is_read(number: int) -> None:
    assert decode(str(number).encode()) == number


@pytest.mark.parametrize(
    "digits",
    [str(INT64_MAX + 1), str(INT64_MIN - 1), "9" * 19, "-" + "9" * 19, "9" * 20, "9" * 21, "-" + "9" * 5000],
)
def test_no_other_integer_is_read(digits: str) -> None:
    # int() raises another error for more than 4300 digits, which must not reach the caller.
    for raw in (digits, f'{{"a":[{digits}]}}'):
        assert refusal(raw.encode()) == "an integer does not fit into 64 bits"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e308", 1e308),
        ("-1e308", -1e308),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("1e-400", 0.0),
        ("5e-324", 5e-324),
        ("-0.0", -0.0),
        ("0." + "1" * 5000, 0.1111111111111111),
        ("1" * 400 + "e-400", 0.1111111111111111),
        ("9223372036854775808.0", 9223372036854775808.0),
    ],
)
def test_floats_are_doubles(text: str, number: float) -> None:
    assert is_equal_json(decode(text.encode()), number)


@pytest.mark.parametrize("text", ["1e309", "-1e309", "1.8e308", "1e999999999", "1" * 400 + ".0", "1E400"])
def test_floats_beyond_a_double_are_refused(text: str) -> None:
    for raw in (text, f"[{text}]", f'{{"a":{text}}}'):
        assert refusal(raw.encode()) == "a number is too large for a double"


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_of_python_are_refused(name: str) -> None:
    assert refusal(f"[{name}]".encode()) == f"{name} is not JSON"
    assert decode(f'"{name}"'.encode()) == name


# -- strings and keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\uD83D\uDE00"', "\U0001f600"),
        (r'"\ud7ff\ue000"', "\ud7ff\ue000"),
        (r'"\\ud800"', r"\ud800"),
        (r'"\u0000"', "\x00"),
        (r'{"\ud83d\ude00":1}', {"\U0001f600": 1}),
    ],
)
def test_surrogate_pairs_are_characters(text: str, value: Any) -> None:
    assert decode(text.encode()) == value
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        r'"\ud83d"',
        r'"\ude00"',
        r'"\ude00\ud83d"',
        r'"\ud83d\ud83d\ude00"',
        r'"\ud83d\\ude00"',
        r'"\ud83d\u0041"',
        r'"\ud83d \ude00"',
        r'["\ud83d","\ude00"]',
        r'{"a":{"b":["\udfff"]}}',
        r'{"\ud800":1}',
    ],
)
def test_lone_surrogates_are_refused(text: str) -> None:
    assert refusal(text.encode()) == "a string holds half of a surrogate pair"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a":1,"a":1}', "a"),
        ('{"b":0,"a":1,"a":2,"b":3}', "a"),
        ('{"a":1,"\\u0061":1}', "a"),
        ('{"":1,"":2}', ""),
        ('[[{"x":{"a":null,"b":0,"a":null}}]]', "a"),
        ('{"é":1,"\\u00e9":1}', "\\xe9"),
    ],
)
def test_a_key_twice_is_refused(text: str, key: str) -> None:
    assert refusal(text.encode()) == f"the key '{key}' is given twice in one object"


def test_a_key_in_two_objects_is_fine() -> None:
    assert decode(b'{"a":{"a":[{"a":1},{"a":1}]}}') == {"a": {"a": [{"a": 1}, {"a": 1}]}}
    # Keys are compared by code points. These two only look alike.
    assert len(decode(rb'{"\u00e9":1,"e\u0301":2}')) == 2


# -- depth -----------------------------------------------------------------------------------------------------------

# Each one has 100 brackets without nesting, so that the depth has to be computed.
SIBLINGS = ["[" + "[]," * 50 + '{"a":[{}]}]', '"' + "[{" * 50 + '"', '"' + '\\"[' * 100 + '\\\\"', '"]]]]}}}}"']


def nest(levels: int, inside: str, *, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * levels + inside + closing * levels).encode()


@pytest.mark.parametrize("inside", ["", "1", '"["', '"]"', '"\\"["', '"\\\\"', '"\\\\\\"[{["'])
def test_depth_at_the_bound(inside: str) -> None:
    assert refusal(nest(MAX_DEPTH, inside)) is None
    assert refusal(nest(MAX_DEPTH + 1, inside)) == "nested deeper than 100 levels"


def test_objects_nest_as_arrays_do() -> None:
    for opening, closing, levels in (('{"a":', "}", 1), ('[{"[":', "}]", 2), ('{"}":[', "]}", 2)):
        fits = MAX_DEPTH // levels
        assert refusal(nest(fits, "1", opening=opening, closing=closing)) is None
        assert "nested" in (refusal(nest(fits, "[1]", opening=opening, closing=closing)) or "")


@pytest.mark.parametrize("sibling", SIBLINGS)
def test_siblings_do_not_count_as_depth(sibling: str) -> None:
    deep = nest(MAX_DEPTH - 1, "0").decode()
    for inside in (f"{sibling},{deep}", f"{deep},{sibling}", f"{sibling},{deep},{sibling}"):
        assert refusal(f"[{inside}]".encode()) is None
        assert "nested" in (refusal(f"[{inside},[{deep}]]".encode()) or "")


@given(inner=values, padding=st.text('[]{}"\\', max_size=150), levels=st.integers(0, MAX_DEPTH + 5))
def test_depth_is_that_of_the_value(inner: Any, padding: str, levels: int) -> None:
    value = [padding, "[" * (MAX_DEPTH + 1), inner]
    for _ in range(levels):
        value = [value]
    refused = refusal(json.dumps(value).encode()) is not None
    assert refused == (depth_of(value) > MAX_DEPTH)


def depth_of(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth_of, inside), default=0)


@pytest.mark.parametrize("brackets", ["[" * 200_000, "{" * 200_000, '{"a":' * 50_000, "[" * 200_000 + "]" * 200_000])
def test_extreme_depth_is_refused_without_an_overflow(brackets: str) -> None:
    assert "nested" in (refusal(brackets.encode()) or "")


# -- time ------------------------------------------------------------------------------------------------------------


def seconds(raw: bytes) -> float:
    """Return the seconds of the fastest of three runs."""
    took = math.inf
    for _ in range(3):
        started = time.perf_counter()
        refusal(raw)
        took = min(took, time.perf_counter() - started)
    return took


@pytest.mark.parametrize(
    "hostile",
    [
        b'"' + b'\\"' * 15_000,
        b'"' + b'\\"' * 15_000 + b"\\",
        b'"a' * 15_000,
        b'"' + b"\\" * 30_000,
        b'"\\u0022' * 4_000,
        b"9" * 30_000,
        b"0." + b"9" * 30_000,
        b'{"a":1,' * 4_000,
    ],
    ids=range(8),
)
def test_hostile_documents_take_no_longer_than_others(hostile: bytes) -> None:
    """Many brackets, and a string without an end, which a simple pattern would try from each quote in it."""
    brackets = b"[" * (MAX_DEPTH + 1)
    friendly = nest(MAX_DEPTH, "[],[]," + json.dumps("x" * len(hostile)))
    # Compare a ratio, because the machine may be slow. Without protection it is thousands, and grows with the size.
    assert seconds(brackets + hostile) < 200 * seconds(friendly)
    assert seconds(hostile) < 200 * seconds(friendly)


def test_encode_is_compact_utf_8() -> None:
    assert encode({"a": [1, 1.5, None, True, "é\U0001f600"]}) == '{"a":[1,1.5,null,true,"é\U0001f600"]}'.encode()


def test_the_module_documents_its_bounds() -> None:
    assert (strict_json.MAX_DEPTH, INT64_MIN, INT64_MAX) == (100, -(1 << 63), (1 << 63) - 1)
