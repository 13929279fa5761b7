# SPDX-License-Identifier: Apache-2.0
"""Requests that come at the same time are worked on together, and none is left waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.storage.mongodb.client.group_commit import GroupCommit, Request


class Recorder:
    """A group commit whose first group is being worked on until all other requests wait."""

    def __init__(self, max_size: int = 100) -> None:
        self.group_commit: GroupCommit[Request] = GroupCommit(max_size)
        self.groups: list[int] = []
        self.go_on = threading.Event()
        self.pool = ThreadPoolExecutor(20)

    def work(self, requests: Sequence[Request]) -> None:
        self.groups.append(len(requests))
        if len(self.groups) == 1:
            assert self.go_on.wait(10)
        for request in requests:
            request.answer = request.size

    def submit(self, *sizes: int, work: Callable[[Sequence[Request]], None] | None = None) -> list[Future[int]]:
        """The first is being worked on when the others are submitted, which then wait in their order."""
        first = self.pool.submit(self.group_commit.submit, Request(size=sizes[0]), work or self.work)
        while not self.groups:
            time.sleep(0.001)
        return [first, *self.submit_later(*sizes[1:], work=work)]

    def submit_later(self, *sizes: int, work: Callable[[Sequence[Request]], None] | None = None) -> list[Future[int]]:
        submitted = []
        for number, size in enumerate(sizes, 1):
            submitted.append(self.pool.submit(self.group_commit.submit, Request(size=size), work or self.work))
            while len(self.group_commit._waiting) < number:
                time.sleep(0.001)
        return submitted


def answers(submitted: list[Future[int]]) -> list[int]:
    return [each.result(10) for each in submitted]


def test_a_single_request_is_worked_on_at_once() -> None:
    recorder = Recorder()
    recorder.go_on.set()
    assert [recorder.group_commit.submit(Request(size=n), recorder.work) for n in (1, 2)] == [1, 2]
    assert recorder.groups == [1, 1]


def test_requests_that_wait_are_worked_on_together() -> None:
    recorder = Recorder()
    submitted = recorder.submit(1, 2, 3, 4)
    recorder.go_on.set()
    assert answers(submitted) == [1, 2, 3, 4]
    assert recorder.groups == [1, 3]
    assert not recorder.group_commit._is_busy


def test_a_group_is_not_larger_than_allowed_unless_it_is_one_request() -> None:
    recorder = Recorder(max_size=10)
    submitted = recorder.submit(1, 4, 5, 6, 500, 5, 5)
    recorder.go_on.set()
    assert answers(submitted) == [1, 4, 5, 6, 500, 5, 5]
    assert recorder.groups == [1, 2, 1, 1, 2]


def test_an_error_about_the_queue_is_raised_for_each_request_of_the_group() -> None:
    recorder = Recorder()

    def refuse(requests: Sequence[Request]) -> None:
        recorder.work(requests)
        raise StaleQueue("uid")

    submitted = recorder.submit(1, 2, 3, work=refuse)
    recorder.go_on.set()
    errors = [each.exception(10) for each in submitted]
    assert [str(error) for error in errors] == ["uid"] * 3
    assert len(set(map(id, errors))) == 3
    assert recorder.groups == [1, 2]


def test_requests_that_wait_fail_too_if_the_store_is_away() -> None:
    recorder = Recorder()

    def fail(requests: Sequence[Request]) -> None:
        recorder.work(requests)
        raise StoreUnavailable

    submitted = recorder.submit(1, 2, 3, work=fail)
    recorder.go_on.set()
    assert all(isinstance(each.exception(10), StoreUnavailable) for each in submitted)
    assert recorder.groups == [1]
    assert recorder.group_commit.submit(Request(size=7), recorder.work) == 7


def test_a_request_that_was_done_before_the_error_keeps_its_answer() -> None:
    recorder = Recorder()

    def half(requests: Sequence[Request]) -> None:
        recorder.work(requests)
        requests[0].is_done = True
        raise StaleQueue("uid")

    first, *others = recorder.submit(1, 2, 3, work=half)
    recorder.go_on.set()
    assert first.result(10) == 1
    assert others[0].result(10) == 2
    assert isinstance(others[1].exception(10), StaleQueue)


def test_a_leader_that_is_killed_passes_the_lead_on() -> None:
    """As when a greenlet is killed: the error is none of a store, and the other requests do not wait for ever."""
    recorder = Recorder()

    def break_off(requests: Sequence[Request]) -> None:
        recorder.work(requests)
        raise KeyboardInterrupt

    submitted = recorder.submit(1, work=break_off) + recorder.submit_later(2, 3)
    recorder.go_on.set()
    assert isinstance(submitted[0].exception(10), KeyboardInterrupt)
    assert answers(submitted[1:]) == [2, 3]
    assert recorder.group_commit.submit(Request(size=7), recorder.work) == 7


class Interrupted(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("is_leader", [False, True])
def test_a_request_that_is_killed_while_it_waits_passes_the_lead_on(is_leader: bool) -> None:
    group_commit: GroupCommit[Request] = GroupCommit(10)
    request, other = Request(size=1, woken=Interrupted(), is_leader=is_leader), Request(size=1)
    group_commit._is_busy = True
    group_commit._waiting.extend([other] if is_leader else [request, other])
    with pytest.raises(KeyboardInterrupt):
        group_commit._wait(request, Interrupted())
    assert request not in group_commit._waiting
    assert other.is_leader or list(group_commit._waiting) == [other] or other.failure is not None
