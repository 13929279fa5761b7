# SPDX-License-Identifier: Apache-2.0
"""The soft limits: what a process remembers, when it counts again, and what a failure leaves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar.errors import QuotaExceeded, StoreUnavailable
from zaqar.model import QUEUE, Draft, Queue, QueueUsage
from zaqar.quotas import usage
from zaqar.quotas.amounts import ConfiguredAmounts
from zaqar.quotas.settings import Amounts
from zaqar.quotas.usage import UsageChecks

Q = Queue("f" * 24, "p", "q", QUEUE)


class Store:
    """The message store and the management store of two queues with the same messages."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.asked = 0
        self.is_away = False
        self.queues = self.queue_records = self.store = self

    def usage(self, *, queue: Queue, now: float, most: int) -> QueueUsage:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable
        return QueueUsage(min(self.messages, most), self.bytes)

    def list_after(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        return [Q] if kind == QUEUE and not after else []

    def store_of(self, queue: Queue) -> Store:
        return self


class Checks:
    def __init__(self, **amounts: int) -> None:
        self.store: Any = Store()
        self.clock = FakeClock(5000.0)
        source = ConfiguredAmounts(Amounts(**amounts))
        self.checks = UsageChecks(self.store, self.store, source, time.time, None, self.clock)

    def post(self, count: int = 1, size: int = 10) -> None:
        drafts = [Draft(b"x" * size, 60)] * count
        self.checks.check(Q, drafts)
        self.store.messages += count
        self.store.bytes += count * size
        self.checks.add(Q, self.store, drafts)
        self.settle()

    def settle(self) -> None:
        """Wait until the thread has counted."""
        wait_until(lambda: not any(use.is_wanted for use in self.checks._uses.values()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_own_posts_count_until_the_queue_is_full() -> None:
    checks = Checks(queue_messages=10)
    for _ in range(5):
        checks.post(2)
    with pytest.raises(QuotaExceeded) as caught:
        checks.post()
    sentence = "queue_messages: the queue 'q' has 10 of 10 messages, and no room for the post."
    assert (str(caught.value), caught.value.limit) == (sentence, "queue_messages")


def test_a_post_larger_than_the_limit_is_refused_before_the_store_is_asked() -> None:
    checks = Checks(queue_messages=10)
    with pytest.raises(QuotaExceeded):
        checks.post(11)
    assert checks.store.asked == 0


def test_it_counts_every_ten_seconds_and_every_second_when_nearly_full() -> None:
    checks = Checks(queue_messages=100)
    checks.store.messages = 40
    checks.post()
    assert checks.store.asked == 1
    for _ in range(9):
        checks.clock.advance(1.0)
        checks.post()
    assert checks.store.asked == 1
    checks.store.messages = 85
    checks.clock.advance(1.0)
    checks.post()
    assert checks.store.asked == 2
    for _ in range(5):
        checks.clock.advance(1.0)
        checks.post()
    assert checks.store.asked == 7


def test_deleted_messages_make_room_within_a_second() -> None:
    checks = Checks(queue_messages=10)
    checks.store.messages = 10
    checks.post()
    with pytest.raises(QuotaExceeded):
        checks.post()
    checks.store.messages = 3
    checks.clock.advance(1.0)
    # The first post after the second begins the count, and does not wait for it.
    with contextlib.suppress(QuotaExceeded):
        checks.post()
    checks.settle()
    checks.post()


def test_a_long_count_is_repeated_more_seldom() -> None:
    checks = Checks(queue_messages=100)
    checks.post()
    next(iter(checks.checks._uses.values())).took = 2.0
    checks.clock.advance(39.0)
    checks.post()
    assert checks.store.asked == 1
    checks.clock.advance(2.0)
    checks.post()
    assert checks.store.asked == 2


def test_the_bytes_of_a_project_are_those_of_all_its_queues() -> None:
    checks = Checks(stored_bytes=1000)
    checks.store.bytes = 700
    checks.post(1, 100)
    assert checks.checks.stored_bytes("p") in (700, 800)
    with pytest.raises(QuotaExceeded) as caught:
        checks.post(1, 400)
    assert str(caught.value).startswith("stored_bytes: the project has ")
    assert Checks(stored_bytes=1000).checks.stored_bytes("p") == 0


def test_an_outage_leaves_the_last_count() -> None:
    checks = Checks(queue_messages=10)
    checks.store.messages = 9
    checks.post()
    checks.store.is_away = True
    checks.clock.advance(1.0)
    with pytest.raises(QuotaExceeded):
        checks.post()
    checks.settle()
    asked = checks.store.asked
    with pytest.raises(QuotaExceeded):
        checks.post()
    assert checks.store.asked == asked


def test_the_number_of_remembered_queues_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_MOST_KEYS", 10)
    checks = Checks(queue_messages=10)
    for number in range(30):
        checks.checks.add(Queue(f"{number:024x}", "p", "q", QUEUE), checks.store, [Draft(b"x", 60)])
    checks.settle()
    assert len(checks.checks._uses) == 10
