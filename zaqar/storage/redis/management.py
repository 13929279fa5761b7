# SPDX-License-Identifier: Apache-2.0
"""The management store on Redis. It makes the client and has the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from zaqar.storage.base import ManagementStore
from zaqar.storage.redis.catalog import RedisCatalog
from zaqar.storage.redis.client import durability
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.nodes import RedisNodes
from zaqar.storage.redis.queue_records import RedisQueueRecords
from zaqar.storage.redis.subscriptions import RedisSubscriptions
from zaqar.storage.redis.trusts import RedisTrusts


class RedisManagementStore(ManagementStore):
    """The control plane on Redis 6.2 or newer."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self.queue_records = RedisQueueRecords(client)
        self.subscriptions = RedisSubscriptions(client)
        self.catalog = RedisCatalog(client)
        self.trusts = RedisTrusts(client)
        self.nodes = RedisNodes(client)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        client = RedisClient.from_settings(settings)
        durability.check_at_start(client)
        return cls(client)

    def ping(self) -> None:
        self._client.ping()

    def close(self) -> None:
        self._client.close()
