# SPDX-License-Identifier: Apache-2.0
"""Part ``sealed_bodies``: a store keeps any bytes, finds sealed bodies, and replaces those that are unchanged."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest

from tests.conformance.notifier_client import NotifierClient, deliveries_of, new_subscription_id
from tests.conformance.queue_client import ALL, QueueClient, new_claim_id
from zaqar.encryption.messages import MessageKeys, key_id_of
from zaqar.errors import ClaimOver, Forbidden, SealedMessages
from zaqar.model import DEAD, SEALED, Attempt, Claim, DeadLetters, DeliveryKey, Draft, Message, Origin
from zaqar.service.reencryption import reencrypt
from zaqar.storage.base import DELIVERY, MESSAGE, POST, MessageStore, SealedBody
from zaqar.storage.memory import MemoryMessageStore

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
BYTES = bytes((SEALED,)) + bytes(range(256)) + b"\x00\xff'\"\\\n\r%s\xc3\x28"


def sealed(text: str = "") -> bytes:
    return bytes((SEALED,)) + secrets.token_bytes(16) + text.encode()


def post(orders: QueueClient, *bodies: bytes, delay: int = 0) -> list[int]:
    drafts = [Draft(body, 3600, delay) for body in bodies]
    return list(orders.store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now))


def walk(store: MessageStore, *, without: bytes = b"", limit: int = 100) -> list[SealedBody]:
    found, after = store.sealed_bodies.find(without=without, after=None, limit=limit)
    while after is not None:
        more, after = store.sealed_bodies.find(without=without, after=after, limit=limit)
        found += more
    return found


def found(store: MessageStore, *bodies: bytes, without: bytes = b"", limit: int = 100) -> list[SealedBody]:
    """Those with these bodies; other tests leave theirs in the store."""
    return [each for each in walk(store, without=without, limit=limit) if each.body in bodies]


@pytest.fixture
def dead_letters(orders: QueueClient) -> Iterator[QueueClient]:
    dead_letters = orders.beside("dead_letters")
    yield dead_letters
    dead_letters.drop()


# -- any bytes -----------------------------------------------------------------------------------------------------


def test_messages_keep_any_bytes(orders: QueueClient) -> None:
    large = secrets.token_bytes(300_000)
    first, second = post(orders, BYTES, bytes((SEALED,)) + large)
    assert [message.body for message in orders.list_everything()] == [BYTES, bytes((SEALED,)) + large]
    assert [message.body for message in orders.get(first)] == [BYTES]
    claim_id, claimed = orders.claim(1)
    assert [message.body for message in claimed] == [BYTES]
    held = orders.store.claims.get(queue=orders.queue, claim_id=claim_id, now=orders.now)[1]
    assert [message.body for message in held] == [BYTES]
    assert [message.body for message in orders.get(second)] == [bytes((SEALED,)) + large]


def test_dead_letters_keep_any_bytes(orders: QueueClient, dead_letters: QueueClient) -> None:
    post(orders, BYTES)
    orders.claim_and_release(1, times=1)
    orders.claim(dead_letters=DeadLetters(dead_letters.queue, 1))
    assert [message.body for message in dead_letters.list_everything()] == [BYTES]


def test_dead_letters_of_another_store_keep_any_bytes(orders: QueueClient, dead_letters: QueueClient) -> None:
    other = QueueClient(MemoryMessageStore(), orders.clock)
    for source, target in ((orders, other), (other, dead_letters)):
        post(source, BYTES)
        source.claim_and_release(source.list_everything()[0].sequence, times=1)
        aside = source.store.dead_letters.set_aside(queue=source.queue, max_claim_count=1, limit=ALL, now=source.now)
        assert {message.body for message in aside} == {BYTES}
        letters = [
            Message(
                m.queue_uid,
                m.sequence,
                m.body,
                m.created,
                m.expires,
                m.client_id,
                origin=Origin("orders", m.id, m.claim_count),
            )
            for m in aside
        ]
        target.store.dead_letters.receive(queue=target.queue, messages=letters, now=target.now)
        assert {message.body for message in target.list_everything()} == {BYTES}


def test_posts_and_deliveries_keep_any_bytes(notifier: NotifierClient) -> None:
    orders = notifier.open_queue()
    post(orders, BYTES)
    (posted,) = notifier.store.outbox.take(owner="n", until=notifier.now + 60, now=notifier.now, limit=10)
    assert [draft.body for draft in posted.drafts] == [BYTES]
    subscription = new_subscription_id()
    (delivery,) = deliveries_of(posted, subscription)
    notifier.store.outbox.expand(posted=posted, deliveries=[delivery], position=None, until=notifier.now)
    (taken,) = notifier.store.deliveries.take(
        owner="n", until=notifier.now + 60, now=notifier.now, limit=10, most_of_one=10, without=()
    )
    assert taken.body == BYTES
    listed = notifier.store.delivery_log.list_before(
        queue_uid=orders.queue.uid, subscription_id=subscription, state=None, before=None, limit=10
    )
    assert [each.body for each in listed] == [BYTES]


# -- pop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_pop_that_meets_a_sealed_message_takes_nothing(orders: QueueClient, place: int) -> None:
    bodies = [b"1", b"2"]
    bodies.insert(place, sealed())
    post(orders, *bodies)
    with pytest.raises(SealedMessages) as caught:
        orders.store.messages.pop(queue=orders.queue, limit=3, now=orders.now)
    assert caught.value.uid == orders.queue.uid
    assert [message.body for message in orders.list_everything()] == bodies
    assert (orders.stats().free, orders.stats().claimed) == (3, 0)


def test_a_pop_up_to_a_sealed_message_takes_what_is_before_it(orders: QueueClient) -> None:
    post(orders, b"1", b"2", sealed())
    popped = orders.store.messages.pop(queue=orders.queue, limit=2, now=orders.now)
    assert [message.body for message in popped] == [b"1", b"2"]
    with pytest.raises(SealedMessages):
        orders.store.messages.pop(queue=orders.queue, limit=2, now=orders.now)
    assert orders.stats().free == 1


def test_concurrent_pops_and_claims_pop_no_sealed_message(orders: QueueClient) -> None:
    """Also where a driver takes for several in one transaction."""
    bodies = [sealed() if number % 3 == 0 else b"%d" % number for number in range(30)]
    post(orders, *bodies)
    popped: list[bytes] = []
    lock = threading.Lock()

    def pop() -> None:
        for _ in range(10):
            try:
                taken = orders.store.messages.pop(queue=orders.queue, limit=1, now=orders.now)
            except SealedMessages:
                claim = Claim(new_claim_id(), 600, 60, orders.now)
                taken = orders.store.claims.claim(queue=orders.queue, claim=claim, limit=1, now=orders.now).messages
                if not taken or taken[0].body[0] == SEALED:
                    continue
                orders.store.messages.delete_many(
                    queue=orders.queue, sequences=[taken[0].sequence], claim_ids={claim.id}, now=orders.now
                )
            with lock:
                popped.extend(message.body for message in taken)

    threads = [threading.Thread(target=pop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(popped) == sorted(body for body in bodies if body[0] != SEALED)
    assert [message.body for message in orders.list_everything()] == [body for body in bodies if body[0] == SEALED]


# -- finding and replacing -----------------------------------------------------------------------------------------


def test_every_place_of_a_sealed_body_is_found(notifier: NotifierClient) -> None:
    orders = notifier.open_queue(notify=False)
    ready, claimed, late, aside, plain = sealed("r"), sealed("c"), sealed("l"), sealed("a"), b"1"
    post(orders, aside)
    orders.claim_and_release(1, times=1)
    orders.store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=ALL, now=orders.now)
    post(orders, claimed)
    orders.claim(1)
    post(orders, ready, plain)
    post(orders, late, delay=600)
    heard = notifier.open_queue()
    sent, noted = sealed("s"), sealed("n")
    post(heard, sent)
    (posted,) = notifier.store.outbox.take(owner="n", until=notifier.now + 60, now=notifier.now, limit=10)
    settled, waits = deliveries_of(posted, new_subscription_id(), new_subscription_id())
    notifier.store.outbox.expand(posted=posted, deliveries=[settled, waits], position=None, until=notifier.now)
    post(heard, b"1", noted)
    everything = [ready, claimed, late, aside, plain, sent, noted]
    expected = sorted(
        [(MESSAGE, body) for body in (ready, claimed, late, aside, sent, noted)]
        + [(DELIVERY, sent), (DELIVERY, sent), (POST, noted)]
    )
    for limit in (1, 2, 3, 1000):
        assert sorted((each.kind, each.body) for each in found(orders.store, *everything, limit=limit)) == expected
    assert sorted(each.body for each in found(orders.store, *everything, without=ready[:5])) == sorted(
        body for _, body in expected if body != ready
    )


@pytest.mark.parametrize("state", ["ready", "claimed", "delayed", "set aside"])
def test_a_body_is_replaced_and_nothing_else(orders: QueueClient, state: str) -> None:
    old, new = sealed(), sealed("a longer one")
    (number,) = post(orders, old, delay=600 if state == "delayed" else 0)
    claim_id = orders.claim(1)[0] if state == "claimed" else None
    if state == "set aside":
        orders.claim_and_release(number, times=1)
        orders.store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=ALL, now=orders.now)

    def seen() -> list[Message]:
        if state == "set aside":
            return orders.store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=ALL, now=orders.now)
        return orders.get(number)

    (before,) = seen()
    (this,) = found(orders.store, old)
    assert orders.store.sealed_bodies.replace(replacements=[(this, new)]) == 1
    (after,) = seen()
    assert (before.body, after.body) == (old, new)
    assert {name for name in Message.__slots__ if getattr(before, name) != getattr(after, name)} == {"body"}
    # The second time the stored body is another one.
    assert orders.store.sealed_bodies.replace(replacements=[(this, sealed())]) == 0
    assert seen() == [after]
    if claim_id is not None:
        orders.store.messages.delete(queue=orders.queue, sequence=number, claim_id=claim_id, now=orders.now)
        assert orders.get(number) == []


def test_the_body_of_a_delivery_is_replaced(notifier: NotifierClient) -> None:
    orders, subscription, old, new = notifier.open_queue(), new_subscription_id(), sealed(), sealed()
    post(orders, old)
    (posted,) = notifier.store.outbox.take(owner="n", until=notifier.now + 60, now=notifier.now, limit=10)
    (delivery,) = deliveries_of(
        posted, subscription, attempts=(Attempt(1.5, 500, 0.1, "x"),), state=DEAD, keep_until=notifier.now + 600
    )
    notifier.store.outbox.expand(posted=posted, deliveries=[delivery], position=None, until=notifier.now)
    key = DeliveryKey(orders.queue.uid, subscription, delivery.number)
    before = notifier.store.delivery_log.get(key=key)
    (this,) = [each for each in found(notifier.store, old) if each.kind == DELIVERY]
    assert notifier.store.sealed_bodies.replace(replacements=[(this, new)]) == 1
    after = notifier.store.delivery_log.get(key=key)
    assert before is not None
    assert after is not None
    assert after.body == new
    assert {name for name in after.__slots__ if getattr(before, name) != getattr(after, name)} == {"body"}


def test_bodies_of_posts_are_not_replaced(notifier: NotifierClient) -> None:
    orders, old = notifier.open_queue(), sealed()
    post(orders, old)
    (this,) = [each for each in found(notifier.store, old) if each.kind == POST]
    assert notifier.store.sealed_bodies.replace(replacements=[(this, sealed())]) == 0
    (posted,) = notifier.store.outbox.take(owner="n", until=notifier.now + 60, now=notifier.now, limit=10)
    assert [draft.body for draft in posted.drafts] == [old]


def test_a_replacement_does_not_bring_back_a_removed_message(orders: QueueClient) -> None:
    deleted, claimed, purged = sealed("d"), sealed("c"), sealed("p")
    post(orders, deleted, claimed, purged)
    these = {each.body: each for each in found(orders.store, deleted, claimed, purged)}
    orders.store.messages.delete(queue=orders.queue, sequence=1, claim_id=None, now=orders.now)
    assert orders.store.sealed_bodies.replace(replacements=[(these[deleted], sealed())]) == 0
    # A claim changes no body.
    orders.claim(1)
    assert orders.store.sealed_bodies.replace(replacements=[(these[claimed], sealed())]) == 1
    orders.store.queues.purge(queue=orders.queue, now=orders.now)
    orders.store.sealed_bodies.replace(replacements=[(these[purged], sealed())])
    assert orders.list_everything() == []


# -- encryption anew -----------------------------------------------------------------------------------------------


def read(keys: MessageKeys, orders: QueueClient) -> list[bytes]:
    return [keys.open(message.body, project=orders.queue.project) for message in orders.list_everything()]


def seal(keys: MessageKeys, orders: QueueClient, body: bytes) -> bytes:
    return keys.seal(body, queue_uid=orders.queue.uid, project=orders.queue.project, now=orders.now)


def test_old_keys_are_not_needed_afterwards(notifier: NotifierClient) -> None:
    orders = notifier.open_queue(notify=False)
    old, rotated = MessageKeys([OLD]), MessageKeys([NEW, OLD])
    plain = [b'{"n": %d}' % number for number in range(250)]
    post(orders, *(seal(old, orders, body) for body in plain))
    claim_id, held = orders.claim(5)
    pauses = []
    result = reencrypt(orders.store, keys=rotated, clock=orders.clock, pause=lambda: pauses.append(1))
    assert result.renewed >= len(plain)
    assert key_id_of(seal(old, orders, b"")) not in {*result.unreadable, *result.waiting}
    assert read(MessageKeys([NEW]), orders) == plain
    orders.store.messages.delete_many(
        queue=orders.queue, sequences=[message.sequence for message in held], claim_ids={claim_id}, now=orders.now
    )
    assert read(MessageKeys([NEW]), orders) == plain[5:]
    again = reencrypt(orders.store, keys=rotated, clock=orders.clock, pause=lambda: None)
    assert again.renewed == 0


def test_bodies_that_stay_under_an_old_key_are_counted_by_key(notifier: NotifierClient) -> None:
    orders, lost = notifier.open_queue(), MessageKeys([secrets.token_bytes(32)])
    old, rotated = MessageKeys([OLD]), MessageKeys([NEW, OLD])
    post(orders, seal(old, orders, b"1"))
    quiet = notifier.open_queue(notify=False)
    body = seal(lost, quiet, b"2")
    post(quiet, body, body[:-1])
    result = reencrypt(orders.store, keys=rotated, clock=orders.clock, pause=lambda: None)
    assert result.waiting[old.ids[0]] == 1
    assert result.unreadable[lost.ids[0]] == 2
    assert not result.is_complete
    assert [message.body for message in quiet.list_everything()] == [body, body[:-1]]


def test_consumers_lose_nothing_while_bodies_are_replaced(orders: QueueClient) -> None:
    """Producers, claims and deletes go on while a walk encrypts anew; each message is read once."""
    old, rotated = MessageKeys([OLD]), MessageKeys([NEW, OLD])
    total = 120
    got: list[bytes] = []
    failures: list[Exception] = []
    done = threading.Event()

    def consume() -> None:
        try:
            while len(got) < total and not done.is_set():
                claim = Claim(new_claim_id(), 600, 60, orders.now)
                for message in orders.store.claims.claim(
                    queue=orders.queue, claim=claim, limit=3, now=orders.now
                ).messages:
                    body = rotated.open(message.body, project=orders.queue.project)
                    orders.store.messages.delete(
                        queue=orders.queue, sequence=message.sequence, claim_id=claim.id, now=orders.now
                    )
                    got.append(body)
        except (Forbidden, ClaimOver, AssertionError) as exc:
            failures.append(exc)

    def renew() -> None:
        while not done.is_set():
            reencrypt(orders.store, keys=rotated, clock=orders.clock, pause=lambda: None)

    threads = [threading.Thread(target=each) for each in (consume, consume, renew)]
    for thread in threads:
        thread.start()
    for number in range(total // 10):
        post(orders, *(seal(old, orders, b"%d" % (10 * number + each)) for each in range(10)))
    threads[0].join(30)
    threads[1].join(30)
    done.set()
    threads[2].join(30)
    assert failures == []
    assert sorted(map(int, got)) == list(range(total))


# -- leases without a grace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_messages_that_expire_with_their_lease_are_swept(orders: QueueClient, limit: int) -> None:
    """Leases of the service have no grace, so messages may end with them, more than a small sweep removes."""
    post(orders, *(sealed() for _ in range(5)))
    orders.clock.advance(3590)
    claim = Claim(new_claim_id(), 30, 0, orders.now)
    assert len(orders.store.claims.claim(queue=orders.queue, claim=claim, limit=10, now=orders.now).messages) == 5
    orders.clock.advance(30)
    for _ in range(100):
        if not orders.store.sweep(now=orders.now, limit=limit).removed:
            break
    assert orders.list_everything() == []
    assert (orders.stats().free, orders.stats().claimed) == (0, 0)
