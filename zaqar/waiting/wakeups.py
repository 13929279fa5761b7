# SPDX-License-Identifier: Apache-2.0
"""Wake-ups from elsewhere: datagrams of other processes of this host, and channels of stores."""

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
"""Not the one of the module, whose sequence programs may have fixed."""

SPREAD_SECONDS = 0.003
"""Takers of several processes that are woken at the same time try within this time, in random order.

So one of them often finds that another one has taken everything, before it has begun, and no two meet in the store.
"""

MANY = 10
"""Datagrams that Linux keeps for a socket at least (``net.unix.max_dgram_qlen``). After so many, some may be lost."""

NO_CHANNEL_SECONDS = 60.0
"""When a store that has no channel is asked for one again: a pool may have got another store."""

_DATAGRAM = re.compile(rb"([0-7])([0-9a-f]{24})([0-9a-f]{12})([0-9a-f]{16})")


class Told(NamedTuple):
    """What a datagram says: something has happened to the queue with this uid, whose name has this digest.

    Without ``wake``: messages may have become free, and the store is to be asked. ``last`` is the number of the newest
    message, 0 if it is not known.
    """

    wake: Wake
    uid: str
    last: int
    digest: str

    def encode(self) -> bytes:
        return b"%d%s%012x%s" % (self.wake.value, self.uid.encode(), self.last, self.digest.encode())

    @classmethod
    def decode(cls, datagram: bytes) -> Self | None:
        """None if it is no such datagram, such as one of another version of this program."""
        found = _DATAGRAM.fullmatch(datagram)
        if found is None:
            return None
        wake, uid, last, digest = found.groups()
        return cls(Wake(int(wake)), uid.decode(), int(last, 16), digest.decode())


class Spread:
    """Takers that are to be woken in a moment."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self._at = 0.0

    def add(self, told: Told) -> None:
        if not self._told:
            self._at = time.monotonic() + _random.uniform(0.0, SPREAD_SECONDS)
        self._told[told.uid] = told

    def seconds(self, most: float) -> float:
        """Until they are due, if there are any; ``most`` at most."""
        return min(most, max(0.0, self._at - time.monotonic())) if self._told else most

    def take_due(self) -> list[Told]:
        if not self._told or time.monotonic() < self._at:
            return []
        due, self._told = list(self._told.values()), {}
        return due


class HostListener(Job):
    """Receives datagrams of other processes of this host."""

    name = "waiting for processes"

    def __init__(
        self,
        registry: Registry,
        *,
        bind: Callable[[], WakeupSocket | None],
        hear: Callable[[Told], None],
        look_at_all: Callable[[], None],
        tidy: Callable[[], None],
    ) -> None:
        """``bind`` makes the socket; None if it cannot be made now.

        ``look_at_all`` is called if datagrams may have been lost, ``tidy`` once a second at least.
        """
        super().__init__()
        self._bind = bind
        self._registry = registry
        self._hear = hear
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
            told = Told.decode(datagram)
            if told is not None and self._registry.is_waited_by_digest(told.digest):
                self._note(told)
        for told in self._spread.take_due():
            self._hear(told)
        if count >= MANY:
            self._look_at_all()
        return 0.0

    def _note(self, told: Told) -> None:
        if Wake.TAKERS not in told.wake:
            self._hear(told)
            return
        if told.wake != Wake.TAKERS:
            self._hear(told._replace(wake=told.wake & ~Wake.TAKERS))
        self._spread.add(told._replace(wake=Wake.TAKERS))

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def abandon(self) -> None:
        """In a child process: the socket is that of the parent, which goes on with it."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.abandon()


class Channel(Job):
    """Receives what a store tells, if it has such a channel."""

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
            self._spread.add(Told(Wake.TAKERS, uid, 0, ""))
        for told in self._spread.take_due():
            self._registry.wake(told.uid, Wake.TAKERS)
        return 0.0

    def close(self) -> None:
        wakeups, self._wakeups = self._wakeups, None
        if wakeups is not None:
            wakeups.close()
