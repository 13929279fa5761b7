# SPDX-License-Identifier: Apache-2.0
"""Bounds how many callers wait for Keystone, and for how long, so that an outage of Keystone blocks no other request.

:class:`~zaqar.access.keystone.TokenValidator` sends each question to Keystone through a :class:`Validations`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zaqar.access.identity import Answer
from zaqar.access.token_cache import Key
from zaqar.errors import KeystoneUnavailable

_RETRY_INTERVAL = 1.0
"""Seconds. After an outage one caller per interval tries Keystone again. The other callers are refused."""

_MOST_QUESTIONS = 10
"""Questions that run at a time. keystoneauth keeps the same number of connections open."""

_SILENCE_SECONDS = 2.0
"""If questions are running and none was answered for this time, further callers do not wait."""


_SHORT_SILENCE_SECONDS = 0.5
_SHORT_WAIT = 0.1
"""Seconds. A caller beyond ``most_callers`` waits for _SHORT_WAIT, but not if no question was answered for
_SHORT_SILENCE_SECONDS."""


class _Question:
    """A running question about one token, and its answer, for which other callers with the same token wait."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Answer | None = None


class Validations:
    """Sends questions to Keystone: one at a time for each token, and a bounded number in all.

    At most ``most_callers`` are in a call of ``run``: callers that ask, callers that wait for the answer to the same
    question, and callers that wait for their turn to ask. A caller waits for ``patience`` seconds at most, and not at
    all if Keystone does not answer. Every further caller gets KeystoneUnavailable: at once, or after a short wait if
    Keystone answers others.
    """

    def __init__(self, *, most_callers: int, patience: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._monotonic = monotonic
        self._question_slots = threading.Semaphore(max(1, min(_MOST_QUESTIONS, most_callers * 2 // 3)))
        self._callers = threading.Semaphore(most_callers)
        self._lock = threading.Lock()
        self._questions: dict[Key, _Question] = {}
        self._open: list[float] = []  # start time of each running question, the oldest first
        self._answered_at = monotonic()
        self._try_again_at: float | None = None  # None unless the last question failed by an outage

    def run(self, key: Key | None, ask: Callable[[], Answer]) -> Answer:
        """Return the answer of ``ask``, or of another caller's running question with the same key.

        Such an answer is used only if it is valid for all requests with the token. Without a key the answer is not
        shared. Raises the errors of ``ask``, and KeystoneUnavailable if the caller would have to wait too long.
        """
        # A short wait is enough to get over a burst of new tokens, and blocks few threads beyond the bound.
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
            # Remove the question before waking the others: a later caller finds the answer in the cache, or asks again.
            with self._lock:
                del self._questions[key]
            question.done.set()

    def _await_answer(self, question: _Question, ask: Callable[[], Answer]) -> Answer:
        if not question.done.wait(self._wait_seconds()) or question.answer is None:
            raise KeystoneUnavailable
        # With seconds == 0 the answer is valid only for the request of the other caller. It must not admit this one.
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
            # This caller tries. The next caller may try after the interval, even if this one has no answer by then.
            self._try_again_at = now + _RETRY_INTERVAL

    def _wait_seconds(self) -> float:
        return 0.0 if self._silent_seconds() > _SILENCE_SECONDS else self._patience

    def _silent_seconds(self) -> float:
        """Return for how long no question was answered while some are running; 0 if none is running."""
        with self._lock:
            return self._monotonic() - max(self._answered_at, self._open[0]) if self._open else 0.0
