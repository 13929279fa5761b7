# SPDX-License-Identifier: Apache-2.0
"""A replica set of three for these tests alone, as some of them kill it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import mongod
from tests.conformance.scene import Scene
from tests.mongod import Members
from zaqar.storage.mongodb.messages import MongoMessageStore


@pytest.fixture(scope="session")
def binary() -> str:
    found = mongod.find_mongod()
    if found is None:
        assert os.environ.get("CI") != "true", "mongod is missing"
        pytest.skip("no mongod")
    return found


@pytest.fixture(scope="session")
def members(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with mongod.running(tmp_path_factory.mktemp("mongodb"), mongod=binary) as members:
        yield members


@pytest.fixture
def store(members: Members) -> Iterator[MongoMessageStore]:
    members.primary()
    store = MongoMessageStore.from_settings({"uri": members.uri, "database": "unit"})
    yield store
    store.close()


@pytest.fixture
def scene(store: MongoMessageStore) -> Scene:
    return Scene(store)
