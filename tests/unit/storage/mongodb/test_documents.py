# SPDX-License-Identifier: Apache-2.0
"""Documents of the message store, and the page for contributors that describes them."""

from dataclasses import replace
from pathlib import Path

from bson import ObjectId

from zaqar.model import Delivery, Message, Origin
from zaqar.storage.mongodb import management, store
from zaqar.storage.mongodb.delivery_documents import DELIVERY_INDEXES, delivery_document, delivery_of
from zaqar.storage.mongodb.documents import (
    CLAIMED,
    INDEXES,
    Field,
    claim_key,
    document_of,
    message_key,
    message_of,
    messages_of,
    within,
)
from zaqar.storage.mongodb.nodes import NODE_SUBSCRIPTIONS
from zaqar.storage.mongodb.statements import delete
from zaqar.storage.mongodb.tombstones import TOMBSTONE_INDEXES

SEGMENT = ObjectId()
PAGE = (Path(__file__).parents[4] / "docs" / "contributor" / "mongodb.rst").read_text()
FIELDS = {name: letter for name, letter in vars(Field).items() if name.isupper()}
MESSAGE = Message("", 7, b"{}", 1.5, 61.5, "client", None, 3, "MD5:x", Origin("orders", "id", 2), trace="00-a-b-01")


def test_a_message_comes_back_as_it_was() -> None:
    for message in (MESSAGE, replace(MESSAGE, checksum=None, origin=None, trace=None)):
        assert message_of("", document_of(SEGMENT, message), now=0) == message


def test_a_message_and_a_delivery_without_a_trace_take_no_byte_for_it() -> None:
    assert Field.TRACE not in document_of(SEGMENT, replace(MESSAGE, trace=None))
    delivery = Delivery("uid", "subscription", 1, b"1", 60, 1.5, "client", 1.5)
    assert delivery_document(delivery).keys().isdisjoint({"trace", "request"})
    traced = replace(delivery, trace="00-a-b-01", request_id="req-1")
    assert delivery_of(delivery_document(traced)) == traced


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


def test_no_two_fields_have_the_same_letter() -> None:
    assert len(set(FIELDS.values())) == len(FIELDS)


def test_a_deleted_message_keeps_nothing_but_its_place() -> None:
    deletion = delete(SEGMENT, {})["u"]
    stored = {*document_of(SEGMENT, MESSAGE), Field.DUE, Field.CLAIM}
    left = (stored - set(deletion["$unset"])) | set(deletion["$set"])
    assert left == {"_id", Field.SEGMENT, Field.SEQUENCE, Field.DELETED}


def test_the_page_names_each_field_index_and_collection() -> None:
    for name, letter in FIELDS.items():
        assert f"   * - ``{letter}``\n     - ``{name}``\n" in PAGE
    for index in (*INDEXES, *DELIVERY_INDEXES, *TOMBSTONE_INDEXES):
        assert f"``{', '.join(index.fields)}``\n     - ``{index.having}``" in PAGE, index
    for collection in (*store.COLLECTIONS, *management.COLLECTIONS, NODE_SUBSCRIPTIONS):
        assert f"   * - ``{collection}``\n" in PAGE
