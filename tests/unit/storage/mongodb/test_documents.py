# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

from bson import ObjectId

from zaqar.model import Message, Origin
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    document_of,
    message_key,
    message_of,
    messages_of,
    segment_id,
    within,
)

SEGMENT = ObjectId()
MESSAGE = Message("", 7, b"{}", 1.5, 61.5, "client", None, 3, "MD5:x", Origin("orders", "id", 2))


def test_a_message_comes_back_as_it_was() -> None:
    for message in (MESSAGE, replace(MESSAGE, checksum=None, origin=None)):
        assert message_of("", document_of(SEGMENT, message), now=0) == message


def test_a_claim_is_shown_while_it_lives() -> None:
    document = {**document_of(SEGMENT, MESSAGE), "t": CLAIMED, "k": "claim", "d": 10.0}
    assert message_of("", document, now=9.999).claim_id == "claim"
    assert message_of("", document, now=10.0).claim_id is None


def test_messages_are_in_order() -> None:
    documents = [document_of(SEGMENT, replace(MESSAGE, sequence=n)) for n in (100, 9, 10)]
    assert [message.sequence for message in messages_of("", documents, 0)] == [9, 10, 100]


def test_keys_are_in_the_order_of_their_numbers() -> None:
    keys = [message_key(SEGMENT, number) for number in (1, 9, 10, 16, 255, 256, 2**40)]
    assert keys == sorted(keys)


def test_a_segment_holds_its_own_and_nothing_else() -> None:
    inside = within("c", SEGMENT)
    other = ObjectId()
    for claim_id in ("", "0", "zzz", "\u20ac"):
        assert inside["$gte"] <= segment_id("c", SEGMENT, claim_id) < inside["$lt"]
        assert not inside["$gte"] <= segment_id("c", other, claim_id) < inside["$lt"]
        assert not inside["$gte"] <= segment_id("m", SEGMENT, claim_id) < inside["$lt"]
