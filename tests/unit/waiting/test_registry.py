# SPDX-License-Identifier: Apache-2.0
"""The waiters that are woken, their order, and how often; without a store."""

from __future__ import annotations

from typing import Any

import pytest

from zaqar.model import QUEUE, QueueName, QueuePosition
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.pools import Placement, StoreRef
from zaqar.waiting.registry import Registry, Waiter
from zaqar.waiting.waiters import UNCHANGED_SECONDS, Kind, Located, TooManyWaiting, Wake, digest_of

QUEUE_NAME = QueueName("shop", QUEUE, "orders")
UID = "a" * 24
NEWER_UID = "b" * 24
STORE_REF: StoreRef = Placement(MemoryMessageStore()).all_stores()[0]
LOCATED = Located(UID, STORE_REF)


class Clients:
    """Waiters of one registry, and how often each was woken."""

    def __init__(self, **limits: int) -> None:
        self.passed_on: list[tuple[QueueName, str]] = []
        most: dict[str, Any] = {
            "max_waiting": 100,
            "max_waiting_per_project": 100,
            "max_streams": 100,
            "max_streams_per_project": 100,
        }
        self.registry = Registry(**{**most, **limits}, passed_on=lambda queue_name, uid: self._note(queue_name, uid))
        self.wakes: dict[Waiter, int] = {}

    def _note(self, queue_name: QueueName, uid: str) -> None:
        assert not self.registry._lock.locked()
        self.passed_on.append((queue_name, uid))

    def join(
        self, kind: Kind = Kind.TAKER, queue_name: QueueName = QUEUE_NAME, located: Located | None = LOCATED
    ) -> Waiter:
        woken = [0]

        def wake() -> None:
            woken[0] += 1
            self.wakes[waiter] = woken[0]

        waiter = self.registry.join(queue_name, located, kind, wake=wake)
        self.wakes[waiter] = 0
        return waiter

    def takers(self, count: int) -> list[Waiter]:
        """Waiting takers. The first one has made an attempt and found nothing."""
        made = [self.join() for _ in range(count)]
        attempt(made[0], found=0)
        return made


def attempt(waiter: Waiter, found: int, limit: int = 1) -> None:
    assert waiter.is_ready
    waiter.begin()
    waiter.finish(is_full=found == limit, is_served=found > 0)


@pytest.fixture
def clients() -> Clients:
    return Clients()


def ready(waiters: list[Waiter]) -> list[bool]:
    return [waiter.is_ready for waiter in waiters]


def test_the_first_taker_tries_at_once_and_the_next_waits_behind_it(clients: Clients) -> None:
    assert not clients.registry.has_takers(QUEUE_NAME)
    first = clients.join()
    assert clients.registry.has_takers(QUEUE_NAME)
    assert ready([first, clients.join()]) == [True, False]


def test_takers_are_served_in_the_order_in_which_they_came(clients: Clients) -> None:
    first, second, third = clients.takers(3)
    assert clients.registry.wake(UID)
    assert ready([first, second, third]) == [True, False, False]
    attempt(first, found=1)
    assert ready([first, second, third]) == [False, True, False]
    attempt(second, found=0)
    assert ready([second, third]) == [False, False]
    assert clients.registry.wake(UID)
    assert ready([second, third]) == [True, False]


def test_an_attempt_that_is_not_full_ends_the_turns(clients: Clients) -> None:
    first, second = clients.takers(2)
    clients.registry.wake(UID)
    attempt(first, found=1, limit=5)
    assert not second.is_ready
    assert clients.registry.waiting == 1


def test_a_post_during_an_attempt_leads_to_another_one(clients: Clients) -> None:
    first, second = clients.takers(2)
    clients.registry.wake(UID)
    first.begin()
    clients.registry.wake(UID)
    first.finish(is_full=False, is_served=False)
    assert ready([first, second]) == [True, False]
    attempt(first, found=0)
    assert not first.is_ready


@pytest.mark.parametrize("began", [False, True])
def test_a_taker_that_leaves_with_the_turn_gives_it_to_the_next(clients: Clients, began: bool) -> None:
    """For example, its client went away, its time is over, or its attempt has failed."""
    first, second = clients.takers(2)
    clients.registry.wake(UID)
    if began:
        first.begin()
    first.leave()
    first.leave()
    assert second.is_ready
    assert clients.wakes[second] == 1
    assert clients.registry.waiting == 1


def test_a_taker_that_leaves_without_the_turn_changes_nothing(clients: Clients) -> None:
    first, second, third = clients.takers(3)
    clients.registry.wake(UID)
    second.leave()
    attempt(first, found=1)
    assert third.is_ready


def test_others_are_told_if_all_takers_here_took_all_they_could(clients: Clients) -> None:
    first, second = clients.takers(2)
    clients.registry.wake(UID, is_own=True)
    attempt(first, found=1)
    assert clients.passed_on == []
    attempt(second, found=1)
    assert clients.passed_on == [(QUEUE_NAME, UID)]
    assert clients.registry.waiting == 0


def test_others_are_told_if_the_last_taker_leaves_with_the_turn(clients: Clients) -> None:
    (only,) = clients.takers(1)
    clients.registry.wake(UID, is_own=True)
    only.leave()
    assert clients.passed_on == [(QUEUE_NAME, UID)]


def test_processes_do_not_pass_on_wake_ups_of_other_processes(clients: Clients) -> None:
    """Otherwise two processes would wake each other in turn."""
    (only,) = clients.takers(1)
    clients.registry.note_other_process(digest_of(QUEUE_NAME), UID, Wake.POSTED, 0)
    attempt(only, found=1)
    assert clients.passed_on == []


def test_a_post_here_during_turns_that_others_began_is_passed_on(clients: Clients) -> None:
    (only,) = clients.takers(1)
    clients.registry.note_other_process(digest_of(QUEUE_NAME), UID, Wake.POSTED, 0)
    only.begin()
    assert clients.registry.wake(UID, is_own=True)
    only.finish(is_full=True, is_served=True)
    assert clients.passed_on == [(QUEUE_NAME, UID)]


def test_others_are_not_told_if_messages_ran_out(clients: Clients) -> None:
    (only,) = clients.takers(1)
    clients.registry.wake(UID, is_own=True)
    attempt(only, found=0)
    only.leave()
    assert clients.passed_on == []


@pytest.mark.parametrize(
    ("wake", "woken"),
    [
        (Wake.TAKERS, {Kind.TAKER}),
        (Wake.READERS, {Kind.READER, Kind.FREE_READER}),
        (Wake.SHOWN, {Kind.READER, Kind.FREE_READER}),
        (Wake.FREED, {Kind.TAKER, Kind.FREE_READER}),
        (Wake.POSTED, set(Kind)),
    ],
)
def test_an_event_wakes_the_waiters_that_it_concerns(clients: Clients, wake: Wake, woken: set[Kind]) -> None:
    waiters = [clients.join(kind) for kind in Kind]
    for waiter in waiters:
        attempt(waiter, found=0)
    clients.registry.wake(UID, wake)
    assert {waiter.kind for waiter in waiters if waiter.is_ready} == woken
    assert {waiter.kind for waiter, count in clients.wakes.items() if count} == woken


def test_all_readers_are_woken_once_and_see_a_newer_version(clients: Clients) -> None:
    readers = [clients.join(Kind.READER) for _ in range(3)]
    before = {reader.begin() for reader in readers}
    assert len(before) == 1
    clients.registry.wake(UID)
    clients.registry.wake(UID)
    assert [clients.wakes[reader] for reader in readers] == [1, 1, 1]
    after = {reader.begin() for reader in readers}
    assert len(after) == 1
    assert min(after) > max(before)


def test_a_reader_that_comes_to_a_queue_without_readers_gets_a_version_of_its_own(clients: Clients) -> None:
    """Without readers no change was noted, so the read of an earlier reader may be stale."""
    first = clients.join(Kind.READER)
    before = first.begin()
    first.leave()
    assert clients.join(Kind.READER).begin() > before


def test_a_taker_waits_for_a_queue_that_does_not_exist_until_it_is_created(clients: Clients) -> None:
    taker = clients.join(located=None)
    attempt(taker, found=0)
    assert clients.registry.missing() == [QUEUE_NAME]
    assert not clients.registry.is_waited_at(STORE_REF)
    assert clients.registry.note_queue(QUEUE_NAME, LOCATED)
    assert taker.is_ready
    assert clients.registry.missing() == []
    assert clients.registry.uids_of(STORE_REF) == [UID]
    taker.leave()
    assert clients.registry.store_refs() == []


def test_a_queue_that_another_process_created(clients: Clients) -> None:
    taker, reader = clients.join(located=None), clients.join(Kind.READER, located=None)
    attempt(taker, found=0)
    attempt(reader, found=0)
    assert clients.registry.note_other_process(digest_of(QUEUE_NAME), UID, Wake.POSTED, 1)
    assert ready([taker, reader]) == [True, True]
    assert clients.registry.missing() == [QUEUE_NAME]


def test_a_queue_that_was_created_again_wakes_its_waiters(clients: Clients) -> None:
    taker = clients.join()
    attempt(taker, found=0)
    assert clients.registry.note_other_process(digest_of(QUEUE_NAME), NEWER_UID, Wake.POSTED, 1)
    assert taker.is_ready
    attempt(taker, found=0)
    # Its old uid is not asked for any more.
    assert clients.registry.uids_of(STORE_REF) == []
    clients.registry.note_queue(QUEUE_NAME, Located(NEWER_UID, STORE_REF))
    assert clients.registry.uids_of(STORE_REF) == [NEWER_UID]
    assert not clients.registry.wake(UID)


def test_wake_ups_for_queues_without_waiters_are_ignored(clients: Clients) -> None:
    clients.join()
    other = QueueName("shop", QUEUE, "other")
    assert not clients.registry.note_other_process(digest_of(other), NEWER_UID, Wake.POSTED, 1)
    assert not clients.registry.note_queue(other, Located(NEWER_UID, STORE_REF))
    assert not clients.registry.wake(NEWER_UID)


def position(last: int = 0, *, free: bool = False, next_due: float | None = None) -> QueuePosition:
    return QueuePosition(last, free, next_due)


def note(clients: Clients, found: QueuePosition | None, now: float = 0.0) -> None:
    clients.registry.note_positions([UID], {} if found is None else {UID: found}, now)


def test_a_position_wakes_readers_if_there_is_a_newer_message(clients: Clients) -> None:
    reader, taker = clients.join(Kind.READER), clients.join()
    note(clients, position(5))
    for waiter in (reader, taker):
        attempt(waiter, found=0)
    note(clients, position(5))
    assert ready([reader, taker]) == [False, False]
    note(clients, position(6))
    assert ready([reader, taker]) == [True, False]


def test_a_position_shows_nothing_new_about_a_post_that_was_noted(clients: Clients) -> None:
    reader = clients.join(Kind.READER)
    clients.registry.note_queue(QUEUE_NAME, LOCATED, last=7)
    attempt(reader, found=0)
    note(clients, position(7))
    assert not reader.is_ready


def test_a_position_with_a_free_message_wakes_one_taker(clients: Clients) -> None:
    first, second = clients.takers(2)
    note(clients, position(5, free=True))
    assert ready([first, second]) == [True, False]
    # The taker has not tried yet. Its attempt will see a newer state than the position.
    first.begin()
    note(clients, position(5, free=True))
    first.finish(is_full=False, is_served=False)
    assert ready([first, second]) == [False, False]


def test_readers_of_free_messages_are_not_woken_each_time(clients: Clients) -> None:
    """A queue may have free messages before the position of a reader for hours."""
    reader = clients.join(Kind.FREE_READER)

    def is_woken(found: QueuePosition, now: float) -> bool:
        note(clients, found, now)
        woken = reader.is_ready
        if woken:
            attempt(reader, found=0)
        return woken

    attempt(reader, found=0)
    assert is_woken(position(5, free=True, next_due=100.0), 0.0)
    assert not is_woken(position(5, free=True, next_due=100.0), 1.0)
    assert is_woken(position(5, free=True, next_due=90.0), 2.0)
    assert is_woken(position(6, free=True, next_due=90.0), 3.0)
    assert not is_woken(position(6, free=True, next_due=90.0), 4.0)
    assert is_woken(position(6, free=True, next_due=90.0), 3.0 + UNCHANGED_SECONDS)
    assert is_woken(position(6, free=True), 90.0)
    assert is_woken(position(6, free=True), 30.0), "the clock was set back"
    assert not is_woken(position(6, free=True), 31.0)


def test_a_queue_that_its_store_does_not_have_is_looked_up_again(clients: Clients) -> None:
    reader, taker = clients.join(Kind.READER), clients.join()
    for waiter in (reader, taker):
        attempt(waiter, found=0)
    note(clients, None)
    assert clients.registry.missing() == [QUEUE_NAME]
    # A stream shows that its queue is gone; there is nothing to take.
    assert ready([reader, taker]) == [True, False]


@pytest.mark.parametrize(
    ("kinds", "limits"),
    [
        ((Kind.TAKER, Kind.FREE_READER), {"max_waiting": 2}),
        ((Kind.TAKER, Kind.FREE_READER), {"max_waiting_per_project": 2}),
        ((Kind.READER, Kind.READER), {"max_streams": 2}),
        ((Kind.READER, Kind.READER), {"max_streams_per_project": 2}),
    ],
)
def test_limits(kinds: tuple[Kind, Kind], limits: dict[str, int]) -> None:
    clients = Clients(**limits)
    is_of_project = "per_project" in next(iter(limits))
    other_kind = Kind.TAKER if kinds[0] is Kind.READER else Kind.READER
    waiters = [clients.join(kind) for kind in kinds]
    # Streams and waiting requests are counted separately.
    clients.join(other_kind)
    with pytest.raises(TooManyWaiting) as refused:
        clients.join(kinds[0])
    assert refused.value.of_project is is_of_project
    if is_of_project:
        clients.join(kinds[0], QueueName("another", QUEUE, "orders"), None)
    waiters[0].leave()
    waiters[0].leave()
    clients.join(kinds[1])
    with pytest.raises(TooManyWaiting):
        clients.join(kinds[1])


def test_a_drain_answers_all_waiters_and_refuses_new_ones(clients: Clients) -> None:
    waiters = [clients.join(kind) for kind in (*Kind, Kind.TAKER)]
    clients.registry.drain()
    assert all(waiter.is_over for waiter in waiters)
    assert all(clients.wakes[waiter] for waiter in waiters)
    with pytest.raises(TooManyWaiting) as refused:
        clients.join()
    assert not refused.value.of_project
    waiters.append(clients.join(Kind.READER))
    assert waiters[-1].is_over
    for waiter in waiters:
        waiter.leave()
    assert clients.registry.waiting == 0


def test_nothing_is_kept_of_queues_without_waiters(clients: Clients) -> None:
    registry = clients.registry
    for number in range(50):
        queue_name = QueueName(f"p{number}", QUEUE, "q")
        waiters = [clients.join(kind, queue_name, None) for kind in Kind]
        registry.note_queue(queue_name, Located(f"{number:024x}", STORE_REF))
        for waiter in waiters:
            waiter.leave()
    kept = (registry._queues, registry._by_uid, registry._by_digest, registry._by_store, registry._missing)
    assert not any(kept)
    assert not registry._of_projects
    assert (registry.waiting, registry.streams) == (0, 0)


def test_a_waiter_that_cannot_be_woken_disturbs_no_other_one(
    clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("Event loop is closed")

    broken = clients.registry.join(QUEUE_NAME, LOCATED, Kind.READER, wake=fail)
    broken.begin()
    reader, taker = clients.join(Kind.READER), clients.join()
    for waiter in (reader, taker):
        attempt(waiter, found=0)
    assert clients.registry.wake(UID)
    assert ready([reader, taker]) == [True, True]
    clients.registry.drain()
    assert reader.is_over
    assert "Event loop is closed" in caplog.text


def test_counters(clients: Clients) -> None:
    first, _ = clients.takers(2)
    clients.join(Kind.READER)
    clients.registry.wake(UID)
    attempt(first, found=1)
    registry = clients.registry
    assert (registry.waiting, registry.streams, registry.attempts, registry.empty_attempts) == (2, 1, 2, 1)
    # The first taker, the second one, whose turn it is now, and no reader, as it has not begun yet.
    assert registry.woken == 2


def test_a_position_wakes_readers_if_the_store_has_lost_messages(clients: Clients) -> None:
    reader = clients.join(Kind.READER)
    note(clients, position(5))
    attempt(reader, found=0)
    note(clients, position(3))
    assert reader.is_ready
    attempt(reader, found=0)
    note(clients, position(3))
    assert not reader.is_ready
