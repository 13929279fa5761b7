# SPDX-License-Identifier: Apache-2.0
"""Decodes JSON more strictly than RFC 8259, so that all clients read a stored document the same way.

These are refused besides syntax errors: NaN and Infinity, numbers that overflow a double, integers beyond int64,
invalid UTF-8 and lone surrogates, an object with the same key twice, and nesting deeper than :data:`MAX_DEPTH`.
"""

import json
import re
from typing import Any, NoReturn

from zaqar.errors import InvalidInput

MAX_DEPTH = 100

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

# The quantifier is possessive and the closing quote is optional, so a match never fails. Otherwise, in a string without
# an end, each quote would be tried as the start of a string, which takes minutes for a large body.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class _Refused(ValueError):
    """The document is valid JSON but breaks one of the rules above. The text says which one."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {twice!a} is given twice in one object")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:
        raise _Refused("a number is too large for a double")
    return number


def _int64(text: str) -> int:
    # Every int64 has at most 20 characters. int() would raise another error for thousands of digits.
    if len(text) > 20 or not INT64_MIN <= (number := int(text)) <= INT64_MAX:
        raise _Refused("an integer does not fit into 64 bits")
    return number


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_int64, parse_constant=_no_constant
)


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


class Document(bytes):
    """A JSON document that was decoded strictly before. :func:`decode` returns its ``value`` at once."""

    value: Any


def decode(raw: bytes, *, field: str = "body") -> Any:
    """Decode a JSON document. Raises InvalidInput, about ``field``, if it is invalid or breaks a rule above."""
    if type(raw) is Document:
        return raw.value
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(field, f"not valid UTF-8 at byte {exc.start}") from exc
    return decode_text(text, field=field)


def decode_text(text: str, *, field: str) -> Any:
    """Like :func:`decode`, for a JSON document that is text."""
    # PERF: count brackets first. Almost no document has more than MAX_DEPTH, and only then its depth is computed.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise InvalidInput(field, f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = _decoder.decode(text)
    except _Refused as exc:
        raise InvalidInput(field, str(exc)) from exc
    except json.JSONDecodeError as exc:
        raise InvalidInput(field, f"not valid JSON: {exc.msg} at line {exc.lineno} column {exc.colno}") from exc
    if "\\u" in text:
        _refuse_lone_surrogates(value, field)
    return value


def _refuse_lone_surrogates(value: Any, field: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(field, "a string holds half of a surrogate pair") from exc


def encode(value: Any) -> bytes:
    """Encode a value from :func:`decode` as compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
