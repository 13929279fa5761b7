# SPDX-License-Identifier: Apache-2.0
"""The order in which the notifications of one subscription are sent to its connection. No I/O.

A notification has the number of its message. Notifications arrive from several notifiers, out of order and more than
once. A number may never arrive: the message has expired or was deleted, or a filter did not let it pass. The rules:

- The successor of the last notification is sent at once.
- A notification behind a gap is held back until all before it have arrived, or until the store says that none is left.
- A notification that was sent already is not sent again, unless a user has asked for it (``delivery_resend``).
- A notification with a smaller number than the last one is sent at once. Its message had a delay, or is sent again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from zaqar.ipc.push_protocol import Status

Call = TypeVar("Call")
"""An object that the caller passes in with a notification, and gets back when the notification's status is known."""

MAX_RANGES = 64
"""Ranges of sent numbers that each subscription remembers. A repetition of an earlier number is sent again."""

MAX_HELD = 200
"""Notifications of one subscription that are held back or under way. A further one has to arrive again later."""


class Ranges:
    """A set of integers, kept as ranges. It forgets the lowest ones if there are more than MAX_RANGES."""

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
        if len(firsts) > MAX_RANGES:
            del firsts[0], lasts[0]


@dataclass(slots=True, eq=False)
class Entry(Generic[Call]):
    """A notification that was not sent yet. ``since``: when it arrived, or when its calls were last answered."""

    number: int
    text: bytes
    since: float
    calls: list[Call] = field(default_factory=list)


class Order(Generic[Call]):
    """The order of one subscription: made at its first notification, and kept as long as its connection."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry[Call]] = {}
        """All notifications that are held back, ready, or being sent, by number."""
        self._held: list[int] = []
        """Numbers, in order."""
        self._ready: deque[Entry[Call]] = deque()
        self._sending: list[Entry[Call]] = []
        self._last: int | None = None
        """All up to this number were sent, are ready, or never arrive."""
        self._last_sent: int | None = None
        """The greatest number that was sent."""
        self._seen = Ranges()
        self.size = 0
        """Bytes of the notifications that are held back, ready, or being sent."""

    def __len__(self) -> int:
        return len(self._entries)

    def arrive(self, number: int, text: bytes, call: Call, *, again: bool, now: float) -> Status | None:
        """Take a notification that has arrived; return its status if it is known at once, else ``call`` gets it later.

        ``again``: an attempt was recorded before, so a user may have asked for it to be sent again.
        """
        entry = self._entries.get(number)
        if entry is not None:
            if not entry.calls:
                entry.since = now
            entry.calls.append(call)
            return None
        if not again and number in self._seen:
            return Status.PUSHED
        if len(self._entries) >= MAX_HELD:
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
        """The first number that is held back. It may be sent once the store has no delivery before it."""
        return self._held[0] if self._held else None

    def release(self, number: int) -> None:
        """Make ready all that is held back up to this number, as no earlier notification arrives any more.

        If the number itself is not held back any more, it has to arrive again before its successor is sent.
        """
        at = bisect_right(self._held, number)
        released = self._held[:at]
        self._ready.extend(self._entries[each] for each in released)
        del self._held[:at]
        last = number if number in released else number - 1
        if self._last is None or last > self._last:
            self._advance(last)

    def _advance(self, number: int) -> None:
        """Make ready the held notifications that follow ``number`` without a gap."""
        at = bisect_left(self._held, number)
        while at < len(self._held) and self._held[at] == number + 1:
            number += 1
            self._ready.append(self._entries[self._held.pop(at)])
        self._last = number

    # -- sending -----------------------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def take(self, most_bytes: int) -> list[Entry[Call]]:
        """Return the notifications to send now, in order; none during a send. Call ``sent`` or ``fail`` afterwards."""
        if self._sending:
            return []
        size = 0
        while self._ready and (not size or size + len(self._ready[0].text) <= most_bytes):
            entry = self._ready.popleft()
            size += len(entry.text)
            self._sending.append(entry)
        return list(self._sending)

    def sent(self) -> list[Call]:
        """The taken notifications were sent; return their calls."""
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
        """The taken notifications were not sent: they and all others have to arrive again; return their calls."""
        dropped = list(self._entries.values())
        self._entries.clear()
        self._held.clear()
        self._ready.clear()
        self._sending.clear()
        self._last = self._last_sent
        self.size = 0
        return [call for entry in dropped for call in entry.calls]

    def expire(self, before: float) -> list[Call]:
        """Return the calls that have waited since before that time. Notifications held back so long are dropped."""
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
