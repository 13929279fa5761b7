# SPDX-License-Identifier: Apache-2.0
"""How far queues are that clients wait for, and how the processes in which they wait are woken.

Asking for the position of a queue leaves a note with the queue that somebody waits. While it is fresh, scripts that
make messages available publish the uid of the queue. Without such a note they publish nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from zaqar.model import QueuePosition
from zaqar.storage.base import Wakeups
from zaqar.storage.redis.keys import slot_of
from zaqar.storage.redis.scripts import load
from zaqar.storage.redis.sealed import SealedBodyStore
from zaqar.storage.redis.wakeups import NotSupported
from zaqar.storage.redis.wire import Word

# A note that is lost in a fail-over is written again within seconds, so it does not wait for replicas.
_POSITION = load("position", again=True, writes=False)

CHANNEL: Final = b"zaqar:wakeups"
"""The one channel; ``scripts/wake.lua`` names it as well."""

WAITED_SECONDS = 5.0
"""How long a queue counts as waited for after somebody asked for its position."""

_RENEWED_BELOW = 3.0
"""A note that holds for longer is left as it is, because writing one is a write to the append-only file."""

_log = logging.getLogger(__name__)


class PositionStore(SealedBodyStore):
    """The part of the message store that is about queues that clients wait for."""

    _is_told = False
    """Whether the log says that the server lets nobody subscribe."""

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        runs: list[tuple[int, tuple[Word, ...]]] = []
        for uid in uids:
            keys = self._keys.of(uid)
            slot = slot_of(uid.encode()) if self._redis.is_cluster else 0
            runs.append((slot, (len(keys), *keys, b"", now, now + WAITED_SECONDS, now + _RENEWED_BELOW)))
        found = {}
        for uid, reply in zip(uids, self._redis.run_in_each(_POSITION, runs), strict=True):
            if reply is not None:
                last, is_free, next_due = reply
                found[uid] = QueuePosition(int(last), bool(is_free), None if next_due is None else float(next_due))
        return found

    def wakeups(self) -> Wakeups | None:
        try:
            return self._redis.subscribe(CHANNEL)
        except NotSupported as exc:
            if not self._is_told:
                self._is_told = True
                _log.warning(
                    "Redis at %s does not let this user subscribe, so clients that wait learn of messages that other"
                    " processes store up to a second later: %s.",
                    self._redis.address,
                    exc,
                )
            return None
