# SPDX-License-Identifier: Apache-2.0
"""Promise 1: acknowledged means stored, all or nothing, byte for byte. What dies in between is in test_kill."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.drivers import Driver
from tests.conformance.marks import only_shared
from tests.conformance.scene import ALL, Scene, bodies
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


def test_a_post_is_there_as_it_was_sent(scene: Scene) -> None:
    draft = Draft(b'{"n": 1}', 300, checksum="MD5:0cc175b9c0f1b6a831c399e269772661")
    numbers = scene.store.messages.post(queue=scene.queue, drafts=[draft], client_id="someone", now=scene.now)
    assert numbers == range(1, 2)
    expected = Message(
        queue_uid=scene.queue.uid,
        sequence=1,
        body=b'{"n": 1}',
        created=scene.now,
        expires=scene.now + 300,
        client_id="someone",
        claim_id=None,
        claim_count=0,
        checksum="MD5:0cc175b9c0f1b6a831c399e269772661",
        origin=None,
    )
    assert scene.listing() == scene.get(1) == [expected]
    assert scene.listing()[0].id == message_id(scene.queue.uid, 1)


def test_each_draft_has_its_own_life(scene: Scene) -> None:
    drafts = [Draft(b"1", 60), Draft(b"2", 120, checksum="x"), Draft(b"3", 3600, 30), Draft(b"4", 1_209_600)]
    numbers = scene.store.messages.post(queue=scene.queue, drafts=drafts, client_id="c", now=scene.now)
    assert list(numbers) == [1, 2, 3, 4]
    stored = scene.list_everything()
    assert [message.ttl for message in stored] == [60, 120, 3600, 1_209_600]
    assert [message.checksum for message in stored] == [None, "x", None, None]
    assert bodies(scene.listing()) == ["1", "2", "4"]


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES.keys())
def test_a_body_is_kept_byte_for_byte_on_every_path(scene: Scene, body: bytes) -> None:
    drafts = [Draft(body, 3600), Draft(body, 3600)]
    scene.store.messages.post(queue=scene.queue, drafts=drafts, client_id="c", now=scene.now)
    assert [message.body for message in scene.listing()] == [body, body]
    assert [message.body for message in scene.get(1, 2)] == [body, body]
    claim_id, claimed = scene.claim(1)
    assert [message.body for message in claimed] == [body]
    assert [message.body for message in scene.get_claim(claim_id)[1]] == [body]
    newest = scene.stats().newest
    assert newest is not None and newest.body == body
    assert [message.body for message in scene.pop()] == [body]


HEADER_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=36)


@given(bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=5), client=HEADER_TEXT)
def test_any_bytes_come_back(messages: MessageStore, bodies: list[bytes], client: str) -> None:
    scene = Scene(messages)
    drafts = [Draft(body, 60) for body in bodies]
    messages.messages.post(queue=scene.queue, drafts=drafts, client_id=client, now=scene.now)
    assert [(message.body, message.client_id) for message in scene.listing()] == [(body, client) for body in bodies]
    scene.drop()


@pytest.mark.parametrize(
    "client",
    ["x" * 300, "Zo\u00eb \u20ac", "a'b\"c;--", "%", "0", " "],
    ids=["long", "unicode", "quotes", "%", "0", "blank"],
)
def test_the_client_id_is_kept_and_compared_whole(scene: Scene, client: str) -> None:
    scene.post("mine", client=client)
    scene.post("theirs", client=client + "x")
    assert [message.client_id for message in scene.listing()] == [client, client + "x"]
    assert bodies(scene.listing(exclude=client)) == ["theirs"]


def test_twenty_thousand_drafts_are_one_post(scene: Scene) -> None:
    texts = [f"message {n}" for n in range(20_000)]
    assert scene.post(*texts) == list(range(1, 20_001))
    assert bodies(scene.listing(limit=ALL)) == texts
    assert scene.stats().free == 20_000


def test_a_refused_post_stores_nothing_and_takes_no_number(scene: Scene) -> None:
    scene.post("before")
    stale = scene.raise_generation()
    drafts = [Draft(b"lost", 3600)] * 3
    with pytest.raises(StaleQueue):
        scene.store.messages.post(queue=stale, drafts=drafts, client_id="c", now=scene.now)
    assert scene.post("after") == [2]
    assert bodies(scene.list_everything()) == ["before", "after"]


@only_shared
def test_another_store_object_on_the_same_address_sees_it(scene: Scene, driver: Driver, address: str) -> None:
    scene.post("shared")
    other = driver.open_messages(address)
    try:
        assert other.queues.open(queue=scene.queue, now=scene.now) == 1
        seen = other.messages.list_after(queue=scene.queue, after=0, limit=10, now=scene.now)
        assert bodies(seen) == ["shared"]
    finally:
        other.close()


def test_what_stored_survives_is_said(messages: MessageStore) -> None:
    said = messages.durability()
    assert said
    assert all(isinstance(key, str) and isinstance(value, str) and value for key, value in said.items())


def test_it_answers_and_says_what_it_can(messages: MessageStore) -> None:
    messages.ping()
    assert messages.capabilities <= {"FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"}
