# SPDX-License-Identifier: Apache-2.0
"""The message store on Redis: one server, Sentinel or a Cluster. It makes the core and has the parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from zaqar.model import Swept, Volume
from zaqar.storage.base import MessageStore, Wakeups
from zaqar.storage.redis.claims import RedisClaims
from zaqar.storage.redis.client import durability
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.wakeups import NotSupported
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.dead_letters import RedisDeadLetters
from zaqar.storage.redis.deliveries import RedisDeliveries
from zaqar.storage.redis.delivery_log import RedisDeliveryLog
from zaqar.storage.redis.messages import RedisMessages
from zaqar.storage.redis.outbox import RedisOutbox
from zaqar.storage.redis.queues import RedisQueues
from zaqar.storage.redis.sealed_bodies import RedisSealedBodies
from zaqar.storage.redis.sweep import RedisSweep

CHANNEL: Final = b"zaqar:wakeups"
"""The one channel for all queues; ``scripts/pieces/wake_clients.lua`` names it as well."""

_log = logging.getLogger(__name__)


class RedisMessageStore(MessageStore):
    """The data plane on Redis 6.2 or newer."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"})

    def __init__(self, client: RedisClient) -> None:
        self._core = core = RedisCore(client)
        self.queues = RedisQueues(core)
        self.messages = RedisMessages(core)
        self.dead_letters = RedisDeadLetters(core)
        self.claims = RedisClaims(core, self.dead_letters)
        self.outbox = RedisOutbox(core)
        self.deliveries = RedisDeliveries(core)
        self.delivery_log = RedisDeliveryLog(core)
        self.sealed_bodies = RedisSealedBodies(core)
        self._sweep = RedisSweep(core)
        self._warned_about_wakeups = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        client = RedisClient.from_settings(settings)
        durability.check_at_start(client)
        return cls(client)

    def volume(self, *, now: float) -> Volume:
        return self._sweep.volume(now)

    def sweep(self, *, now: float, limit: int) -> Swept:
        return self._sweep.sweep(now, limit)

    def wakeups(self) -> Wakeups | None:
        client = self._core.client
        try:
            return client.subscribe(CHANNEL)
        except NotSupported as exc:
            if not self._warned_about_wakeups:
                self._warned_about_wakeups = True
                _log.warning(
                    "Redis at %s does not let this user subscribe, so clients that wait learn of messages that other"
                    " processes store up to a second later: %s.",
                    client.address,
                    exc,
                )
            return None

    def connections(self) -> Mapping[str, int]:
        """The connections of the pool; in a Cluster those to all nodes, with the limit for all masters that are known.

        The connection that waits for wake-ups is in no pool, and does not count.
        """
        used, idle, most = self._core.client.connections()
        return {"used": used, "idle": idle, "max": most}

    def durability(self) -> Mapping[str, str]:
        return durability.report(self._core.client)

    def ping(self) -> None:
        self._core.client.ping()

    def close(self) -> None:
        self._core.client.close()
