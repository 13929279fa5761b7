# SPDX-License-Identifier: Apache-2.0
"""Which callers wait for Keystone and for how long, and which ones are refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.clock import FakeClock
from zaqar.access.identity import Answer, Identity
from zaqar.access.validations import Validations
from zaqar.errors import KeystoneUnavailable

ANN = Answer(Identity("demo", "ann", frozenset(), None, 1e12), 60.0)
BOB = Answer(Identity("demo", "bob", frozenset(), None, 1e12), 60.0)
REJECTED = Answer(None, 10.0)
MOST_CALLERS = 12
AT_ONCE = 0.5
"""Seconds. A call that must not wait is faster, even on a busy machine. A call that waits takes longer."""


class Keystone:
    """A Keystone that answers when the test says so. ``asked`` has the names of the questions, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = 0
        self.most_open = 0
        self._may_answer = threading.Event()
        self._lock = threading.Lock()

    def question(self, name: str, answer: Answer | None = ANN) -> Callable[[], Answer]:
        """Make a question. With None there is no answer."""

        def ask() -> Answer:
            with self._lock:
                self.asked.append(name)
                self.open += 1
                self.most_open = max(self.most_open, self.open)
            assert self._may_answer.wait(30)
            with self._lock:
                self.open -= 1
            if answer is None:
                raise KeystoneUnavailable
            return answer

        return ask

    def wait_for(self, questions: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.asked) < questions:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def answer(self) -> None:
        self._may_answer.set()


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    keystone = Keystone()
    yield keystone
    keystone.answer()


def wait_for_callers(validations: Validations, count: int) -> None:
    """Wait until ``count`` callers are in run(), and a little longer, until they wait for their turn."""
    deadline = time.monotonic() + 30
    while MOST_CALLERS - validations._callers._value < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.05)


@contextmanager
def refused_at_once() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(KeystoneUnavailable):
        yield
    assert time.monotonic() - began < AT_ONCE


def bounded(**changes: object) -> Validations:
    return Validations(**{"most_callers": MOST_CALLERS, "patience": 30.0, **changes})  # type: ignore[arg-type]


def test_the_same_question_is_asked_once(keystone: Keystone) -> None:
    validations = bounded()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(validations.run, b"a", keystone.question("first"))
        keystone.wait_for(1)
        others = [pool.submit(validations.run, b"a", keystone.question("other", BOB)) for _ in range(4)]
        wait_for_callers(validations, 5)
        keystone.answer()
        assert [each.result(30) for each in (first, *others)] == [ANN] * 5
    assert keystone.asked == ["first"]
    assert validations.run(b"a", keystone.question("later", BOB)) == BOB


def test_a_rejection_is_shared_too(keystone: Keystone) -> None:
    assert share(bounded(), keystone, REJECTED) == ([REJECTED] * 3, ["first"])


@pytest.mark.parametrize("answer", [Answer(ANN.identity, 0.0), Answer(None, 0.0)])
def test_an_answer_to_one_request_is_not_shared(keystone: Keystone, answer: Answer) -> None:
    answers, asked = share(bounded(), keystone, answer)
    assert answers == [answer, BOB, BOB]
    assert asked == ["first", "other", "other"]


def share(validations: Validations, keystone: Keystone, answer: Answer) -> tuple[list[Answer], list[str]]:
    """Let three callers ask the same at once; the first one gets ``answer``. Return the answers and the questions."""
    with ThreadPoolExecutor(3) as pool:
        futures: list[Future[Answer]] = [pool.submit(validations.run, b"a", keystone.question("first", answer))]
        keystone.wait_for(1)
        futures += [pool.submit(validations.run, b"a", keystone.question("other", BOB)) for _ in range(2)]
        wait_for_callers(validations, 3)
        keystone.answer()
        return [future.result(30) for future in futures], keystone.asked


def test_a_caller_waiting_for_a_question_that_fails_gets_keystone_unavailable(keystone: Keystone) -> None:
    validations = bounded()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(validations.run, b"a", keystone.question("first", None))]
        keystone.wait_for(1)
        futures += [pool.submit(validations.run, b"a", keystone.question("other")) for _ in range(2)]
        wait_for_callers(validations, 3)
        keystone.answer()
        errors = [future.exception(30) for future in futures]
    assert [type(error) for error in errors] == [KeystoneUnavailable] * 3
    assert len(set(map(id, errors))) == 3, "each has an exception, and a traceback, of its own"
    assert keystone.asked == ["first"]


def test_questions_are_bounded_and_the_next_ones_wait_for_their_turn(keystone: Keystone) -> None:
    validations = bounded()
    with ThreadPoolExecutor(12) as pool:
        futures = [
            pool.submit(validations.run, str(number).encode(), keystone.question(str(number))) for number in range(12)
        ]
        keystone.wait_for(8)
        wait_for_callers(validations, 12)
        assert keystone.open == 8, "two thirds of those who may be held"
        keystone.answer()
        assert [future.result(30) for future in futures] == [ANN] * 12
    assert keystone.most_open == 8


def test_more_callers_are_refused_at_once(keystone: Keystone) -> None:
    validations = bounded()
    with ThreadPoolExecutor(MOST_CALLERS) as pool:
        futures = [pool.submit(validations.run, b"a", keystone.question("a")) for _ in range(MOST_CALLERS)]
        wait_for_callers(validations, MOST_CALLERS)
        for key in (b"a", b"b", None):
            with refused_at_once():
                validations.run(key, keystone.question("more"))
        keystone.answer()
        assert [future.result(30) for future in futures] == [ANN] * MOST_CALLERS
    assert validations.run(b"b", keystone.question("later")) == ANN


def test_a_further_caller_is_accepted_if_another_one_leaves_soon(keystone: Keystone) -> None:
    validations = bounded(most_callers=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(validations.run, b"a", keystone.question("first"))
        keystone.wait_for(1)
        second = pool.submit(validations.run, b"b", keystone.question("second"))
        time.sleep(0.01)
        keystone.answer()
        assert [first.result(30), second.result(30)] == [ANN] * 2


@pytest.mark.parametrize("outage", ["silent", "away"])
def test_a_further_caller_does_not_wait_if_keystone_does_not_answer(keystone: Keystone, outage: str) -> None:
    clock = FakeClock()
    validations = bounded(most_callers=1, monotonic=clock)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(validations.run, b"a", keystone.question("held"))
        keystone.wait_for(1)
        if outage == "silent":
            clock.advance(0.6)
        else:
            validations._try_again_at = clock() + 1
        began = time.monotonic()
        with pytest.raises(KeystoneUnavailable):
            validations.run(b"b", keystone.question("another"))
        assert time.monotonic() - began < 0.09, "less than the moment that others wait"
        keystone.answer()
        assert held.result(30) == ANN


@pytest.mark.parametrize("most_callers", [1, 2])
def test_one_question_is_always_possible(keystone: Keystone, most_callers: int) -> None:
    keystone.answer()
    assert bounded(most_callers=most_callers).run(b"a", keystone.question("a")) == ANN


def test_a_caller_waits_no_longer_than_its_patience(keystone: Keystone) -> None:
    validations = bounded(most_callers=3, patience=0.1)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(validations.run, key, keystone.question("held")) for key in (b"a", b"b")]
        keystone.wait_for(2)
        with refused_at_once():
            validations.run(b"a", keystone.question("the same"))
        with refused_at_once():
            validations.run(b"c", keystone.question("another"))
        keystone.answer()
        assert [future.result(30) for future in held] == [ANN] * 2


def test_no_caller_waits_if_keystone_does_not_answer(keystone: Keystone) -> None:
    clock = FakeClock()
    validations = bounded(most_callers=3, monotonic=clock)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(validations.run, b"a", keystone.question("held"))]
        keystone.wait_for(1)
        clock.advance(2.1)
        with refused_at_once():
            validations.run(b"a", keystone.question("the same"))
        # A free slot is still used, because only a single answer may have been lost.
        held.append(pool.submit(validations.run, b"b", keystone.question("another")))
        keystone.wait_for(2)
        with refused_at_once():
            validations.run(b"c", keystone.question("one too many"))
        keystone.answer()
        assert [future.result(30) for future in held] == [ANN] * 2
    assert keystone.asked == ["held", "another"]


def test_after_an_outage_one_caller_per_second_tries(keystone: Keystone) -> None:
    keystone.answer()
    clock = FakeClock()
    validations = bounded(monotonic=clock)
    with pytest.raises(KeystoneUnavailable):
        validations.run(b"a", keystone.question("first", None))
    for key in (b"a", b"b", None):
        with refused_at_once():
            validations.run(key, keystone.question("too soon"))
    clock.advance(1)
    with pytest.raises(KeystoneUnavailable):
        validations.run(b"a", keystone.question("second", None))
    with refused_at_once():
        validations.run(b"a", keystone.question("too soon"))
    clock.advance(1)
    assert validations.run(b"a", keystone.question("third")) == ANN
    assert validations.run(b"b", keystone.question("fourth", REJECTED)) == REJECTED
    assert validations.run(b"c", keystone.question("fifth")) == ANN
    assert keystone.asked == ["first", "second", "third", "fourth", "fifth"]


def test_a_failure_of_one_token_does_not_stop_other_callers(keystone: Keystone) -> None:
    keystone.answer()
    validations = bounded()

    def fail() -> Answer:
        raise KeystoneUnavailable(is_outage=False)

    for _ in range(3):
        with pytest.raises(KeystoneUnavailable):
            validations.run(b"a", fail)
        assert validations.run(b"b", keystone.question("b")) == ANN


def test_after_an_outage_one_caller_tries_at_a_time(keystone: Keystone) -> None:
    clock = FakeClock()
    validations = bounded(monotonic=clock)

    def fail() -> Answer:
        raise KeystoneUnavailable

    with pytest.raises(KeystoneUnavailable):
        validations.run(b"a", fail)
    clock.advance(1)
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(validations.run, b"a", keystone.question("trying"))
        keystone.wait_for(1)
        with refused_at_once():
            validations.run(b"b", keystone.question("meanwhile"))
        keystone.answer()
        assert trying.result(30) == ANN
    assert keystone.asked == ["trying"]


def test_an_unexpected_exception_releases_its_slots(keystone: Keystone) -> None:
    keystone.answer()
    validations = bounded(most_callers=1)

    def fail() -> Answer:
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            validations.run(b"a", fail)
    assert validations.run(b"a", keystone.question("a")) == ANN
