# SPDX-License-Identifier: Apache-2.0
"""Messages and claims as bytes come back as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.model import Claim, Draft, Message, Origin
from zaqar.storage.redis import message_records

UID = "0123456789abcdef01234567"
NOW = 1_763_929_383.7654321


@given(
    body=st.binary(max_size=50),
    ttl=st.integers(1, 10**9),
    client=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    checksum=st.none()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    trace=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=600),
    now=st.floats(0, 1e11),
)
def test_a_draft(body: bytes, ttl: int, client: str, checksum: str | None, trace: str | None, now: float) -> None:
    record = message_records.record_of(Draft(body, ttl, checksum=checksum, trace=trace), client.encode(), now)
    expected = Message(UID, 7, body, now, now + ttl, client, checksum=checksum, trace=trace)
    assert message_records.message_of(UID, b"7", record, None, now) == expected
    assert record[message_records.body_at(record) :] == body


def test_a_message_without_a_trace_has_no_byte_for_it() -> None:
    bare, traced = (message_records.record_of(Draft(b"x", 60, trace=trace), b"c", NOW) for trace in (None, "t" * 55))
    assert len(bare) == 28 + len(b"c") + len(b"x")
    assert len(traced) == len(bare) + 1 + 55


@pytest.mark.parametrize("trace", [None, "00-trace-01 state=1"])
@pytest.mark.parametrize("checksum", [None, "MD5:x"])
@pytest.mark.parametrize("name", ["orders", "", "n\u00e4me \U0001f600"])
def test_a_letter(checksum: str | None, name: str, trace: str | None) -> None:
    origin = Origin(name, UID + "00000000000a", 4_000_000_000)
    letter = Message(UID, 3, b"\x00body", NOW, NOW + 60, "client", None, 2, checksum, origin, trace=trace)
    record = message_records.record_of_dead_letter(letter, origin)
    assert message_records.message_of(UID, b"3", record, None, NOW) == replace(letter, claim_count=0)


def test_a_state_changes_what_the_record_says() -> None:
    record = message_records.record_of(Draft(b"x", 60), b"c", NOW)
    state = message_records._STATE.pack(NOW + 600, NOW + 30, 5) + b"claim"
    held = message_records.message_of(UID, b"1", record, state, NOW + 29.999)
    assert (held.expires, held.claim_id, held.claim_count) == (NOW + 600, "claim", 5)
    over = message_records.message_of(UID, b"1", record, state, NOW + 30)
    assert (over.expires, over.claim_id, over.claim_count) == (NOW + 600, None, 5)


def test_rows_that_are_absent_or_have_expired_are_no_messages() -> None:
    record = message_records.record_of(Draft(b"x", 60), b"c", NOW)
    reply = [None, b"1", None, None, b"2", record, None]
    assert [message.sequence for message in message_records.messages_of(UID, reply, NOW)] == [2]
    assert list(message_records.messages_of(UID, reply, NOW + 60)) == []


def test_a_claim() -> None:
    claim = Claim("id", 60, 43_200, NOW)
    assert message_records.claim_of("id", message_records.pack_claim(claim) + b"1,2,3") == claim
