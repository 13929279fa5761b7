# SPDX-License-Identifier: Apache-2.0
"""The position of one reader that follows a queue. It does no I/O: its caller reads, and passes the messages in.

:class:`zaqar.service.streams.Stream` uses it, and so do streams over HTTP and over WebSocket.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zaqar.model import Message

MAX_HELD = 1000
"""Delayed messages that a reader may have passed. If it has passed so many, it reads on when one of them is due."""


class Shown(NamedTuple):
    """A message to send, and the number after which a reader that has seen it resumes."""

    message: Message
    resume: int


class Tail:
    """Follows a queue by number, with claimed and delayed messages, so that no message is passed unseen.

    A delayed message cannot be sent yet, but the position passes it, because the messages behind it need not wait.
    Its number is held back until it is due. While a number is held back, a reader that reconnects resumes before the
    smallest one: it sees some messages again and misses none.
    """

    def __init__(self, position: int, *, max_held: int = MAX_HELD) -> None:
        """``position`` is the number of the last message that the reader has seen; 0 if it has seen none."""
        self.position = position
        self._max_held = max_held
        # Numbers are added in ascending order, so the first key is the smallest.
        self._held: dict[int, float] = {}
        self._due: list[tuple[float, int]] = []

    @property
    def resume(self) -> int:
        """The number after which a reader that has seen everything up to now resumes."""
        oldest = next(iter(self._held), None)
        return self.position if oldest is None else oldest - 1

    @property
    def room(self) -> int:
        """Number of messages that may be read now. All of them may turn out to be delayed."""
        return self._max_held - len(self._held)

    @property
    def next_due(self) -> float | None:
        """The time, in seconds since the epoch, at which the first held message is due; None if none is held."""
        return self._due[0][0] if self._due else None

    def take(self, page: Iterable[Message]) -> list[Shown]:
        """Note messages that were read after ``position``, in order, at most ``room``. Return those to send now."""
        shown = []
        for message in page:
            self.position = message.sequence
            if message.due is None:
                shown.append(Shown(message, self.resume))
            else:
                self._held[message.sequence] = message.due
                heapq.heappush(self._due, (message.due, message.sequence))
        return shown

    def due(self, now: float, limit: int) -> list[int]:
        """The numbers of held messages that are due, the earliest first, at most ``limit``. They stay held."""
        return sorted(number for _, number in heapq.nsmallest(limit, self._due) if self._held[number] <= now)

    def take_due(self, numbers: Sequence[int], messages: Iterable[Message]) -> list[Shown]:
        """Note the result of a read of held messages. A number without a message is forgotten: the message is gone."""
        found = {message.sequence: message for message in messages}
        wanted = set(numbers)
        self._due = [entry for entry in self._due if entry[1] not in wanted]
        heapq.heapify(self._due)
        shown = []
        for number in sorted(wanted):
            del self._held[number]
            message = found.get(number)
            if message is None:
                continue
            if message.due is None:
                shown.append(Shown(message, self.resume))
            else:
                # The clocks of two processes differ a little, so the message may not be due yet by the other clock.
                self._hold(number, message.due)
        return shown

    def _hold(self, number: int, due: float) -> None:
        self._held = dict(sorted({**self._held, number: due}.items()))
        heapq.heappush(self._due, (due, number))
