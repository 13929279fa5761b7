# SPDX-License-Identifier: Apache-2.0
"""How many callers may wait for Keystone at a time, and for how long, so that a silent Keystone holds up nobody else.

:class:`~zaqar.access.keystone.TokenValidator` runs each question to Keystone through a :class:`Validations`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zaqar.access.identity import Answer
from zaqar.access.token_cache import Key
from zaqar.errors import KeystoneUnavailable

_RETRY_INTERVAL = 1.0
"""Seconds. After an outage one caller in each of these intervals tries Keystone again; the others are refused."""

_MOST_QUESTIONS = 10
"""Open at a time; as many connections keystoneauth keeps for the next ones."""

_SILENCE_SECONDS = 2.0
"""Seconds. If no question was answered for so long while some are open, nobody queues up behind them."""


_SHORT_SILENCE_SECONDS = 0.5
_SHORT_WAIT = 0.1
"""Seconds. Who is one too many waits for the latter, unless no question was answered for the former."""


class _Question:
    """A question under way, and those who wait for its answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Answer | None = None


class Validations:
    """Questions to Keystone: one at a time for each token, a bounded number in all.

    ``most_callers`` may be held at a time: those that ask, those that wait for the answer to the same question, and
    those that wait for their turn to ask. The latter two wait for ``patience`` seconds at most, and not at all while
    Keystone is silent. Everybody else gets KeystoneUnavailable: at once, or after a moment if Keystone answers others.
    """

    def __init__(self, *, most_callers: int, patience: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._monotonic = monotonic
        self._question_slots = threading.Semaphore(max(1, min(_MOST_QUESTIONS, most_callers * 2 // 3)))
        self._callers = threading.Semaphore(most_callers)
        self._lock = threading.Lock()
        self._questions: dict[Key, _Question] = {}
        self._open: list[float] = []  # when each open question began, the oldest first
        self._answered_at = monotonic()
        self._try_again_at: float | None = None  # None unless the last question met an outage

    def run(self, key: Key | None, ask: Callable[[], Answer]) -> Answer:
        """The answer of ``ask``, or of somebody else who is asking it under the same key if that is true for all.

        Raises what ``ask`` raises, and KeystoneUnavailable if the caller would have to wait too long.
        """
        # A moment is enough for a burst of new tokens, and few threads are held that are not to be held.
        answers = self._try_again_at is None and self._silent_seconds() < _SHORT_SILENCE_SECONDS
        if not self._callers.acquire(timeout=_SHORT_WAIT if answers else 0.0):
            raise KeystoneUnavailable
        try:
            return self._ask(ask) if key is None else self._share(key, ask)
        finally:
            self._callers.release()

    def _share(self, key: Key, ask: Callable[[], Answer]) -> Answer:
        with self._lock:
            question = self._questions.get(key)
            is_first = question is None
            if question is None:
                question = self._questions[key] = _Question()
        if not is_first:
            return self._await_answer(question, ask)
        try:
            question.answer = self._ask(ask)
            return question.answer
        finally:
            # Out of the table first: whoever comes later finds the answer in the cache, or asks anew.
            with self._lock:
                del self._questions[key]
            question.done.set()

    def _await_answer(self, question: _Question, ask: Callable[[], Answer]) -> Answer:
        if not question.done.wait(self._wait_seconds()) or question.answer is None:
            raise KeystoneUnavailable
        # The answer may be about the request of the other caller, so that it must not let this one in.
        return question.answer if question.answer.seconds > 0 else self._ask(ask)

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        self._refuse_while_away()
        if not self._question_slots.acquire(timeout=self._wait_seconds()):
            raise KeystoneUnavailable
        began = self._monotonic()
        with self._lock:
            self._open.append(began)
        is_away = False
        try:
            return ask()
        except KeystoneUnavailable as exc:
            is_away = exc.is_outage
            raise
        finally:
            self._question_slots.release()
            with self._lock:
                self._open.remove(began)
                now = self._monotonic()
                self._try_again_at = now + _RETRY_INTERVAL if is_away else None
                if not is_away:
                    self._answered_at = now

    def _refuse_while_away(self) -> None:
        with self._lock:
            if self._try_again_at is None:
                return
            now = self._monotonic()
            if now < self._try_again_at:
                raise KeystoneUnavailable
            # This caller tries. The next one may in a while, whether this one has an answer by then or not.
            self._try_again_at = now + _RETRY_INTERVAL

    def _wait_seconds(self) -> float:
        return 0.0 if self._silent_seconds() > _SILENCE_SECONDS else self._patience

    def _silent_seconds(self) -> float:
        """For how long no question was answered while some are open."""
        with self._lock:
            return self._monotonic() - max(self._answered_at, self._open[0]) if self._open else 0.0
