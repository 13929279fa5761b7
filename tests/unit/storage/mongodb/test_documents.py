# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

from bson import ObjectId

from zaqar.model import Message, Origin
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    Field,
    claim_key,
    document_of,
    message_key,
    message_of,
    messages_of,
    within,
)

SEGMENT = ObjectId()
MESSAGE = Message("", 7, b"{}", 1.5, 61.5, "client", None, 3, "MD5:x", Origin("orders", "id", 2))


def test_a_message_comes_back_as_it_was() -> None:
    for message in (MESSAGE, replace(MESSAGE, checksum=None, origin=None)):
        assert message_of("", document_of(SEGMENT, message), now=0) == message


def test_a_message_shows_a_claim_only_while_it_is_live() -> None:
    document = {**document_of(SEGMENT, MESSAGE), Field.STATE: CLAIMED, Field.CLAIM: "claim", Field.DUE: 10.0}
    assert message_of("", document, now=9.999).claim_id == "claim"
    assert message_of("", document, now=10.0).claim_id is None


def test_messages_are_in_order() -> None:
    documents = [document_of(SEGMENT, replace(MESSAGE, sequence=n)) for n in (100, 9, 10)]
    assert [message.sequence for message in messages_of("", documents, 0)] == [9, 10, 100]


def test_keys_are_in_the_order_of_their_numbers() -> None:
    keys = [message_key(SEGMENT, number) for number in (1, 9, 10, 16, 255, 256, 2**40)]
    assert keys == sorted(keys)


def test_the_ids_within_a_segment_are_those_of_its_kind_only() -> None:
    inside = within("claim", SEGMENT)
    other = ObjectId()
    for claim_id in ("", "0", "zzz", "\u20ac"):
        assert inside["$gte"] <= claim_key(SEGMENT, claim_id) < inside["$lt"]
        assert not inside["$gte"] <= claim_key(other, claim_id) < inside["$lt"]
        assert not inside["$gte"] <= message_key(SEGMENT, 7) < inside["$lt"]
