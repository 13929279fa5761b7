# SPDX-License-Identifier: Apache-2.0
"""Stores on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import servers
from zaqar.storage.redis.store import RedisMessageStore

OpenStore = Callable[..., RedisMessageStore]


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """A store at a URI, with more settings; closed after the test."""
    opened: list[RedisMessageStore] = []

    def open_one(uri: str, **settings: Any) -> RedisMessageStore:
        opened.append(RedisMessageStore.from_settings({"uri": uri, **settings}))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def own_redis() -> Iterator[servers.Redis]:
    """A server that the test may kill."""
    server = servers.own(servers.Redis)
    yield server
    server.stop()
