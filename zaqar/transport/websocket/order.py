# SPDX-License-Identifier: Apache-2.0
"""In which order the notifications of one subscription go out, whichever way they come in. No I/O.

Notifications have the numbers of their messages. They come from several notifiers, out of order, more than once, and
with gaps: for a message that no longer exists or that a filter did not let pass there is none. The rules:

- The successor of the last one goes out at once.
- One behind a gap is held back until all before it have come, or until the store has said that there are none.
- One that went out already is a repetition, and does not go out again, unless somebody had it sent again.
- One that comes late, from before the last one, goes out at once. That is a message with a delay, or one that is sent
  again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from zaqar.push_protocol import Status

Call = TypeVar("Call")
"""Who waits for the status of a notification."""

MOST_RANGES = 64
"""Ranges of numbers that went out of which each subscription remembers. Of earlier ones a repetition is sent again."""

MOST_HELD = 200
"""Notifications of one subscription that are held back or under way. Each that is more has to come again."""


class Ranges:
    """A set of integers, kept as ranges. It forgets the lowest ones if there are more than MOST_RANGES."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def add(self, number: int) -> None:
        if number in self:
            return
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, number)
        if at and lasts[at - 1] == number - 1:
            lasts[at - 1] = number
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)
            at += 1
        if at < len(firsts) and firsts[at] == number + 1:
            lasts[at - 1] = lasts[at]
            del firsts[at], lasts[at]
        if len(firsts) > MOST_RANGES:
            del firsts[0], lasts[0]


@dataclass(slots=True, eq=False)
class Entry(Generic[Call]):
    """A notification that did not go out yet. ``since``: when it came, or when those who waited were last answered."""

    number: int
    text: bytes
    since: float
    calls: list[Call] = field(default_factory=list)


class Order(Generic[Call]):
    """Made when the first notification of a subscription comes, and kept as long as its connection."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry[Call]] = {}
        """All that are held back, ready, or being sent, by number."""
        self._held: list[int] = []
        """Numbers, in order."""
        self._ready: deque[Entry[Call]] = deque()
        self._sending: list[Entry[Call]] = []
        self._last: int | None = None
        """The greatest number that is ready, or beyond that. All before it went out, or are going to, or never come."""
        self._last_sent: int | None = None
        """The same, of what went out."""
        self._seen = Ranges()
        self.size = 0
        """Bytes of the notifications that are held back, ready, or being sent."""

    def __len__(self) -> int:
        return len(self._entries)

    def arrive(self, number: int, text: bytes, call: Call, *, again: bool, now: float) -> Status | None:
        """A notification has come; the status if that is known at once, else ``call`` gets it later.

        ``again``: an attempt of it was recorded before, so it may be one that somebody had sent again.
        """
        entry = self._entries.get(number)
        if entry is not None:
            if not entry.calls:
                entry.since = now
            entry.calls.append(call)
            return None
        if not again and number in self._seen:
            return Status.PUSHED
        if len(self._entries) >= MOST_HELD:
            return Status.WAIT
        entry = self._entries[number] = Entry(number, text, now, [call])
        self.size += len(text)
        if self._last is None or number > self._last + 1:
            insort(self._held, number)
            return None
        self._ready.append(entry)
        if number == self._last + 1:
            self._advance(number)
        return None

    @property
    def blocked(self) -> int | None:
        """The number of the first one that is held back: it may go out if the store has none that comes before it."""
        return self._held[0] if self._held else None

    def release(self, number: int) -> None:
        """None comes any more before the one with this number: what is held back up to it may go out.

        It may not be held back itself any more, and then has to come again before its successor goes out.
        """
        at = bisect_right(self._held, number)
        released = self._held[:at]
        self._ready.extend(self._entries[each] for each in released)
        del self._held[:at]
        last = number if number in released else number - 1
        if self._last is None or last > self._last:
            self._advance(last)

    def _advance(self, number: int) -> None:
        """All up to ``number`` are ready: those that follow it without a gap are as well."""
        at = bisect_left(self._held, number)
        while at < len(self._held) and self._held[at] == number + 1:
            number += 1
            self._ready.append(self._entries[self._held.pop(at)])
        self._last = number

    # -- what goes out -----------------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def take(self, most_bytes: int) -> list[Entry[Call]]:
        """What to send now, in order; none while something is being sent. ``sent`` or ``fail`` has to follow."""
        if self._sending:
            return []
        size = 0
        while self._ready and (not size or size + len(self._ready[0].text) <= most_bytes):
            entry = self._ready.popleft()
            size += len(entry.text)
            self._sending.append(entry)
        return list(self._sending)

    def sent(self) -> list[Call]:
        """What was taken went out; return who waited for that."""
        calls: list[Call] = []
        for entry in self._sending:
            self._seen.add(entry.number)
            if self._last_sent is None or entry.number > self._last_sent:
                self._last_sent = entry.number
            self._remove(entry)
            calls += entry.calls
        self._sending.clear()
        return calls

    def fail(self) -> list[Call]:
        """What was taken did not go out: it has to come again, and all that waits behind it; return who waited."""
        dropped = list(self._entries.values())
        self._entries.clear()
        self._held.clear()
        self._ready.clear()
        self._sending.clear()
        self._last = self._last_sent
        self.size = 0
        return [call for entry in dropped for call in entry.calls]

    def expire(self, before: float) -> list[Call]:
        """Those who have waited since before that time. What is held back so long is dropped, and has to come again."""
        calls: list[Call] = []
        for entry in self._overdue(before):
            calls += entry.calls
            entry.calls = []
            at = bisect_left(self._held, entry.number)
            if at < len(self._held) and self._held[at] == entry.number:
                del self._held[at]
                self._remove(entry)
        return calls

    def _overdue(self, before: float) -> Iterable[Entry[Call]]:
        return [entry for entry in self._entries.values() if entry.calls and entry.since <= before]

    def _remove(self, entry: Entry[Call]) -> None:
        del self._entries[entry.number]
        self.size -= len(entry.text)
