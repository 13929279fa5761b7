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
    """The time of one event loop. Use it on that loop only, except ``call_from_thread``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = 0.0
        """The time at which the work of this turn must stop."""
        self._is_planned = False
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._arrived: deque[tuple[str, Callable[[], None]]] = deque()
        self._is_told = False
        """Whether the loop will look at the work that has arrived from threads."""

    def is_left(self) -> bool:
        """Whether work may be done now: this turn has time left, and no other work is waiting for it."""
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
        """Call ``work`` when it is the turn of the project. It should take well under a millisecond."""
        self._waiting.setdefault(project, deque()).append(work)
        self._plan()

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

    def call_from_thread(self, project: str, work: Callable[[], None]) -> None:
        """The same as :meth:`call`, for any thread. It neither blocks nor calls ``work`` itself."""
        self._arrived.append((project, work))
        if not self._is_told:
            # If two threads come here at the same time, the loop is told twice, which does no harm.
            self._is_told = True
            self._loop.call_soon_threadsafe(self._take_arrived)

    def _take_arrived(self) -> None:
        # First, so that a thread that comes after the last look tells the loop again.
        self._is_told = False
        while self._arrived:
            self.call(*self._arrived.popleft())

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Called at the beginning of the next turn: do waiting work until the time is used up."""
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
