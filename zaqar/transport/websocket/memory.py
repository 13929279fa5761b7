# SPDX-License-Identifier: Apache-2.0
"""How many bytes all connections may hold in memory, and how many of them one project.

Three such pools exist, so that nothing that waits for one holds what another one waits for:

- for messages that have come in part: a connection that has sent more than a little of one is read from on only if
  there is room for all of it;
- for large requests as they are once they are decoded: they are decoded if there is room;
- for replies that clients have not read yet: the next request is carried out when they are not too much.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

STRANGERS = ""
"""As a project: all connections of which nobody knows the project yet."""

_SHARE = 4
"""One project has at most one part of so many."""


@dataclass(slots=True, eq=False)
class _Waiter:
    account: Account
    size: int
    granted: Callable[[], None]


class Memory:
    """The three pools of a process, a third of the size each."""

    def __init__(self, size: int) -> None:
        self.incoming = Pool(size // 3)
        self.requests = Pool(size // 3)
        self.replies = Pool(size // 3)

    def resize(self, size: int) -> None:
        """Have this size from now on; more than that may be held for a while."""
        for pool in (self.incoming, self.requests, self.replies):
            pool.size = size // 3


class Pool:
    """Room for bytes. For the event loop only.

    A project may hold a quarter. The last quarter is for projects that hold nothing, so three greedy ones stop nobody
    else. If nothing is held at all, there is room for one message of any size.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        """Bytes that are held."""
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, OrderedDict[_Waiter, None]] = OrderedDict()
        self._droppable: dict[Account, Callable[[], None]] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether a connection waits for room."""
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
        """Give what has become free to those who wait, to projects in turn."""
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
                    # Later, as it may lead to other calls of this pool.
                    asyncio.get_running_loop().call_soon(waiter.granted)
                    granted = True

    def _make_room(self, waiting: Account) -> None:
        """Drop connections that hold what clients do not read, if this one should not have to wait for that.

        Those of its own project that are only kept for their clients to learn why they were closed; and if the pool is
        more than full, although the project holds nothing, the largest of projects that have more than their share.
        """
        excess = 0 if self._held[waiting.project] else self.total - self.size
        for account in sorted(self._droppable, key=lambda each: each.held, reverse=True):
            is_greedy = excess > 0 and self._held[account.project] > self.size // _SHARE
            if is_greedy or (account.is_spare and account.project == waiting.project):
                excess -= account.held
                self._droppable.pop(account)()


class Account:
    """What one connection holds of a pool, and waits for."""

    def __init__(self, pool: Pool) -> None:
        self.project = STRANGERS
        self.held = 0
        self.is_spare = False
        """Whether the connection is closed, and only kept for its client to learn why."""
        self.waiter: _Waiter | None = None
        self._pool = pool

    def take(self, size: int, granted: Callable[[], None]) -> bool:
        """Take room if there is some. False if there is none now: ``granted`` is called once it has been taken."""
        if self._try(size):
            return True
        self.waiter = _Waiter(self, size, granted)
        self._pool._wait(self.waiter)
        return False

    def _try(self, size: int) -> bool:
        pool = self._pool
        # Nobody overtakes another one of his project.
        if self.project in pool._waiting or not pool._has_room(self.project, size):
            return False
        if size:
            pool._change(self, size)
        return True

    async def wait(self, size: int) -> None:
        """Take room as soon as there is some."""
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
        """Hold more than was taken: it is there already. ``drop`` is called if it has to make room for others."""
        self._pool._change(self, size)
        self._pool._droppable[self] = drop

    def give_back(self) -> None:
        """Hold nothing any more, and wait for nothing."""
        if self.waiter is not None:
            self._pool._give_up(self.waiter)
            self.waiter = None
        self._pool._droppable.pop(self, None)
        if self.held:
            self._pool._change(self, -self.held)
        if self._pool.has_waiting:
            self._pool._grant()

    def enter(self, project: str) -> None:
        """Be a connection of this project from now on."""
        held, waiter = self.held, self.waiter
        if waiter is not None:
            self._pool._give_up(waiter)
        self._pool._change(self, -held)
        self.project = project
        self._pool._change(self, held)
        if waiter is not None:
            self._pool._wait(waiter)
        self._pool._grant()
