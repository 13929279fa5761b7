# SPDX-License-Identifier: Apache-2.0
"""Stores on real replica sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers
from tests.conformance.queue_client import QueueClient
from zaqar.storage.mongodb.store import MongoMessageStore

DATABASE = "own_tests"


@pytest.fixture
def members() -> servers.MongoSet:
    """The replica set of the whole run, which a test must not change or kill."""
    members: servers.MongoSet = servers.shared("mongodb")
    return members


@pytest.fixture
def own_members() -> Iterator[servers.MongoSet]:
    """A replica set that the test may kill."""
    members = servers.own(servers.MongoSet)
    yield members
    members.stop()


@pytest.fixture
def store(members: servers.MongoSet) -> Iterator[MongoMessageStore]:
    store = MongoMessageStore.from_settings({"uri": members.uri, "database": DATABASE})
    yield store
    store.close()


@pytest.fixture
def orders(store: MongoMessageStore) -> QueueClient:
    return QueueClient(store)
