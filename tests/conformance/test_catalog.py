# SPDX-License-Identifier: Apache-2.0
"""Part ``catalog``: pools and flavors are one record, which is changed by comparing its version."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.conformance.queue_client import at_once, new_queue
from tests.conformance.test_queue_records import METADATA
from zaqar.model import Catalog, Pool
from zaqar.storage.base import ManagementStore


@pytest.fixture(autouse=True)
def tidy(management: ManagementStore) -> Iterator[None]:
    """The catalog is one for the whole store: leave none behind."""
    yield
    change(management, pools=(), flavors=())


def change(management: ManagementStore, **changes: Any) -> Catalog:
    """Put another catalog in place of the one that is there."""
    old = management.catalog.get()
    new = replace(old, version=old.version + 1, **changes)
    assert management.catalog.replace(catalog=new)
    return new


@pytest.mark.parametrize("options", METADATA.values(), ids=METADATA.keys())
def test_a_catalog_comes_back_as_it_was_written(management: ManagementStore, options: dict[str, Any]) -> None:
    pools = (
        Pool("fast", "redis://:s%40cret@127.0.0.1:6379/?dbid=1", 2**32 - 1, options, "gold"),
        Pool("slow", "sqlite:////var/lib/zaqar/na\u00efve.db", 0),
    )
    written = change(management, pools=pools, flavors=("gold", "empty"))
    assert management.catalog.get() == written


def test_a_change_of_an_old_version_is_refused(management: ManagementStore) -> None:
    first = change(management, flavors=("a",))
    second = change(management, flavors=("b",))
    for version in (0, first.version, second.version, second.version + 2):
        assert not management.catalog.replace(catalog=replace(second, version=version, flavors=("c",)))
    assert management.catalog.get() == second


def test_of_concurrent_changes_exactly_one_succeeds(management: ManagementStore) -> None:
    old = change(management, flavors=())
    won: list[str] = []

    def write(name: str) -> None:
        if management.catalog.replace(catalog=replace(old, version=old.version + 1, flavors=(name,))):
            won.append(name)

    at_once(*(partial(write, f"f{n}") for n in range(8)))
    assert len(won) == 1
    assert management.catalog.get().flavors == tuple(won)


def test_any_on_pool_is_true_while_queues_are_placed_on_the_pool(management: ManagementStore) -> None:
    pool, other = f"pool-{secrets.token_hex(4)}", f"pool-{secrets.token_hex(4)}"
    first = management.queue_records.create(queue=replace(new_queue(project=secrets.token_hex(4)), pool=pool))
    second = management.queue_records.create(queue=replace(new_queue(project=secrets.token_hex(4)), pool=pool))
    assert management.queue_records.any_on_pool(pool=pool)
    assert not management.queue_records.any_on_pool(pool=other)
    management.queue_records.delete(queue=first)
    assert management.queue_records.any_on_pool(pool=pool)
    assert management.queue_records.replace(queue=replace(second, pool=other, generation=second.generation + 1))
    assert not management.queue_records.any_on_pool(pool=pool)
    assert management.queue_records.any_on_pool(pool=other)
    management.queue_records.delete(queue=second)
    assert not management.queue_records.any_on_pool(pool=other)
