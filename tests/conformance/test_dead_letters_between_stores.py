# SPDX-License-Identifier: Apache-2.0
"""Part ``dead_letters``, promise 7 between stores: one store sets messages aside, another one receives them.

Then the first store forgets them. Each step can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.conformance.queue_client import ALL, QueueClient, at_once, bodies
from zaqar.errors import NotFound
from zaqar.model import DeadLetters, Draft, Message, Origin
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.memory import MemoryMessageStore


@dataclass
class Journey:
    """A queue on the store under test and one that takes its dead letters, the steps between them by hand."""

    source: QueueClient
    target: QueueClient

    def set_aside(self, *, count: int = 1, limit: int = ALL) -> list[Message]:
        return self.source.store.dead_letters.set_aside(
            queue=self.source.queue, max_claim_count=count, limit=limit, now=self.source.now
        )

    def receive(self, letters: Sequence[Message]) -> None:
        self.target.store.dead_letters.receive(queue=self.target.queue, messages=letters, now=self.target.now)

    def forget(self, *sequences: int) -> None:
        self.source.store.dead_letters.forget(queue=self.source.queue, sequences=sequences, now=self.source.now)

    def claim_living(self, limit: int = ALL, *, count: int = 1) -> list[str]:
        return bodies(self.source.claim(limit, dead_letters=DeadLetters(None, count))[1])


def addressed(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, origin=Origin("orders", message.id, message.claim_count)) for message in messages]


@pytest.fixture
def journey(orders: QueueClient) -> Iterator[Journey]:
    journey = Journey(orders, orders.beside("target"))
    yield journey
    journey.target.drop()


def test_set_aside_takes_exhausted_messages_out_of_the_queue(journey: Journey) -> None:
    source = journey.source
    source.post("a", "b", "c")
    source.claim_and_release(2, times=2)
    aside = journey.set_aside(count=2)
    assert bodies(aside) == ["a", "b"]
    assert [(message.sequence, message.claim_count, message.claim_id) for message in aside] == [
        (1, 2, None),
        (2, 2, None),
    ]
    assert bodies(source.list_everything()) == ["c"]
    assert source.get(1, 2) == []
    assert (source.stats().free, source.stats().claimed) == (1, 0)
    assert bodies(source.claim()[1]) == ["c"]
    source.delete(1)
    assert bodies(journey.set_aside(count=2)) == ["a", "b"]


def test_all_fields_of_a_message_that_is_set_aside_are_kept(journey: Journey) -> None:
    draft = Draft(b'{"a":  1}', 600, checksum="MD5:x")
    source = journey.source
    source.store.messages.post(queue=source.queue, drafts=[draft], client_id="someone", now=source.now)
    source.claim_and_release(1, times=1)
    (before,) = source.listing()
    source.clock.advance(10)
    assert journey.set_aside() == [before]


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_only_messages_that_a_claim_would_meet_are_set_aside(journey: Journey, limit: int) -> None:
    source = journey.source
    source.post("1", "2", "3", "4", "5", "6")
    claim_id, _ = source.claim(1)
    source.claim_and_release(1, times=1)  # the second
    source.delete_many(1)
    held, _ = source.claim(2)  # 2 and 3, so 3 is exhausted too
    source.release(held)
    fresh = source.post("7", "8")
    source.claim_and_release(5, times=1)  # 2 to 6
    source.post("9")
    assert bodies(journey.set_aside(count=2, limit=limit)) == (["2", "3"])
    assert journey.claim_living(limit, count=2) == ["4", "5", "6", "7", "8", "9"][:limit]
    assert fresh == [7, 8]
    source.release(claim_id)


def test_a_claim_without_dead_letter_queue_passes_over_exhausted_messages(journey: Journey) -> None:
    source = journey.source
    source.post("a", "b")
    source.claim_and_release(2, times=1)
    source.post("c")
    assert journey.claim_living(1) == ["c"]
    assert journey.claim_living() == []
    assert bodies(source.listing()) == ["a", "b"]


def test_nothing_is_set_aside_if_no_message_is_exhausted(journey: Journey) -> None:
    source = journey.source
    assert journey.set_aside() == []
    source.post("a", "b")
    source.post("late", delay=60)
    held, _ = source.claim(1)
    assert journey.set_aside() == []
    source.clock.advance(60)
    assert bodies(journey.set_aside()) == ["a"]
    with pytest.raises(NotFound):
        source.get_claim(held)


def test_messages_that_are_set_aside_never_expire_and_no_sweep_removes_them(journey: Journey) -> None:
    source = journey.source
    source.post("a", ttl=60)
    source.claim_and_release(1, times=1)
    journey.set_aside()
    source.clock.advance(10_000)
    while source.store.sweep(now=source.now, limit=1000).removed:
        pass
    assert bodies(journey.set_aside()) == ["a"]
    assert source.stats().total == 0


def test_a_forgotten_message_is_not_returned_again(journey: Journey) -> None:
    journey.source.post("a", "b", "c")
    journey.source.claim_and_release(3, times=1)
    journey.set_aside()
    journey.forget(2, 9)
    assert bodies(journey.set_aside()) == ["a", "c"]
    journey.forget(1, 3)
    journey.forget(1, 3)
    assert journey.set_aside() == []


def test_a_purge_removes_messages_that_are_set_aside(journey: Journey) -> None:
    journey.source.post("a")
    journey.source.claim_and_release(1, times=1)
    journey.set_aside()
    journey.source.purge()
    assert journey.set_aside() == []


def test_very_many_exhausted_messages_are_set_aside_in_batches(journey: Journey) -> None:
    source = journey.source
    total = 1700
    source.post(*map(str, range(total)))
    source.claim_and_release(total, times=1)
    source.post("living")
    moved: list[str] = []
    while aside := journey.set_aside():
        moved += bodies(aside)
        journey.forget(*(message.sequence for message in aside))
        assert len(moved) <= total
    assert moved == [str(n) for n in range(total)]
    assert journey.claim_living() == ["living"]


# -- receiving --------------------------------------------------------------------------------------------------------


def test_a_dead_letter_that_is_received_again_is_stored_once(journey: Journey) -> None:
    journey.source.post("a", "b", "c")
    journey.source.claim_and_release(3, times=2)
    letters = addressed(journey.set_aside())
    journey.target.post("first")
    journey.receive(letters[:2])
    journey.target.clock.advance(5)
    journey.receive(letters)
    journey.receive(letters)
    arrived = journey.target.list_everything()
    assert bodies(arrived) == ["first", "a", "b", "c"]
    assert [message.sequence for message in arrived] == [1, 2, 3, 4]
    for letter, message in zip(letters, arrived[1:], strict=True):
        expected = replace(letter, queue_uid=message.queue_uid, sequence=message.sequence, claim_count=0)
        assert message == expected
    assert journey.target.stats().free == 4


def test_a_dead_letter_that_was_deleted_is_not_received_again(journey: Journey) -> None:
    journey.source.post("a", ttl=3 * round(TOMBSTONE_LIFETIME))
    journey.source.claim_and_release(1, times=1)
    letters = addressed(journey.set_aside())
    journey.receive(letters)
    assert bodies(journey.target.pop()) == ["a"]
    journey.target.clock.advance(TOMBSTONE_LIFETIME - 0.125)
    while journey.target.store.sweep(now=journey.target.now, limit=1000).removed:
        pass
    journey.receive(letters)
    assert journey.target.list_everything() == []


def test_concurrent_handovers_move_each_message_once(journey: Journey) -> None:
    total = 300
    journey.source.post(*map(str, range(total)))
    journey.source.claim_and_release(total, times=1)

    def move() -> None:
        while aside := journey.set_aside():
            journey.receive(addressed(aside))
            journey.forget(*(message.sequence for message in aside))

    at_once(*[move] * 4)
    assert sorted(map(int, bodies(journey.target.list_everything()))) == list(range(total))
    assert journey.source.list_everything() == []


def test_handover_from_and_to_another_driver(journey: Journey) -> None:
    """What any store sets aside any other can receive."""
    other = QueueClient(MemoryMessageStore(), journey.source.clock)
    for one, two in ((journey.source, other), (other, journey.target)):
        one.post("x", "y")
        one.claim_and_release(2, times=1)
        trip = Journey(one, two)
        trip.receive(addressed(trip.set_aside()))
        assert bodies(two.list_everything()) == ["x", "y"]
        two.purge()
