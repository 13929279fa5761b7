# SPDX-License-Identifier: Apache-2.0
"""Writes what became of deliveries, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from zaqar.errors import StoreUnavailable
from zaqar.model import Delivery

_log = logging.getLogger(__name__)

BATCH = 500

AGAIN_SECONDS = 1.0
"""Pause after the store did not answer."""

T = TypeVar("T")


class Settler(Generic[T]):
    """Group commit for one store: while one batch is written, whatever becomes known makes up the next one.

    No timer: a single outcome is written at once. What cannot be written is written when the store is back; it may be
    somebody else's by then, which the store finds by the owner. ``written`` is called for each that was written, with
    what came with it; ``failed`` for those of a batch each time that it was not.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Delivery]], Awaitable[None]],
        *,
        written: Callable[[Delivery, T], None],
        failed: Callable[[Sequence[T]], None],
    ) -> None:
        self._write = write
        self._written = written
        self._failed = failed
        self._waiting: list[tuple[Delivery, T]] = []
        self._writing: asyncio.Task[None] | None = None
        self.stuck = False
        """The store did not answer the last time, so that nothing more should be taken from it."""

    def add(self, settled: Delivery, of: T) -> None:
        """Have it written soon."""
        self._waiting.append((settled, of))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())

    @property
    def idle(self) -> bool:
        return self._writing is None

    async def finish(self) -> None:
        """Return when all is written; whoever cannot wait so long cancels."""
        while self._writing is not None:
            await asyncio.shield(self._writing)

    def close(self) -> None:
        """Give up what could not be written; the leases of those deliveries end by themselves."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:BATCH]
                try:
                    await self._write([settled for settled, _ in batch])
                except StoreUnavailable:
                    self.stuck = True
                    self._failed([of for _, of in batch])
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                except Exception:  # noqa: BLE001, it is logged
                    # Tried again it would fail again, for ever. Their leases end, and they are sent once more.
                    _log.error("What became of %d deliveries cannot be written.", len(batch), exc_info=True)
                self.stuck = False
                del self._waiting[: len(batch)]
                for settled, of in batch:
                    self._written(settled, of)
        finally:
            self._writing = None
