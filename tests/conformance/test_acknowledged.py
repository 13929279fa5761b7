# SPDX-License-Identifier: Apache-2.0
"""Promise 1, acknowledged means stored: a post is stored whole or not at all, byte for byte.

The tests of processes that die are in test_kill.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.drivers import Driver
from tests.conformance.marks import only_shared
from tests.conformance.queue_client import ALL, QueueClient, bodies
from zaqar.errors import StaleQueue
from zaqar.model import Draft, Message, message_id
from zaqar.storage.base import MessageStore

ODD_BODIES = {
    "empty object": b"{}",
    "odd whitespace": b' \n\t{ "a" :\r\n [ 1 ,2,  3 ] }  ',
    "escaped nul": b'"\\u0000 and \\u0000"',
    "escaped surrogates": b'"\\ud83d\\ude00"',
    "raw unicode": '"\u00e9\u20ac\U0001f600\u2028"'.encode(),
    "duplicate keys": b'{"a":1,"a":2}',
    "big number": b"123456789012345678901234567890.000e+17",
    "negative zero": b"-0.0",
    "quotes and escapes": rb'"\\ \" \/ \b \f \n %s %(x)s :name ? $1 {0}"',
    "keeps key order": b'{"b":1,"a":2}',
    "null": b"null",
    "every byte": bytes(range(256)),
    "two megabytes": b'"' + b"0123456789abcdef" * 131_072 + b'"',
}


def test_a_post_is_read_as_it_was_sent(orders: QueueClient) -> None:
    draft = Draft(b'{"n": 1}', 300, checksum="MD5:0cc175b9c0f1b6a831c399e269772661")
    numbers = orders.store.messages.post(queue=orders.queue, drafts=[draft], client_id="someone", now=orders.now)
    assert numbers == range(1, 2)
    expected = Message(
        queue_uid=orders.queue.uid,
        sequence=1,
        body=b'{"n": 1}',
        created=orders.now,
        expires=orders.now + 300,
        client_id="someone",
        claim_id=None,
        claim_count=0,
        checksum="MD5:0cc175b9c0f1b6a831c399e269772661",
        origin=None,
    )
    assert orders.listing() == orders.get(1) == [expected]
    assert orders.listing()[0].id == message_id(orders.queue.uid, 1)


def test_each_draft_keeps_its_own_ttl_and_delay(orders: QueueClient) -> None:
    drafts = [Draft(b"1", 60), Draft(b"2", 120, checksum="x"), Draft(b"3", 3600, 30), Draft(b"4", 1_209_600)]
    numbers = orders.store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now)
    assert list(numbers) == [1, 2, 3, 4]
    stored = orders.list_everything()
    assert [message.ttl for message in stored] == [60, 120, 3600, 1_209_600]
    assert [message.checksum for message in stored] == [None, "x", None, None]
    assert bodies(orders.listing()) == ["1", "2", "4"]


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES.keys())
def test_a_body_is_kept_byte_for_byte_on_every_path(orders: QueueClient, body: bytes) -> None:
    drafts = [Draft(body, 3600), Draft(body, 3600)]
    orders.store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now)
    assert [message.body for message in orders.listing()] == [body, body]
    assert [message.body for message in orders.get(1, 2)] == [body, body]
    claim_id, claimed = orders.claim(1)
    assert [message.body for message in claimed] == [body]
    assert [message.body for message in orders.get_claim(claim_id)[1]] == [body]
    newest = orders.stats().newest
    assert newest is not None and newest.body == body
    assert [message.body for message in orders.pop()] == [body]


HEADER_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=36)


@given(bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=5), client=HEADER_TEXT)
def test_any_bytes_come_back(messages: MessageStore, bodies: list[bytes], client: str) -> None:
    orders = QueueClient(messages)
    drafts = [Draft(body, 60) for body in bodies]
    messages.messages.post(queue=orders.queue, drafts=drafts, client_id=client, now=orders.now)
    assert [(message.body, message.client_id) for message in orders.listing()] == [(body, client) for body in bodies]
    orders.drop()


@pytest.mark.parametrize(
    "client",
    ["x" * 300, "Zo\u00eb \u20ac", "a'b\"c;--", "%", "0", " "],
    ids=["long", "unicode", "quotes", "%", "0", "blank"],
)
def test_the_client_id_is_kept_and_compared_whole(orders: QueueClient, client: str) -> None:
    orders.post("mine", client=client)
    orders.post("theirs", client=client + "x")
    assert [message.client_id for message in orders.listing()] == [client, client + "x"]
    assert bodies(orders.listing(exclude=client)) == ["theirs"]


def test_twenty_thousand_drafts_are_one_post(orders: QueueClient) -> None:
    texts = [f"message {n}" for n in range(20_000)]
    assert orders.post(*texts) == list(range(1, 20_001))
    assert bodies(orders.listing(limit=ALL)) == texts
    assert orders.stats().free == 20_000


def test_a_refused_post_stores_nothing_and_takes_no_number(orders: QueueClient) -> None:
    orders.post("before")
    stale = orders.raise_generation()
    drafts = [Draft(b"lost", 3600)] * 3
    with pytest.raises(StaleQueue):
        orders.store.messages.post(queue=stale, drafts=drafts, client_id="c", now=orders.now)
    assert orders.post("after") == [2]
    assert bodies(orders.list_everything()) == ["before", "after"]


@only_shared
def test_another_store_object_on_the_same_address_sees_a_post(
    orders: QueueClient, driver: Driver, address: str
) -> None:
    orders.post("shared")
    other = driver.open_messages(address)
    try:
        assert other.queues.open(queue=orders.queue, now=orders.now) == 1
        seen = other.messages.list_after(queue=orders.queue, after=0, limit=10, now=orders.now)
        assert bodies(seen) == ["shared"]
    finally:
        other.close()


def test_durability_says_what_a_stored_message_survives(messages: MessageStore) -> None:
    said = messages.durability()
    assert said
    assert all(isinstance(key, str) and isinstance(value, str) and value for key, value in said.items())


def test_a_store_answers_a_ping_and_names_its_capabilities(messages: MessageStore) -> None:
    messages.ping()
    assert messages.capabilities <= {"FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"}
