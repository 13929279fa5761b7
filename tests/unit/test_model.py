# SPDX-License-Identifier: Apache-2.0
"""The model objects: ids and their order, ages and ends."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar import model
from zaqar.model import UID_LENGTH, Claim, Message, Stats, is_message_id, message_id, sequence_of

uids = st.text("0123456789abcdef", min_size=UID_LENGTH, max_size=UID_LENGTH)
sequences = st.integers(0, 16**12 - 1)


@given(uid=uids, sequence=sequences)
def test_the_sequence_number_can_be_read_from_an_id(uid: str, sequence: int) -> None:
    text = message_id(uid, sequence)
    assert is_message_id(text)
    assert sequence_of(uid, text) == sequence


@given(uid=uids, one=sequences, other=sequences)
def test_ids_sort_as_their_messages_do(uid: str, one: int, other: int) -> None:
    assert (message_id(uid, one) < message_id(uid, other)) == (one < other)


@given(own=uids, foreign=uids, sequence=sequences)
def test_an_id_of_another_queue_has_no_sequence_number(own: str, foreign: str, sequence: int) -> None:
    assert (sequence_of(own, message_id(foreign, sequence)) is None) == (own != foreign)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 35,
        "0" * 37,
        "A" * 36,
        "g" * 36,
        "0" * 36 + "\n",
        " " + "0" * 35,
        "0" * 24 + "+" + "0" * 11,
        "0" * 24 + "0x1234567890",
        "0" * 24 + "1_2_3_4_5_67",
        "\u0661" * 36,
        "\uff10" * 36,
    ],
)
def test_text_of_another_form_is_no_id(text: str) -> None:
    assert not is_message_id(text)
    assert sequence_of("0" * 24, text) is None


@given(text=st.text(max_size=40) | st.text("0123456789abcdefABCDEF", min_size=36, max_size=36))
def test_any_text_can_be_checked_as_an_id(text: str) -> None:
    if (sequence := sequence_of(text[:UID_LENGTH], text)) is not None:
        assert message_id(text[:UID_LENGTH], sequence) == text


@given(created=st.floats(1e9, 4e9), ttl=st.integers(1, 2**31 - 1), later=st.floats(-1e5, 1e9))
def test_the_ttl_shown_is_the_one_given(created: float, ttl: int, later: float) -> None:
    message = Message("0" * 24, 1, b"1", created, created + ttl, "client")
    assert message.ttl == ttl
    age = message.age(created + later)
    assert isinstance(age, int)
    assert age >= 0
    assert abs(age - max(0.0, later)) <= 1


@pytest.mark.parametrize(("passed", "age"), [(-5, 0), (-0.5, 0), (0, 0), (0.875, 0), (1, 1), (59.875, 59), (60, 60)])
def test_ages_are_whole_seconds_and_never_negative(passed: float, age: int) -> None:
    assert Message("0" * 24, 1, b"1", 1000.0, 1060.0, "client").age(1000 + passed) == age
    assert Claim("c", 60, 60, 1000.0).age(1000 + passed) == age


def test_a_claim_ends_a_ttl_after_its_start() -> None:
    claim = Claim("c", ttl=60, grace=70, started=1000.5)
    assert claim.expires == 1060.5


def test_free_and_claimed_are_the_total() -> None:
    assert Stats().total == 0
    assert Stats(free=3, claimed=2).total == 5


def test_model_objects_are_frozen() -> None:
    nouns = [noun for _, noun in inspect.getmembers(model, dataclasses.is_dataclass)]
    assert len(nouns) > 5
    for noun in nouns:
        assert noun.__dataclass_params__.frozen, noun
        assert hasattr(noun, "__slots__"), noun
