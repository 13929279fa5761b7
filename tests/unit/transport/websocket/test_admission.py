# SPDX-License-Identifier: Apache-2.0
"""The requests that get a thread, with a clock and calls that the test controls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from zaqar.errors import TooBusy
from zaqar.transport.websocket.admission import SILENT_SECONDS, Admission, Slot

THREADS = 16
PER_PROJECT, PER_QUEUE, PER_STORE, PER_SILENT_STORE = 4, 2, 12, 1
FOR_EVER = 3600.0
ANSWERED = {"done": True, "unavailable": False, "no word": None}
"""Whether the store has answered, by the result of a call."""


class Call:
    """A call that blocks its thread until the test ends it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self._end = threading.Event()
        self._result = "done"

    def __call__(self) -> str:
        self.began.set()
        assert self._end.wait(30)
        return self._result

    def end(self, result: str = "done") -> None:
        self._result = result
        self._end.set()


class Harness:
    """An admission and the requested calls, in order."""

    def __init__(self, max_wait: float) -> None:
        self.now = 1000.0
        self.admission = Admission(THREADS, max_wait=max_wait, monotonic=lambda: self.now)
        self.tasks: list[asyncio.Task[str]] = []
        self.calls: list[Call] = []
        self.slots: list[Slot] = []

    async def ask(
        self,
        project: str = "p",
        queue: str | None = None,
        store: str = "s",
        times: int = 1,
        measures_store: bool = True,
    ) -> None:
        for _ in range(times):
            call, slot = Call(), Slot(project, queue and (project, queue), store, measures_store)
            run = self.admission.run(slot, call, answered=ANSWERED.get)
            self.tasks.append(asyncio.create_task(run))
            self.calls.append(call)
            self.slots.append(slot)
            await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def under_way(self) -> list[int]:
        """The numbers of the calls that have begun and not ended, when all threads in use have begun one."""
        count = self.admission.under_way
        left = [number for number, task in enumerate(self.tasks) if not task.done()]
        found = [number for number in left if self.calls[number].began.wait(0.01)]
        if len(found) < count:
            found = [number for number in left if self.calls[number].began.wait(1.0)]
        return found

    def refused(self) -> list[int]:
        return [number for number, task in enumerate(self.tasks) if task.done() and task.exception() is not None]

    async def end(self, number: int, result: str = "done") -> None:
        self.calls[number].end(result)
        assert await self.tasks[number] == result
        await self.settle()


def run(script: Callable[[Harness], Coroutine[Any, Any, None]], max_wait: float = FOR_EVER) -> None:
    async def play() -> None:
        harness = Harness(max_wait)
        try:
            await script(harness)
        finally:
            for task in harness.tasks:
                task.cancel()
            for call in harness.calls:
                call.end()
            await asyncio.gather(*harness.tasks, return_exceptions=True)
            harness.admission.close()

    asyncio.run(play())


def test_a_project_has_at_most_a_quarter() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask("greedy", times=10)
        assert harness.under_way() == [0, 1, 2, 3]
        await harness.ask("modest")
        assert harness.under_way() == [0, 1, 2, 3, 10]
        await harness.end(2)
        assert harness.under_way() == [0, 1, 3, 4, 10]

    run(script)


def test_a_queue_has_at_most_an_eighth() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(queue="hot", times=5)
        await harness.ask(queue="other")
        assert harness.under_way() == [0, 1, 5]
        await harness.end(0)
        assert harness.under_way() == [1, 2, 5]

    run(script)


def test_one_store_leaves_threads_for_others() -> None:
    async def script(harness: Harness) -> None:
        for project in range(10):
            await harness.ask(f"p{project}", times=4)
        assert len(harness.under_way()) == PER_STORE
        await harness.ask("p0", store="other")
        # Its project has four already, all of the other store.
        assert 40 not in harness.under_way()
        await harness.ask("q", store="other")
        assert 41 in harness.under_way()

    run(script)


def test_a_store_that_is_silent_gets_few_threads_and_refuses_at_once() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask("a", times=2)
        harness.now += SILENT_SECONDS + 0.01
        await harness.ask("b")
        assert harness.refused() == [2]
        # Another store is not affected.
        await harness.ask("b", store="other")
        assert harness.under_way() == [0, 1, 3]
        # Late failures keep the store suspect, so that there is one attempt at a time.
        await harness.end(0, "unavailable")
        await harness.end(1, "unavailable")
        await harness.ask("b", times=2)
        assert harness.under_way() == [3, 4]
        assert harness.refused() == [2, 5]
        # An answer ends the suspicion.
        await harness.end(4)
        await harness.ask("b", times=3)
        assert harness.under_way() == [3, 6, 7, 8]

    run(script)


def test_a_store_that_answers_others_is_not_silent() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask("slow")
        for number in range(1, 5):
            harness.now += SILENT_SECONDS * 0.9
            await harness.ask("quick")
            await harness.end(number)
        await harness.ask("a", times=3)
        assert harness.under_way() == [0, 5, 6, 7]

    run(script)


def test_calls_that_wait_for_something_else_do_not_measure_the_store() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask("a", times=2)
        harness.now += SILENT_SECONDS + 0.01
        await harness.end(0, "no word")
        await harness.end(1, "no word")
        await harness.ask("b", times=3)
        assert harness.under_way() == [2, 3, 4]

    run(script)


def test_calls_that_also_ask_others_do_not_measure_the_store() -> None:
    """A look at all stores, or a subscriber whose host name is resolved slowly, takes seconds."""

    async def script(harness: Harness) -> None:
        await harness.ask("slow", times=2, measures_store=False)
        harness.now += SILENT_SECONDS * 10
        await harness.ask("b", times=2)
        assert harness.under_way() == [0, 1, 2, 3]
        # They show neither that the store is silent, nor that it answers.
        await harness.end(0, "unavailable")
        await harness.ask("b")
        assert harness.under_way() == [1, 2, 3, 4]
        harness.now += SILENT_SECONDS + 0.01
        await harness.end(1)
        await harness.ask("c")
        assert harness.refused() == [5]
        # They count against the limits as all calls do.
        await harness.ask("slow", store="other", times=PER_PROJECT + 1, measures_store=False)
        assert len([number for number in harness.under_way() if number > 5]) == PER_PROJECT

    run(script)


def test_a_store_that_fails_at_once_keeps_its_threads() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask("a")
        await harness.end(0, "unavailable")
        await harness.ask("a", times=3)
        assert harness.under_way() == [1, 2, 3]

    run(script)


def test_waiting_requests_are_served_by_project_in_turn() -> None:
    async def script(harness: Harness) -> None:
        for project in "abcd":
            await harness.ask(project, times=3)
        await harness.ask("greedy", times=6)  # 12 to 17 wait: the store has all it may have
        await harness.ask("modest")
        order = []
        for number in range(4):
            before = set(harness.under_way())
            await harness.end(number)
            order += [harness.slots[new].project for new in set(harness.under_way()) - before]
        assert order == ["greedy", "modest", "greedy", "greedy"]

    run(script)


def test_waiting_requests_of_a_project_are_served_by_queue_in_turn() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(times=4)
        await harness.ask(queue="hot", times=3)
        await harness.ask(queue="cold")
        order = []
        for number in range(3):
            before = set(harness.under_way())
            await harness.end(number)
            order += [harness.slots[new].queue for new in set(harness.under_way()) - before]
        assert order == [("p", "hot"), ("p", "cold"), ("p", "hot")]

    run(script)


def test_a_request_that_waits_too_long_is_refused() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(times=5)
        with pytest.raises(TooBusy):
            await harness.tasks[4]
        await harness.end(0)
        await harness.ask()
        assert harness.under_way() == [1, 2, 3, 5]

    run(script, max_wait=0.05)


def test_the_number_of_waiting_requests_is_bounded() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(times=PER_PROJECT)
        await harness.ask(times=THREADS * 16 + 1)
        assert harness.refused() == [PER_PROJECT + THREADS * 16]
        await harness.ask("other")
        assert not harness.tasks[-1].done()

    run(script)


def test_a_cancelled_request_leaves_the_line() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(times=6)
        harness.tasks[4].cancel()
        await harness.settle()
        await harness.end(0)
        assert harness.under_way() == [1, 2, 3, 5]

    run(script)


@pytest.mark.parametrize("turns", range(5))
def test_a_request_cancelled_as_a_thread_becomes_free_leaves_the_line(turns: int) -> None:
    """Cancels after each number of turns of the event loop. In one case the task is cancelled before it has run."""

    async def script(harness: Harness) -> None:
        await harness.ask(times=6)
        assert harness.under_way() == [0, 1, 2, 3]
        for number in (0, 4):
            harness.calls[number].end()
        # Its thread ends, and the event loop has not noticed yet.
        time.sleep(0.05)
        for _ in range(turns):
            await asyncio.sleep(0)
        harness.tasks[4].cancel()
        assert await asyncio.to_thread(harness.calls[5].began.wait, 30)
        for number in (1, 2, 3, 5):
            await harness.end(number)
        assert_nothing_is_left(harness.admission)

    run(script)


def test_a_call_of_a_cancelled_request_keeps_its_thread_until_it_ends() -> None:
    async def script(harness: Harness) -> None:
        await harness.ask(times=5)
        harness.tasks[0].cancel()
        await harness.settle()
        assert harness.admission.under_way == PER_PROJECT
        assert not harness.calls[4].began.is_set()
        harness.calls[0].end()
        assert await asyncio.to_thread(harness.calls[4].began.wait, 10)

    run(script)


def test_an_error_of_a_call_is_raised() -> None:
    async def script(harness: Harness) -> None:
        def fail() -> str:
            raise ValueError("it")

        with pytest.raises(ValueError, match="it"):
            await harness.admission.run(Slot("p", None, "s"), fail)
        assert harness.admission.under_way == 0

    run(script)


def test_without_a_silence_limit_no_call_makes_its_store_silent() -> None:
    async def script(harness: Harness) -> None:
        harness.admission = Admission(
            THREADS, max_wait=FOR_EVER, silent_seconds=FOR_EVER, monotonic=lambda: harness.now
        )
        await harness.ask("a")
        harness.now += 100.0
        await harness.ask("b")
        assert harness.under_way() == [0, 1]

    run(script)


def test_nothing_is_kept_of_finished_requests() -> None:
    async def script(harness: Harness) -> None:
        for number in range(20):
            await harness.ask(f"p{number}", queue="q", store=f"s{number}")
            await harness.end(number)
        assert_nothing_is_left(harness.admission)

    run(script)


def assert_nothing_is_left(admission: Admission) -> None:
    assert not admission.under_way
    assert not admission._projects and not admission._queues and not admission._stores and not admission._waiting
    assert not admission._waiting_of and not admission._waiters
