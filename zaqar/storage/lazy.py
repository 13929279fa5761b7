# SPDX-License-Identifier: Apache-2.0
"""A message store that is opened when it is first used, and again when that failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import MessageStore

_log = logging.getLogger(__name__)

REOPEN_SECONDS = 1.0
"""Pause after a vain attempt to open it. In between requests fail at once instead of each waiting for a dead host."""

AWAY_SECONDS = 10.0
"""How long a failure is remembered for those who can go elsewhere."""


class LazyStore:
    """Opens a store once, whichever thread comes first; the others wait for that attempt and share its outcome."""

    def __init__(self, label: str, opener: Callable[[], MessageStore], monotonic: Callable[[], float]) -> None:
        self._label = label
        self._opener = opener
        self._monotonic = monotonic
        self._opening = threading.Lock()
        self._store: MessageStore | None = None
        self._closed = threading.Event()
        self._open_after = float("-inf")
        self._away_until = float("-inf")

    def get(self) -> MessageStore:
        """The open store; StoreUnavailable where it cannot be opened."""
        return self._store or self._open()

    def _open(self) -> MessageStore:
        with self._opening:
            if self._store is not None:
                return self._store
            if self._closed.is_set() or self._monotonic() < self._open_after:
                raise StoreUnavailable
            try:
                self._store = self._opener()
            except (StartupError, StoreUnavailable) as exc:
                _log.warning("%s cannot be opened: %s", self._label, exc, exc_info=True)
                self._open_after = self._monotonic() + REOPEN_SECONDS
                self.note_failure()
                raise StoreUnavailable from exc
            store = self._store
        if self._closed.is_set():
            self._close_store()
            raise StoreUnavailable
        return store

    @property
    def is_open(self) -> bool:
        return self._store is not None

    @property
    def away(self) -> bool:
        """Whether it failed a moment ago."""
        return self._monotonic() < self._away_until

    def note_failure(self) -> None:
        self._away_until = self._monotonic() + AWAY_SECONDS

    def close(self) -> None:
        """Without waiting for whoever is opening it, which may take long: that one closes what it has opened."""
        self._closed.set()
        if self._opening.acquire(blocking=False):
            self._opening.release()
            self._close_store()

    def _close_store(self) -> None:
        with self._opening:
            store, self._store = self._store, None
        if store is not None:
            store.close()
