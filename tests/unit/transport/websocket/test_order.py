# SPDX-License-Identifier: Apache-2.0
"""The order in which the notifications of a subscription go out, against a model of a store and its notifiers."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zaqar.ipc.push_protocol import Status
from zaqar.transport.websocket import order as orders
from zaqar.transport.websocket.order import Order, Ranges


@dataclass(frozen=True)
class Call:
    """A delivery that one notifier is sending."""

    number: int
    notifier: int
    attempts: int


@dataclass
class World:
    """A store, notifiers that take deliveries in any order and are killed at any time, and one connection."""

    random: Random
    order: Order[Call] = field(default_factory=Order)
    to_come: set[int] = field(default_factory=set)
    undelivered: set[int] = field(default_factory=set)
    owners: dict[int, int] = field(default_factory=dict)
    coming: list[Call] = field(default_factory=list)
    expected: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    last: int = 0
    notifiers: list[int] = field(default_factory=lambda: [0, 1, 2])
    now: float = 0.0

    def post(self) -> None:
        self.last += 1
        self.to_come.add(self.last)

    def expand(self) -> None:
        """Posts are expanded in any order; a filter may let a message not pass."""
        if self.to_come:
            number = self.random.choice(sorted(self.to_come))
            self.to_come.remove(number)
            if self.random.random() < 0.8:
                self.undelivered.add(number)
                self.expected.append(number)

    def take(self) -> None:
        free = sorted(self.undelivered - set(self.owners))
        if free:
            notifier = self.random.choice(self.notifiers)
            for number in self.random.sample(free, min(len(free), 3)):
                self.owners[number] = notifier
                self.coming.append(Call(number, notifier, 0))

    def arrive(self) -> None:
        if self.coming:
            call = self.coming.pop(self.random.randrange(len(self.coming)))
            status = self.order.arrive(call.number, b"text", call, again=call.attempts > 0, now=self.now)
            if status is not None:
                self.tell([call], status)

    def tell(self, calls: list[Call], status: Status) -> None:
        for call in calls:
            if call.notifier in self.notifiers and self.owners.get(call.number) == call.notifier:
                del self.owners[call.number]
                if status is Status.PUSHED:
                    self.undelivered.discard(call.number)

    def kill(self) -> None:
        """The leases of the notifier end. Notifications that it has sent may still arrive, but it gets no answer."""
        killed = self.random.choice(self.notifiers)
        self.notifiers.remove(killed)
        self.notifiers.append(max(self.notifiers) + killed + 1)
        self.owners = {number: owner for number, owner in self.owners.items() if owner != killed}

    def ask(self) -> None:
        """Ask the store whether a delivery before the first held one is left. The answer arrives some steps later."""
        number = self.order.blocked
        if number is not None and not any(each < number for each in self.undelivered | self.to_come):
            self.answers.append(number)

    def hear(self) -> None:
        if self.answers:
            self.order.release(self.answers.pop(0))

    def send(self) -> None:
        batch = self.order.take(8)
        if batch and self.random.random() < 0.1:
            self.tell(self.order.fail(), Status.WAIT)
        elif batch:
            self.received += (entry.number for entry in batch)
            self.tell(self.order.sent(), Status.PUSHED)

    def expire(self) -> None:
        self.now += 1
        self.tell(self.order.expire(self.now - 1), Status.WAIT)

    def finish(self) -> None:
        rounds = 0
        while self.undelivered or self.to_come:
            rounds += 1
            assert rounds < 10_000, f"{sorted(self.undelivered | self.to_come)} never go out"
            for step in (self.expand, self.take, self.arrive, self.ask, self.hear, self.send, self.expire):
                step()


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 150))
def test_a_connection_that_stays_open_sees_each_notification_in_order(random: Random, steps: int) -> None:
    world = World(random)
    actions = [
        world.post,
        world.expand,
        world.take,
        world.arrive,
        world.arrive,
        world.ask,
        world.hear,
        world.send,
        world.send,
    ]
    rare = [world.kill, world.expire]
    for _ in range(steps):
        random.choice(rare if random.random() < 0.1 else actions)()
    world.finish()
    first_times = list(dict.fromkeys(world.received))
    assert first_times == sorted(world.expected)
    assert len(world.order) <= orders.MAX_HELD


def sent(order: Order[str]) -> list[int]:
    """The numbers that are sent now, in order."""
    numbers = []
    while batch := order.take(1000):
        numbers += [entry.number for entry in batch]
        order.sent()
    return numbers


def started(*, last: int = 5) -> Order[str]:
    order = Order[str]()
    order.arrive(last, b"", "first", again=False, now=0.0)
    order.release(last)
    assert sent(order) == [last]
    return order


def test_the_first_notification_waits_for_the_answer_of_the_store() -> None:
    order = Order[str]()
    assert order.arrive(7, b"", "a", again=False, now=0.0) is None
    assert not order.has_ready
    assert order.blocked == 7
    order.release(7)
    assert sent(order) == [7]


def test_the_successor_is_sent_at_once_with_the_held_notifications_after_it() -> None:
    order = started()
    for number in (8, 7, 10):
        order.arrive(number, b"", "call", again=False, now=0.0)
    assert sent(order) == []
    order.arrive(6, b"", "call", again=False, now=0.0)
    assert sent(order) == [6, 7, 8]
    assert order.blocked == 10


def test_a_repeated_notification_is_answered_and_not_sent_again() -> None:
    order = started()
    assert order.arrive(5, b"", "again", again=False, now=0.0) is Status.PUSHED
    assert sent(order) == []


def test_a_notification_that_a_user_resends_is_sent_again() -> None:
    order = started()
    assert order.arrive(5, b"", "again", again=True, now=0.0) is None
    assert sent(order) == [5]
    order.arrive(6, b"", "next", again=False, now=0.0)
    assert sent(order) == [6]


def test_a_late_notification_that_was_not_sent_is_not_lost() -> None:
    order = started()
    order.arrive(9, b"", "call", again=False, now=0.0)
    order.release(9)
    assert sent(order) == [9]
    assert order.arrive(7, b"", "delayed", again=False, now=0.0) is None
    assert sent(order) == [7]
    assert order.arrive(7, b"", "delayed", again=False, now=0.0) is Status.PUSHED


def test_a_notification_from_two_notifiers_is_sent_once_and_both_get_its_status() -> None:
    order = started()
    order.arrive(6, b"", "one", again=False, now=0.0)
    order.arrive(6, b"", "two", again=False, now=0.0)
    assert [entry.number for entry in order.take(100)] == [6]
    order.arrive(6, b"", "three", again=False, now=0.0)
    assert order.sent() == ["one", "two", "three"]
    assert sent(order) == []


def test_a_long_send_is_answered_early_and_sends_once() -> None:
    order = started()
    order.arrive(6, b"", "one", again=False, now=1.0)
    assert len(order.take(100)) == 1
    assert order.expire(0.5) == []
    assert order.expire(1.0) == ["one"]
    order.arrive(6, b"", "two", again=False, now=2.0)
    assert order.expire(1.5) == []
    assert order.sent() == ["two"]


def test_notifications_of_a_failed_send_have_to_arrive_again_and_keep_their_order() -> None:
    order = started()
    for number in (6, 7, 9):
        order.arrive(number, b"x", f"call {number}", again=False, now=0.0)
    order.take(100)
    assert order.fail() == ["call 6", "call 7", "call 9"]
    assert (len(order), order.size) == (0, 0)
    order.arrive(7, b"", "call", again=False, now=0.0)
    assert sent(order) == []
    order.arrive(6, b"", "call", again=False, now=0.0)
    assert sent(order) == [6, 7]


def test_the_number_of_held_notifications_is_bounded() -> None:
    order = started()
    for number in range(7, 7 + orders.MAX_HELD):
        assert order.arrive(number, b"", "call", again=False, now=0.0) is None
    assert order.arrive(7 + orders.MAX_HELD, b"", "call", again=False, now=0.0) is Status.WAIT


def test_a_batch_is_bounded_in_bytes_unless_it_is_a_single_one() -> None:
    order = started()
    for number, size in ((6, 3), (7, 3), (8, 9), (9, 1)):
        order.arrive(number, b"x" * size, "call", again=False, now=0.0)
    batches = []
    while batch := order.take(6):
        batches.append([entry.number for entry in batch])
        order.sent()
    assert batches == [[6, 7], [8], [9]]


@given(st.lists(st.integers(0, 60)))
def test_ranges_are_a_set(numbers: list[int]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number)
    assert [number for number in range(-1, 62) if number in ranges] == sorted(set(numbers))


def test_ranges_forget_the_lowest_ones() -> None:
    ranges = Ranges()
    for number in range(0, 4 * orders.MAX_RANGES, 2):
        ranges.add(number)
    assert 0 not in ranges
    assert 2 * orders.MAX_RANGES - 2 not in ranges
    assert 2 * orders.MAX_RANGES in ranges


@pytest.mark.parametrize("numbers", [(1, 3, 2), (2, 1), (3, 1, 2)])
def test_neighbouring_ranges_become_one(numbers: tuple[int, ...]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number)
    assert len(ranges._firsts) == 1


def test_after_a_release_of_an_expired_notification_its_successor_waits_for_it() -> None:
    order = Order[str]()
    order.arrive(7, b"", "a", again=False, now=0.0)
    assert order.expire(1.0) == ["a"]
    order.release(7)
    order.arrive(8, b"", "b", again=False, now=2.0)
    assert sent(order) == []
    order.arrive(7, b"", "a", again=False, now=2.0)
    assert sent(order) == [7, 8]
