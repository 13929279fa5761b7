# SPDX-License-Identifier: Apache-2.0
"""Shares the time of the event loop out, so that floods of tiny frames on many connections hold up only each other.

Taking frames apart and reading requests is done on the event loop. As long as that takes little it is done at once. If
it has taken some milliseconds in one turn of the loop, what is left waits, and is done project by project in turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

HANDSHAKES = "\0"
"""As a project: all connections that are not open yet."""

TURN_SECONDS = 0.005
"""How long work may go on in one turn of the event loop."""

_STEP_SECONDS = 0.0005
"""What the work of a waiting task is taken to last, as it is done later in the same turn."""


class LoopTime:
    """For the event loop only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = 0.0
        """When the time of the turn is used up."""
        self._is_planned = False
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def is_left(self) -> bool:
        """Whether there is time at the moment, which nobody waits for."""
        if self._waiting:
            return False
        now = self._loop.time()
        if now < self._end:
            return True
        if now < self._end + TURN_SECONDS:
            # Whether the loop has done something else since then is not known, so that has its turn now.
            return False
        self._end = now + TURN_SECONDS
        return True

    def call(self, project: str, work: Callable[[], None]) -> None:
        """Do a piece of work when it is the project's turn."""
        self._waiting.setdefault(project, deque()).append(work)
        self._plan()

    async def wait(self, project: str) -> None:
        """Return when there is time for a piece of work."""
        if self.is_left():
            return
        done: asyncio.Future[None] = self._loop.create_future()

        def begin() -> None:
            if not done.done():
                self._end -= _STEP_SECONDS
                done.set_result(None)

        self.call(project, begin)
        await done

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Do what waits, in the next turn of the event loop and for as long as there is time in it."""
        self._is_planned = False
        self._end = self._loop.time() + TURN_SECONDS
        while self._waiting and self._loop.time() < self._end:
            project, work = next(iter(self._waiting.items()))
            piece = work.popleft()
            if work:
                self._waiting.move_to_end(project)
            else:
                del self._waiting[project]
            piece()
        if self._waiting:
            self._plan()
