# SPDX-License-Identifier: Apache-2.0
"""Deliveries as bytes come back as they were."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.model import DEAD, DONE, UNSUBSCRIBE_CONFIRMATION, WAITING, Attempt, Delivery
from zaqar.storage.redis import delivery_records

UID = "0123456789abcdef01234567"
NOW = 1_763_929_383.7654321
DELIVERY = Delivery(UID, "a1b2", 7, b'{"a": 1}', 60, NOW, "client", NOW + 0.1)


def back(delivery: Delivery) -> Delivery:
    row = [
        delivery_records.delivery_id(delivery.subscription_id, delivery.number),
        delivery_records.record_of(delivery),
        delivery_records.state_of(delivery, owner=delivery.owner),
    ]
    (read,) = delivery_records.deliveries_of(UID, row)
    return read


@given(
    body=st.binary(max_size=50),
    client=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    owner=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    state=st.sampled_from([WAITING, DONE, DEAD]),
    due=st.floats(0, 1e11),
    keep=st.none() | st.floats(1, 1e11),
    tries=st.integers(0, 2**32 - 1),
    number=st.integers(0, 2**48 - 1),
    trace=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=600),
    request_id=st.sampled_from(["", "req-1"]),
)
def test_a_delivery(
    body: bytes,
    client: str,
    owner: str | None,
    state: str,
    due: float,
    keep: float | None,
    tries: int,
    number: int,
    trace: str | None,
    request_id: str,
) -> None:
    fields = {"body": body, "client_id": client, "owner": owner, "state": state, "due": due, "keep_until": keep}
    delivery = replace(DELIVERY, **fields, tries=tries, number=number, trace=trace, request_id=request_id)
    assert back(delivery) == delivery
    record = delivery_records.with_delivery_body(delivery_records.record_of(delivery), b"sealed")
    assert record == delivery_records.record_of(replace(delivery, body=b"sealed"))
    assert delivery_records.body_of_delivery(record) == b"sealed"


def test_a_delivery_without_a_trace_and_a_request_has_no_byte_for_them() -> None:
    """The record is that of a version that knew neither, so each version reads the records of the other."""
    fields = msgspec.msgpack.decode(delivery_records.record_of(DELIVERY))
    assert fields == [DELIVERY.body, DELIVERY.ttl, DELIVERY.created, DELIVERY.client_id, DELIVERY.kind]


@pytest.mark.parametrize("answer", ["", "n\u00e4me \U0001f600", "x" * 256])
def test_attempts(answer: str) -> None:
    attempts = (Attempt(NOW, 500, 0.25, answer), Attempt(NOW + 1, None, 10.0, "no answer"))
    delivery = replace(DELIVERY, kind=UNSUBSCRIBE_CONFIRMATION, attempts=attempts, number=0)
    read = back(delivery)
    assert read == delivery
    assert all(isinstance(attempt, Attempt) for attempt in read.attempts)


def test_numbers_are_in_order_as_bytes() -> None:
    numbers = [0, 1, 9, 10, 255, 256, 65_535, 2**40, 2**48 - 1]
    spelled = [delivery_records.encode_number(number) for number in numbers]
    assert spelled == sorted(spelled)
    assert {len(each) for each in spelled} == {12}
