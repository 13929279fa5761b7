# SPDX-License-Identifier: Apache-2.0
"""The wire form of subscriptions. What is refused, and how that is said, is in the tests of the API."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.workers import make_limits
from zaqar.errors import InvalidInput
from zaqar.limits import MOST_SECONDS
from zaqar.model import CONFIRMED, REFUSED, Secret, Subscription
from zaqar.schemas.subscriptions import (
    MOST_BYTES_OF_OPTIONS,
    Wanted,
    check_options_for,
    is_subscription_id,
    parse_change,
    parse_confirmation,
    parse_creation,
    parse_grace,
    shown,
)

LIMITS = make_limits()
MAIL = "mailto:a@example.org"


def creation(**fields: Any) -> Wanted:
    return parse_creation(json.dumps({"subscriber": MAIL, **fields}).encode(), source="q", limits=LIMITS)


def refused(**options: Any) -> str:
    """The field that a creation with these options is refused for."""
    with pytest.raises(InvalidInput) as caught:
        creation(options=options)
    return caught.value.field


def test_a_creation() -> None:
    assert creation() == Wanted(MAIL, None, None)
    assert creation(ttl=60, options={"a": 1}, more=1) == Wanted(MAIL, 60, {"a": 1})
    assert creation(ttl=MOST_SECONDS).ttl == MOST_SECONDS


def test_a_change_names_something() -> None:
    assert parse_change(b'{"ttl":60}', source="q", limits=LIMITS) == Wanted(None, 60, None)
    for raw in (b"{}", b'{"tll":60}', b'{"ttl":null}'):
        with pytest.raises(InvalidInput):
            parse_change(raw, source="q", limits=LIMITS)


@pytest.mark.parametrize("name", ["X-A", "x_a", "!#$%&'*+-.^_`|~", "a" * 128])
def test_names_of_headers(name: str) -> None:
    assert creation(options={"post_headers": {name: "v"}}).options == {"post_headers": {name: "v"}}


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a:", "a\t", "a\r\nb", "(a)", "ä", "a" * 129, "{", "a/b"),
        *("HOST", "Content-Length", "content-encoding", "transfer-encoding", "Connection", "keep-alive", "TE"),
        *("Trailer", "Upgrade", "Expect", "HTTP2-Settings", "Proxy-Connection", "Proxy-Authorization"),
        *("webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"),
    ],
)
def test_headers_that_are_refused(name: str) -> None:
    assert refused(post_headers={name: "v"}).startswith("options.post_headers")


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "~" * 4096, "Bearer x.y-z"])
def test_values_of_headers(value: str) -> None:
    assert creation(options={"post_headers": {"A": value}}).options == {"post_headers": {"A": value}}


@pytest.mark.parametrize(
    "value", ["\n", "a\rb", "a\r\nHost: b", "\x00", "\x7f", "é", " a", "a ", "~" * 4097, 1, None, []]
)
def test_values_that_are_refused(value: Any) -> None:
    assert refused(post_headers={"A": value}).startswith("options.post_headers")


def test_there_are_not_too_many_headers() -> None:
    assert refused(post_headers={f"A{n}": "" for n in range(51)}) == "options.post_headers"


@pytest.mark.parametrize("name", ["from", "subject"])
@pytest.mark.parametrize("text", ["a\r\nBcc: b", "a\nb", "\x00", "a\u2028b", "x" * 999])
def test_lines_of_a_mail_are_lines(name: str, text: str) -> None:
    assert refused(**{name: text}) == f"options.{name}"


def test_the_size_of_options() -> None:
    fits = {"k": "x" * (MOST_BYTES_OF_OPTIONS - len('{"k":""}'))}
    assert creation(options=fits).options == fits
    assert refused(k=fits["k"] + "x") == "options"


def test_the_field_that_is_named() -> None:
    assert refused(post_data=1) == "options.post_data"
    assert refused(_retry_policy={"minimum_delay": 0}) == "options._retry_policy.minimum_delay"
    assert refused(_retry_policy={"minimum_delay": 30}) == "options._retry_policy.maximum_delay"
    assert refused(filter={"a": [{"x": 1}]}).startswith("options.filter")


def test_the_token_of_a_trust_is_not_to_be_replaced() -> None:
    options = {"post_headers": {"x-auth-TOKEN": "mine"}}
    check_options_for(options, "https://example.org")
    with pytest.raises(InvalidInput, match="x-auth-TOKEN"):
        check_options_for(options, "trust+https://example.org")


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 23, "0" * 25, "0" * 23 + "g", "A" * 24, "0" * 24 + "\n", "\u0660" * 24]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_subscription_id(text)


NAMES = [
    "subscriber",
    "ttl",
    "options",
    "post_headers",
    "filter",
    "_retry_policy",
    "from",
    "dead_letter_queue",
    "grace",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=10,
)


@given(json_values)
@settings(max_examples=50)
def test_any_value_is_taken_or_refused(value: Any) -> None:
    for document in (value, {"subscriber": MAIL, "options": value}, {"subscriber": value}, {"ttl": value}):
        raw = json.dumps(document).encode()
        for parse in (
            lambda raw: parse_creation(raw, source="q", limits=LIMITS),
            lambda raw: parse_change(raw, source="q", limits=LIMITS),
            parse_confirmation,
            parse_grace,
        ):
            with contextlib.suppress(InvalidInput):
                parse(raw)


def test_what_is_shown() -> None:
    secret = Secret("whsec_x")
    one = Subscription("i" * 24, "u" * 24, "p", "queue", "q", MAIL, 60, 10.0, 70.0, {"a": 1}, CONFIRMED, (secret,))
    assert shown(one, 15.5) == {
        "id": "i" * 24,
        "source": "q",
        "subscriber": MAIL,
        "ttl": 60,
        "age": 5,
        "options": {"a": 1},
        "confirmed": True,
    }
    assert shown(replace(one, state=REFUSED), 10.0)["confirmed"] is False
