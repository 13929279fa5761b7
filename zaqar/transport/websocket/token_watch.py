# SPDX-License-Identifier: Apache-2.0
"""The timers of a connection, and the watch that closes it when its token has expired or was revoked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from zaqar.errors import StoreUnavailable
from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.admission import Slot
from zaqar.transport.websocket.interface import Session
from zaqar.transport.websocket.server_context import ServerContext

_MAX_TIMER_SECONDS = 86_400.0
"""Longest timer. The event loop refuses timers of more than some weeks, and a token may be valid for longer."""


class Timers:
    """The timers of one connection, by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self.cancel(name)
        self._timers[name] = self._loop.call_later(min(seconds, _MAX_TIMER_SECONDS), call)

    def cancel(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def cancel_all(self) -> None:
        for timer in self._timers.values():
            timer.cancel()


class TokenWatch:
    """Watches the token of one connection."""

    def __init__(
        self,
        session: Session,
        timers: Timers,
        slot: Slot,
        *,
        server: Callable[[], ServerContext],
        start: Callable[[Coroutine[Any, Any, None]], None],
        close: Callable[[int, str], None],
    ) -> None:
        """``slot`` is for questions to Keystone. ``start`` starts a task that ends with the connection."""
        self._session = session
        self._timers = timers
        self._slot = slot
        self._server = server
        self._start = start
        self._close = close
        self._armed_for: float | None = None

    def look(self) -> None:
        """Watch the present token of the session. Called after each reply, because the token may have changed."""
        expires = self._session.expires
        if expires == self._armed_for:
            return
        self._armed_for = expires
        for name in ("expiry", "revalidation"):
            self._timers.cancel(name)
        if expires is not None:
            self._look_at_expiry()
            self._plan_revalidation()

    def _look_at_expiry(self) -> None:
        expires = self._session.expires
        left = float("inf") if expires is None else expires - self._server().clock()
        if left > 0:
            self._timers.set("expiry", left, self._look_at_expiry)
        else:
            self._close(*close_codes.EXPIRED)

    def _plan_revalidation(self) -> None:
        # A random interval, because many clients may have authenticated at the same moment.
        seconds = self._server().revalidation_seconds * random.uniform(1.0, 1.1)  # noqa: S311, no secret
        self._timers.set("revalidation", seconds, lambda: self._start(self._revalidate()))

    async def _revalidate(self) -> None:
        # Do not hold the turn to send, so that requests and notifications do not wait for Keystone.
        identity = self._session.identity
        is_valid = True
        # If Keystone does not answer, the token counts as valid until it does or until the token expires.
        with suppress(StoreUnavailable):
            is_valid = await self._server().admission.run(self._slot, self._session.revalidate)
        # A newer token may have replaced this one meanwhile.
        if is_valid or self._session.identity is not identity:
            self._plan_revalidation()
        else:
            self._close(*close_codes.EXPIRED)
