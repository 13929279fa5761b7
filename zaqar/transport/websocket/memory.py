# SPDX-License-Identifier: Apache-2.0
"""Limits the memory that all connections together, and the connections of one project, may hold.

There are three pools. They are separate, so that no connection holds memory of one pool while it waits for the same
memory:

- incoming: messages that have arrived in part. After the first 16 KiB of a message, the server reads more of it only if
  the pool has room for a message of the largest size;
- requests: large requests in their decoded form. They are decoded if the pool has room;
- replies: replies that clients have not read. The next request of a connection waits while they are too large.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

UNKNOWN_PROJECT = ""
"""The project of all connections whose project is not known yet."""

_SHARE = 4
"""One project may hold one part in this many of a pool."""


@dataclass(slots=True, eq=False)
class _Waiter:
    account: Account
    size: int
    granted: Callable[[], None]


class Memory:
    """The three pools of a process. Each has a third of ``size``, which is in bytes."""

    def __init__(self, size: int) -> None:
        self.incoming = Pool(size // 3)
        self.requests = Pool(size // 3)
        self.replies = Pool(size // 3)

    def resize(self, size: int) -> None:
        """Change the size. If more is held, that stays until it is given back."""
        for pool in (self.incoming, self.requests, self.replies):
            pool.size = size // 3


class Pool:
    """A number of bytes that connections may hold. For the event loop only.

    A project may hold a quarter. The last quarter is reserved for projects that hold nothing, so three projects that
    use their whole share do not stop others. If nothing is held at all, one message of any size is admitted.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        """Bytes that all connections hold."""
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, OrderedDict[_Waiter, None]] = OrderedDict()
        self._droppable: dict[Account, Callable[[], None]] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether a connection is waiting for bytes of this pool."""
        return bool(self._waiting)

    def held(self, project: str) -> int:
        """Bytes that connections of the project hold."""
        return self._held[project]

    def _has_room(self, project: str, size: int) -> bool:
        held = self._held[project]
        if not held:
            return not self.total or self.total + size <= self.size
        return held + size <= self.size // _SHARE and self.total + size <= self.size * (_SHARE - 1) // _SHARE

    def _change(self, account: Account, size: int) -> None:
        account.held += size
        self.total += size
        self._held[account.project] += size
        if not self._held[account.project]:
            del self._held[account.project]

    def _wait(self, waiter: _Waiter) -> None:
        self._waiting.setdefault(waiter.account.project, OrderedDict())[waiter] = None
        self._make_room(waiter.account)

    def _give_up(self, waiter: _Waiter) -> None:
        waiters = self._waiting[waiter.account.project]
        del waiters[waiter]
        if not waiters:
            del self._waiting[waiter.account.project]

    def _grant(self) -> None:
        """Give free bytes to waiting connections, to the projects in turn."""
        granted = True
        while granted:
            granted = False
            for project in list(self._waiting):
                if self.total > self.size:
                    return
                waiter = next(iter(self._waiting[project]))
                if self._has_room(project, waiter.size):
                    self._give_up(waiter)
                    if project in self._waiting:
                        self._waiting.move_to_end(project)
                    self._change(waiter.account, waiter.size)
                    waiter.account.waiter = None
                    # Call it in the next turn of the event loop, because it may call this pool again.
                    asyncio.get_running_loop().call_soon(waiter.granted)
                    granted = True

    def _make_room(self, waiting: Account) -> None:
        """Drop connections with unread replies, if the waiting connection should not have to wait for them.

        Drops the connections of the same project that are closed and only kept so that their clients can read the close
        code. If the pool is more than full and the project holds nothing, also drops the largest connections of
        projects that hold more than their share.
        """
        excess = 0 if self._held[waiting.project] else self.total - self.size
        for account in sorted(self._droppable, key=lambda each: each.held, reverse=True):
            is_greedy = excess > 0 and self._held[account.project] > self.size // _SHARE
            if is_greedy or (account.is_spare and account.project == waiting.project):
                excess -= account.held
                self._droppable.pop(account)()


class Account:
    """The bytes of a pool that one connection holds, and its request for more."""

    def __init__(self, pool: Pool) -> None:
        self.project = UNKNOWN_PROJECT
        self.held = 0
        self.is_spare = False
        """Whether the connection is closed, and only kept so that its client can read the close code."""
        self.waiter: _Waiter | None = None
        self._pool = pool

    def take(self, size: int, granted: Callable[[], None]) -> bool:
        """Take bytes, and return True, if the pool has room. Otherwise wait; ``granted`` is called then."""
        if self._try(size):
            return True
        self.waiter = _Waiter(self, size, granted)
        self._pool._wait(self.waiter)
        return False

    def _try(self, size: int) -> bool:
        pool = self._pool
        # No connection overtakes a waiting one of the same project.
        if self.project in pool._waiting or not pool._has_room(self.project, size):
            return False
        if size:
            pool._change(self, size)
        return True

    async def wait(self, size: int) -> None:
        """Take bytes as soon as the pool has room."""
        if self._try(size):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go_on() -> None:
            if not done.done():
                done.set_result(None)

        if not self.take(size, go_on):
            try:
                await done
            except asyncio.CancelledError:
                self.give_back()
                raise

    def add(self, size: int, drop: Callable[[], None]) -> None:
        """Hold more bytes without waiting, as they exist already. ``drop`` is called if others need them."""
        self._pool._change(self, size)
        self._pool._droppable[self] = drop

    def give_back(self) -> None:
        """Give all bytes back, and stop waiting."""
        if self.waiter is not None:
            self._pool._give_up(self.waiter)
            self.waiter = None
        self._pool._droppable.pop(self, None)
        if self.held:
            self._pool._change(self, -self.held)
        if self._pool.has_waiting:
            self._pool._grant()

    def enter(self, project: str) -> None:
        """Count for this project from now on."""
        held, waiter = self.held, self.waiter
        if waiter is not None:
            self._pool._give_up(waiter)
        self._pool._change(self, -held)
        self.project = project
        self._pool._change(self, held)
        if waiter is not None:
            self._pool._wait(waiter)
        self._pool._grant()
