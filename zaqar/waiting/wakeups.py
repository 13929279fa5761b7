# SPDX-License-Identifier: Apache-2.0
"""Receives wake-ups from elsewhere: datagrams of other processes of this host, and channels of stores.

:class:`~zaqar.waiting.hub.Hub` runs the jobs of this module while clients wait.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from zaqar.ipc.wakeup_socket import WakeupSocket
from zaqar.storage.base import Wakeups
from zaqar.storage.pools import StoreRef
from zaqar.waiting.background import Job
from zaqar.waiting.polling import POLL_SECONDS
from zaqar.waiting.registry import Registry
from zaqar.waiting.waiters import Wake

_random = random.Random()  # noqa: S311, no secret
"""Separate from the generator of the module ``random``, which a program may have seeded."""

SPREAD_SECONDS = 0.003
"""Takers of several processes that are woken by the same event make their attempts within this time, in random order.

So their attempts rarely contend in the store: most of them begin after another one has taken the messages.
"""

MANY = 10
"""Datagrams that Linux queues for a socket by default (``net.unix.max_dgram_qlen``). Further ones may be lost."""

NO_CHANNEL_SECONDS = 60.0
"""Pause before a store that has no channel is asked for one again: a pool may have got another store meanwhile."""

_DATAGRAM = re.compile(rb"([0-7])([0-9a-f]{24})([0-9a-f]{12})([0-9a-f]{16})")


class WakeupMessage(NamedTuple):
    """The content of a datagram: the queue with this uid, whose name has this digest, has changed.

    An empty ``wake`` means that messages may have become free and that the receiver has to ask the store. ``last`` is
    the number of the newest message, 0 if it is not known.
    """

    wake: Wake
    uid: str
    last: int
    digest: str

    def encode(self) -> bytes:
        return b"%d%s%012x%s" % (self.wake.value, self.uid.encode(), self.last, self.digest.encode())

    @classmethod
    def decode(cls, datagram: bytes) -> Self | None:
        """The content of a datagram; None if it has another format, such as that of another release."""
        found = _DATAGRAM.fullmatch(datagram)
        if found is None:
            return None
        wake, uid, last, digest = found.groups()
        return cls(Wake(int(wake)), uid.decode(), int(last, 16), digest.decode())


class Spread:
    """Delays wake-ups of takers by a random part of SPREAD_SECONDS. It keeps one wake-up for each queue."""

    def __init__(self) -> None:
        self._messages: dict[str, WakeupMessage] = {}
        self._at = 0.0

    def add(self, message: WakeupMessage) -> None:
        if not self._messages:
            self._at = time.monotonic() + _random.uniform(0.0, SPREAD_SECONDS)
        self._messages[message.uid] = message

    def seconds(self, most: float) -> float:
        """Seconds until the wake-ups are due, at most ``most``; ``most`` if there are none."""
        return min(most, max(0.0, self._at - time.monotonic())) if self._messages else most

    def take_due(self) -> list[WakeupMessage]:
        if not self._messages or time.monotonic() < self._at:
            return []
        due, self._messages = list(self._messages.values()), {}
        return due


class HostListener(Job):
    """Receives datagrams of other processes of this host."""

    name = "waiting for processes"

    def __init__(
        self,
        registry: Registry,
        *,
        bind: Callable[[], WakeupSocket | None],
        handle: Callable[[WakeupMessage], None],
        look_at_all: Callable[[], None],
        tidy: Callable[[], None],
    ) -> None:
        """``bind`` makes the socket, or returns None if it cannot be made now.

        ``handle`` is called with each wake-up, ``look_at_all`` if datagrams may have been lost, and ``tidy`` at least
        once a second.
        """
        super().__init__()
        self._bind = bind
        self._registry = registry
        self._handle = handle
        self._look_at_all = look_at_all
        self._tidy = tidy
        self._spread = Spread()
        self._listener: WakeupSocket | None = None

    @property
    def socket_name(self) -> str | None:
        listener = self._listener
        return None if listener is None else listener.name

    def is_needed(self) -> bool:
        return bool(self._registry.waiting)

    def step(self) -> float:
        self._tidy()
        if self._listener is None:
            self._listener = self._bind()
            return 0.0 if self._listener is not None else POLL_SECONDS
        listener, count = self._listener, 0
        seconds = self._spread.seconds(POLL_SECONDS)
        while count < MANY and (datagram := listener.receive(seconds)) is not None:
            seconds = 0.0
            count += 1
            message = WakeupMessage.decode(datagram)
            if message is not None and self._registry.is_waited_by_digest(message.digest):
                self._note(message)
        for message in self._spread.take_due():
            self._handle(message)
        if count >= MANY:
            self._look_at_all()
        return 0.0

    def _note(self, message: WakeupMessage) -> None:
        if Wake.TAKERS not in message.wake:
            self._handle(message)
            return
        if message.wake != Wake.TAKERS:
            self._handle(message._replace(wake=message.wake & ~Wake.TAKERS))
        self._spread.add(message._replace(wake=Wake.TAKERS))

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def abandon(self) -> None:
        """Forget the socket in a child process, without removing its file: the parent still uses it."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.abandon()


class Channel(Job):
    """Receives the wake-ups that a store sends, if it has a channel for them."""

    def __init__(self, store_ref: StoreRef, registry: Registry) -> None:
        super().__init__()
        self.name = "wake-ups of the store" if store_ref.name is None else f"wake-ups of pool {store_ref.name}"
        self._store_ref = store_ref
        self._registry = registry
        self._wakeups: Wakeups | None = None
        self._spread = Spread()

    def is_needed(self) -> bool:
        return self._registry.is_waited_at(self._store_ref)

    def step(self) -> float:
        if self._wakeups is None:
            self._wakeups = self._store_ref.store.wakeups()
            if self._wakeups is None:
                return NO_CHANNEL_SECONDS
        for uid in self._wakeups.receive(self._spread.seconds(POLL_SECONDS)):
            self._registry.wake(uid, Wake.SHOWN)
            self._spread.add(WakeupMessage(Wake.TAKERS, uid, 0, ""))
        for message in self._spread.take_due():
            self._registry.wake(message.uid, Wake.TAKERS)
        return 0.0

    def close(self) -> None:
        wakeups, self._wakeups = self._wakeups, None
        if wakeups is not None:
            wakeups.close()
