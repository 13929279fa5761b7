# SPDX-License-Identifier: Apache-2.0
"""Divides the time of the event loop among projects, so that a flood of tiny frames delays only its own project.

Parsing frames and decoding small requests runs on the event loop. It is done at once if it is short. After some
milliseconds in one turn of the loop, the rest waits for the next turn, and is done for the projects in turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

HANDSHAKES = "\0"
"""The project of all connections that are not open yet."""

TURN_SECONDS = 0.005
"""Time for this work in one turn of the event loop."""

_STEP_SECONDS = 0.0005
"""Assumed duration of the work of a task that waited, because it runs later in the same turn and is not measured."""


class LoopTime:
    """The time of one event loop. Use it on that loop only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_begun = False
        self._end = 0.0
        """The time at which the work of this turn must stop, if the turn has begun."""
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def is_left(self) -> bool:
        """Whether work may be done now: this turn has time left, and no other work is waiting for it."""
        if self._waiting:
            return False
        if not self._is_begun:
            self._begin()
            return True
        return self._loop.time() < self._end

    def call(self, project: str, work: Callable[[], None]) -> None:
        """Call ``work`` when it is the turn of the project. It should take well under a millisecond."""
        self._waiting.setdefault(project, deque()).append(work)

    async def wait(self, project: str) -> None:
        """Return when it is the turn of the project to do a short piece of work."""
        if self.is_left():
            return
        done: asyncio.Future[None] = self._loop.create_future()

        def begin() -> None:
            if not done.done():
                self._end -= _STEP_SECONDS
                done.set_result(None)

        self.call(project, begin)
        await done

    def _begin(self) -> None:
        self._is_begun = True
        self._end = self._loop.time() + TURN_SECONDS
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Called at the beginning of the next turn: do waiting work until the time is used up."""
        self._is_begun = False
        if not self._waiting:
            return
        self._begin()
        while self._waiting and self._loop.time() < self._end:
            project, work = next(iter(self._waiting.items()))
            piece = work.popleft()
            if work:
                self._waiting.move_to_end(project)
            else:
                del self._waiting[project]
            piece()
