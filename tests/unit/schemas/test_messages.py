# SPDX-License-Identifier: Apache-2.0
"""Posts: the parser and the JSON schema accept the same documents; ids; checksums."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.schemas.refusals import refusal_of
from tests.unit.workers import make_limits
from zaqar.errors import InvalidInput
from zaqar.model import Draft
from zaqar.schemas.fields import Validator
from zaqar.schemas.messages import check_ids, make_checksum, make_drafts, parse_post, post_schema, split_ids
from zaqar.schemas.queues import rules_of

LIMITS = make_limits(max_message_ttl=1000, default_message_ttl=600, max_message_delay=50, default_message_delay=3)
RULES = rules_of({}, LIMITS)


def drafts_of(raw: bytes, **metadata: Any) -> list[Draft]:
    return make_drafts(parse_post(raw), size=len(raw), rules=rules_of(metadata, LIMITS), limits=LIMITS)


def refusal(raw: bytes, **metadata: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        drafts_of(raw, **metadata)
    return caught.value


# -- by hand and by the schema ---------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e300, 1e300) | st.text("aé", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["body", "ttl"]), inner, max_size=2),
    max_leaves=5,
)
numbers = st.sampled_from([-1, 0, 1, 49, 50, 51, 59, 60, 61, 999, 1000, 1001, 2**63 - 1, -(2**63)])
odd = st.sampled_from([60.0, 60.5, 0.0, -0.0, 1e300, True, False, None, "60", "", [], [60], {}])
field = numbers | odd | anything


def near(good: st.SearchStrategy[Any], other: st.SearchStrategy[Any] = anything) -> st.SearchStrategy[Any]:
    """Mostly valid values: a document with many errors is refused for the first one and does not test the rest."""
    return st.integers(0, 11).flatmap(lambda n: good if n else other)


ttl = near(st.sampled_from([60, 61, 999, 1000]), field)
delay = near(st.sampled_from([0, 1, 49, 50]), field)
message = near(
    st.fixed_dictionaries({"body": anything}, optional={"ttl": ttl, "delay": delay, "ttl ": field, "id": anything}),
    st.fixed_dictionaries({}, optional={"body": anything, "ttl": ttl, "Body": anything}) | anything,
)
post = near(st.fixed_dictionaries({"messages": near(st.lists(message, max_size=4))}, optional={"message": anything}))


@given(document=post)
@example(document={"messages": [{"body": None, "ttl": 60, "delay": 0}]})
@example(document={"messages": [{"body": None, "ttl": 60.0}]})
@example(document={"messages": [{"body": None, "ttl": True}]})
@example(document={"messages": [{"body": None, "delay": False}]})
@example(document={"messages": [{"body": None, "ttl": None}]})
@example(document={"messages": []})
@example(document={"Messages": [{"body": 1}]})
def test_the_parser_accepts_the_documents_that_the_schema_accepts(document: Any) -> None:
    """The schema cannot express the size of the whole, and the value of an absent field."""
    by_schema = refusal_of(lambda: Validator(post_schema(LIMITS)).check(document))
    raw = json.dumps(document).encode()
    by_hand = refusal_of(lambda: drafts_of(raw))
    assert (by_hand is None) == (by_schema is None), by_hand or by_schema
    if by_hand is not None:
        assert by_hand.field == "body" or by_hand.field.startswith("messages")
        return
    for draft, given_ in zip(drafts_of(raw), document["messages"], strict=True):
        assert json.loads(draft.body) == given_["body"]
        assert draft.ttl == given_.get("ttl", 600)
        assert draft.delay == given_.get("delay", 3)


@given(metadata=st.fixed_dictionaries({}, optional={
    "_default_message_ttl": st.integers(60, 2**31),
    "_default_message_delay": st.integers(0, 2**31),
    "_dead_letter_queue_messages_ttl": st.none() | st.integers(60, 2**31),
}))  # fmt: skip
def test_a_message_without_fields_is_valid_with_any_metadata(metadata: dict[str, Any]) -> None:
    """The operator may have lowered a limit since they were stored."""
    (draft,) = drafts_of(b'{"messages":[{"body":1}]}', **metadata)
    assert draft.ttl == min(metadata.get("_default_message_ttl", 600), 1000)
    assert draft.delay == min(metadata.get("_default_message_delay", 3), 50)


# -- a post ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"1", b"1.10", b"-0", b'"\\u00e9"', '"é"'.encode(), b'{ "b" : 1,\n"a":[ ] }', b"null", b"1e5", b'"\\/"', b'""'],
)
def test_bodies_are_kept_byte_for_byte(body: bytes) -> None:
    raw = b'{"messages": [ {"ttl":60, "body" : %s , "more":{"body":2}},{"body":%s}]}' % (body, body)
    assert [draft.body for draft in drafts_of(raw)] == [body, body]


def test_a_body_does_not_keep_the_request_in_memory() -> None:
    """A slice of the request would keep all of it in memory for as long as the message."""
    (draft,) = drafts_of(b'{"messages":[{"body":1}],"pad":"%s"}' % (b"x" * 1000))
    assert type(draft.body) is bytes
    assert draft.body == b"1"


def test_keys_may_be_escaped() -> None:
    assert drafts_of(b'{"messag\\u0065s":[{"b\\u006fdy":7,"tt\\u006c":61}]}') == [Draft(b"7", 61, 3)]


FAULTS: list[tuple[bytes, str]] = [
    (b"5", "body"),
    (b"[]", "body"),
    (b"{}", "messages"),
    (b'{"messages":5}', "messages"),
    (b'{"messages":null}', "messages"),
    (b'{"messages":[]}', "messages"),
    (b'{"messages":[{"body":1},2]}', "messages[1]"),
    (b'{"messages":[{"body":1},{}]}', "messages[1].body"),
    (b'{"messages":[{"body":1,"ttl":"x"}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":59},{"body":1,"ttl":58}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1},{"body":1,"delay":51}]}', "messages[1].delay"),
    (b'{"messages":[{"body":1,"ttl":59,"delay":51}]}', "messages[0].ttl"),
    # Invalid JSON is refused in any place, also in unknown fields.
    (b'{"messages":[{"body":1,"body":2}]}', "body"),
    (b'{"messages":[{"body":{"a":{"b":1,"b":1}}}]}', "body"),
    (b'{"messages":[{"body":[1e999]}]}', "body"),
    (b'{"messages":[{"body":1}],"unknown":9223372036854775808}', "body"),
    (b'{"messages":[{"body":1,"unknown":"\\ud800"}]}', "body"),
    (b'{"messages":[{"body":1,"unknown":' + b"[" * 98 + b"]" * 98 + b"}]}", "body"),
]


@pytest.mark.parametrize(("raw", "field"), FAULTS)
def test_errors_name_the_field(raw: bytes, field: str) -> None:
    assert refusal(raw).field == field


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"[]", "body: must be of type object"),
        (b"{}", "messages: is required"),
        (b'{"messages":{}}', "messages: must be of type array"),
        (b'{"messages":["x"]}', "messages[0]: must be of type object"),
        (b'{"messages":[{"ttl":300}]}', "messages[0].body: is required"),
        (b'{"messages":[{"body":1,"ttl":"300"}]}', "messages[0].ttl: must be of type integer"),
        (b'{"messages":[{"body":1,"delay":null}]}', "messages[0].delay: must be of type integer"),
    ],
)
def test_errors_of_msgspec_have_the_words_of_other_errors(raw: bytes, sentence: str) -> None:
    assert str(refusal(raw)) == sentence


@pytest.mark.parametrize(("name", "low", "high"), [("ttl", 60, 1000), ("delay", 0, 50)], ids=["ttl", "delay"])
def test_bounds(name: str, low: int, high: int) -> None:
    def raw(value: int) -> bytes:
        return b'{"messages":[{"body":1,"%s":%d}]}' % (name.encode(), value)

    for value in (low, low + 1, high - 1, high):
        (draft,) = drafts_of(raw(value))
        assert getattr(draft, name) == value
    for value in (low - 1, high + 1, -(2**63), 2**63 - 1):
        error = refusal(raw(value))
        assert error.reason == f"must be from {low} to {high} seconds, not {value}"


def test_size_is_that_of_the_whole_request() -> None:
    raw = b'{"messages":[{"body":1}]}'
    assert len(drafts_of(raw, _max_messages_post_size=len(raw))) == 1
    error = refusal(raw, _max_messages_post_size=len(raw) - 1)
    assert (error.field, error.reason) == ("messages", f"the post has {len(raw)} bytes, more than {len(raw) - 1}")
    # White space counts too, and the size is checked before the messages.
    assert refusal(raw + b" ", _max_messages_post_size=len(raw)).field == "messages"
    assert refusal(b'{"messages":[{"body":1,"ttl":0}]}', _max_messages_post_size=5).field == "messages"


def test_the_queue_cannot_allow_more_than_the_operator() -> None:
    limits = make_limits(max_messages_post_size=30)
    raw = b'{"messages":[{"body":"0123456789"}]}'
    rules = rules_of({"_max_messages_post_size": 90}, limits)
    with pytest.raises(InvalidInput, match="more than 30"):
        make_drafts(parse_post(raw), size=len(raw), rules=rules, limits=limits)


# -- checksums -------------------------------------------------------------------------------------------------------


def test_checksums_are_made_only_if_enabled() -> None:
    posted = parse_post(b'{"messages":[{"body":{"b":[1, 2.50]}}]}')
    (plain,) = make_drafts(posted, size=1, rules=RULES, limits=LIMITS)
    assert plain.checksum is None
    (summed,) = make_drafts(posted, size=1, rules=RULES, limits=make_limits(enable_checksum=True))
    assert summed.checksum == "MD5:" + hashlib.md5(b'{"b": [1, 2.5]}', usedforsecurity=False).hexdigest()


@given(value=anything)
def test_checksums_do_not_depend_on_the_spelling(value: Any) -> None:
    expected = hashlib.md5(json.dumps(value).encode(), usedforsecurity=False).hexdigest()
    for spelling in ({}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}):
        assert make_checksum(json.dumps(value, **spelling).encode()) == f"MD5:{expected}"


# -- lists of ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [("a", ["a"]), ("b,a,b", ["b", "a", "b"]), (",a,,b,", ["a", "b"]), (" a", [" a"]), ("é", ["é"])],
)
def test_a_list_of_ids_is_split_at_commas(text: str, ids: list[str]) -> None:
    assert check_ids(split_ids(text), most=3, field="ids") == ids


@pytest.mark.parametrize("text", ["", ",", ",,,"])
def test_an_empty_list_of_ids_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^claim_ids: must hold at least one id$"):
        check_ids(split_ids(text), most=3, field="claim_ids")


def test_too_many_ids() -> None:
    assert len(check_ids(split_ids("a,b,c,"), most=3, field="ids")) == 3
    with pytest.raises(InvalidInput, match=r"^ids: must hold at most 3 ids, not 4$"):
        check_ids(split_ids("a,b,c,a"), most=3, field="ids")


def test_an_id_of_a_list_may_have_a_comma() -> None:
    assert check_ids(["a,b"], most=1, field="message_ids") == ["a,b"]


@pytest.mark.parametrize("bad", [None, 1, True, ["a"], {"id": "a"}])
def test_ids_are_strings(bad: object) -> None:
    with pytest.raises(InvalidInput, match=r"^message_ids\[1\]: must be of type string$"):
        check_ids(["a", bad], most=3, field="message_ids")
