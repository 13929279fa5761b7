# SPDX-License-Identifier: Apache-2.0
"""Who comes at the same time is served together, and nobody is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.storage.mongodb.client.group_commit import Desk, Request


class Counter:
    """A desk whose first turn lasts until everybody else is waiting."""

    def __init__(self, most: int = 100) -> None:
        self.desk: Desk[Request] = Desk(most)
        self.turns: list[int] = []
        self.go_on = threading.Event()
        self.pool = ThreadPoolExecutor(20)

    def work(self, requests: Sequence[Request]) -> None:
        self.turns.append(len(requests))
        if len(self.turns) == 1:
            assert self.go_on.wait(10)
        for request in requests:
            request.answer = request.weight

    def come(self, *weights: int, work: Callable[[Sequence[Request]], None] | None = None) -> list[Future[int]]:
        """The first has its turn when the others come, who then wait in their order."""
        first = self.pool.submit(self.desk.serve, Request(weight=weights[0]), work or self.work)
        while not self.turns:
            time.sleep(0.001)
        return [first, *self.come_later(*weights[1:], work=work)]

    def come_later(self, *weights: int, work: Callable[[Sequence[Request]], None] | None = None) -> list[Future[int]]:
        came = []
        for number, weight in enumerate(weights, 1):
            came.append(self.pool.submit(self.desk.serve, Request(weight=weight), work or self.work))
            while len(self.desk._waiting) < number:
                time.sleep(0.001)
        return came


def answers(came: list[Future[int]]) -> list[int]:
    return [each.result(10) for each in came]


def test_one_is_served_at_once() -> None:
    counter = Counter()
    counter.go_on.set()
    assert [counter.desk.serve(Request(weight=n), counter.work) for n in (1, 2)] == [1, 2]
    assert counter.turns == [1, 1]


def test_who_waited_is_served_together() -> None:
    counter = Counter()
    came = counter.come(1, 2, 3, 4)
    counter.go_on.set()
    assert answers(came) == [1, 2, 3, 4]
    assert counter.turns == [1, 3]
    assert not counter.desk._busy


def test_only_so_many_go_together_but_one_always_goes() -> None:
    counter = Counter(most=10)
    came = counter.come(1, 4, 5, 6, 500, 5, 5)
    counter.go_on.set()
    assert answers(came) == [1, 4, 5, 6, 500, 5, 5]
    assert counter.turns == [1, 2, 1, 1, 2]


def test_an_error_about_the_queue_is_for_those_who_asked() -> None:
    counter = Counter()

    def refuse(requests: Sequence[Request]) -> None:
        counter.work(requests)
        raise StaleQueue("uid")

    came = counter.come(1, 2, 3, work=refuse)
    counter.go_on.set()
    errors = [each.exception(10) for each in came]
    assert [str(error) for error in errors] == ["uid"] * 3
    assert len(set(map(id, errors))) == 3
    assert counter.turns == [1, 2]


def test_a_store_that_is_away_is_away_for_who_waits() -> None:
    counter = Counter()

    def fail(requests: Sequence[Request]) -> None:
        counter.work(requests)
        raise StoreUnavailable

    came = counter.come(1, 2, 3, work=fail)
    counter.go_on.set()
    assert all(isinstance(each.exception(10), StoreUnavailable) for each in came)
    assert counter.turns == [1]
    assert counter.desk.serve(Request(weight=7), counter.work) == 7


def test_who_was_served_before_the_error_keeps_the_answer() -> None:
    counter = Counter()

    def half(requests: Sequence[Request]) -> None:
        counter.work(requests)
        requests[0].served = True
        raise StaleQueue("uid")

    first, *others = counter.come(1, 2, 3, work=half)
    counter.go_on.set()
    assert first.result(10) == 1
    assert others[0].result(10) == 2
    assert isinstance(others[1].exception(10), StaleQueue)


def test_a_turn_that_breaks_off_is_passed_on() -> None:
    """As when a greenlet is killed: no error of a store, and nobody is left waiting for ever."""
    counter = Counter()

    def break_off(requests: Sequence[Request]) -> None:
        counter.work(requests)
        raise KeyboardInterrupt

    came = counter.come(1, work=break_off) + counter.come_later(2, 3)
    counter.go_on.set()
    assert isinstance(came[0].exception(10), KeyboardInterrupt)
    assert answers(came[1:]) == [2, 3]
    assert counter.desk.serve(Request(weight=7), counter.work) == 7


class Interrupted(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("leads", [False, True])
def test_who_is_killed_while_it_waits_takes_no_turn_along(leads: bool) -> None:
    desk: Desk[Request] = Desk(10)
    request, other = Request(weight=1, woken=Interrupted(), leads=leads), Request(weight=1)
    desk._busy = True
    desk._waiting.extend([other] if leads else [request, other])
    with pytest.raises(KeyboardInterrupt):
        desk._wait(request, Interrupted())
    assert request not in desk._waiting
    assert other.leads or list(desk._waiting) == [other] or other.failure is not None
