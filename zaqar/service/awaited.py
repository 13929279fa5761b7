# SPDX-License-Identifier: Apache-2.0
"""Requests that may wait for messages: a claim, a pop or a page, checked, and ready to be tried several times.

The services prepare them and a transport waits: over HTTP by :mod:`zaqar.waiting.blocking`.
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

    Only ``attempt`` asks a store. A transport gives the answer of the last attempt to ``finish`` exactly once.
    """

    address: QueueName
    kind: Kind
    attempt: Callable[[int | None], Attempt[T]]
    """Try once, with the version of the queue from the waiter; None if no waiter has joined yet. Raises what the same
    request raises without waiting."""
    nothing: Callable[[], T]
    """The answer without messages, for a client that has waited behind others and is answered before an attempt."""
    finish: Callable[[T], T]
    """What the client gets for an answer; calls the ``after_`` hooks of stages."""
    is_over: bool = False
    """Whether a stage has answered already: the first attempt has the answer, and there is nothing to wait for."""

    def answer_now(self) -> T:
        """The answer of one attempt, for a request that does not wait."""
        return self.finish(self.attempt(None).answer)


def unchanged(answer: T) -> T:
    """The ``finish`` of a request without stages."""
    return answer


def answered(address: QueueName, answer: T) -> Awaited[T]:
    """A request that a stage has answered."""
    found = Attempt(answer, is_served=True, is_full=False)
    return Awaited(address, Kind.READER, lambda _: found, lambda: answer, unchanged, is_over=True)


def check_wait(seconds: int, limits: Limits) -> int:
    """The time that a request may wait, in seconds. Raises InvalidInput, which names ``wait``, if it is too long."""
    check_range(seconds, 0, limits.max_wait, field="wait")
    return seconds
