# SPDX-License-Identifier: Apache-2.0
"""Requests that may wait for messages: a claim, a pop or a page that was checked and can be tried several times.

``Messages`` and ``Claims`` prepare them, and a transport waits: over HTTP by :mod:`zaqar.waiting.blocking`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from zaqar.limits import Limits
from zaqar.model import QueueName
from zaqar.schemas.fields import check_range
from zaqar.waiting.blocking import Attempt
from zaqar.waiting.registry import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Awaited(Generic[T]):
    """A request that may wait. It was checked, and it has passed the ``before_`` hooks of stages.

    Only ``attempt`` asks a store. A transport passes the answer of the last attempt to ``finish`` exactly once.
    """

    queue_name: QueueName
    kind: Kind
    attempt: Callable[[int | None], Attempt[T]]
    """Try once. The argument is the version of the queue from the waiter, None if no waiter has joined yet. Raises the
    errors of the same request without waiting."""
    nothing: Callable[[], T]
    """Make the answer without messages, for a client whose time ends before it has its turn to try."""
    finish: Callable[[T], T]
    """Call the ``after_`` hooks of stages, and return the answer for the client."""
    is_over: bool = False
    """Whether a stage has answered already. Then the first attempt has the answer, and the request does not wait."""

    def answer_now(self) -> T:
        """Return the answer of one attempt, for a request that does not wait."""
        return self.finish(self.attempt(None).answer)


def unchanged(answer: T) -> T:
    """Return the answer as it is: the ``finish`` of a request without stages."""
    return answer


def answered(queue_name: QueueName, answer: T) -> Awaited[T]:
    """Make the request for an answer that a stage has given."""
    found = Attempt(answer, is_served=True, is_full=False)
    return Awaited(queue_name, Kind.READER, lambda _: found, lambda: answer, unchanged, is_over=True)


def check_wait(seconds: int, limits: Limits) -> int:
    """Return the seconds that a request wants to wait. Raises InvalidInput, about ``wait``, if they are too many."""
    check_range(seconds, 0, limits.max_wait, field="wait")
    return seconds
