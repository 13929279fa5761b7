# SPDX-License-Identifier: Apache-2.0
"""How many statements SQLite runs for an operation, and how many steps they take, do not depend on sizes."""

from __future__ import annotations

import pytest

from tests.conformance.scene import Scene
from tests.conformance.sqlalchemy.tracing import commits_of, steps_of, traced, work_of
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.store import SqlMessageStore


@pytest.mark.parametrize("end", ["purge", "drop"])
def test_a_purge_and_a_drop_take_the_same_statements_at_any_size(
    database: Database, store: SqlMessageStore, end: str
) -> None:
    needed = []
    for size in (1, 100, 3000):
        scene = Scene(store)
        scene.post(*["x"] * size)
        scene.claim(size // 2)
        with traced(database) as seen:
            getattr(scene, end)()
        done = seen.index("COMMIT")
        needed.append(len(seen[:done]))
        assert not any("messages" in statement for statement in work_of(seen[:done]))
        assert commits_of(seen) <= 5
    assert len(set(needed)) == 1


def test_a_read_in_the_steady_state_writes_nothing(database: Database, scene: Scene) -> None:
    scene.post("a", "b", "c", ttl=600)
    scene.post("late", delay=600)
    scene.claim(1)
    scene.post("old", ttl=60)
    scene.clock.advance(60)
    scene.listing()
    with traced(database) as seen:
        scene.listing()
        scene.list_everything()
        scene.get(1, 2)
        scene.stats()
        scene.volume()
    assert commits_of(seen) == 0
    assert len(work_of(seen)) == 2 + 2 + 2 + 4 + 1


def test_positions_are_one_statement_that_takes_as_many_steps_at_any_size(
    database: Database, store: SqlMessageStore
) -> None:
    """Whatever is free, claimed, delayed, or has expired and is not removed yet."""
    steps = []
    for size in (300, 3000):
        scenes = [Scene(store) for _ in range(5)]
        for scene in scenes[:2]:
            scene.post(*["x"] * size)
        scenes[1].claim(size, ttl=600)
        scenes[2].post(*["x"] * size, delay=900)
        scenes[3].post(*["x"] * size, ttl=60)
        scenes[4].post(*["x"] * size, ttl=60, delay=30)
        uids = [scene.queue.uid for scene in scenes]
        with traced(database) as seen:
            store.queues.positions(uids=uids, now=scenes[0].now + 60)
        assert (len(work_of(seen)), commits_of(seen)) == (1, 0)
        steps.append(steps_of(database, lambda uids=uids: store.queues.positions(uids=uids, now=Scene(store).now + 60)))
    few, many = steps
    assert many <= few * 1.02


def test_a_claim_that_finds_nothing_changes_nothing(database: Database, scene: Scene) -> None:
    with traced(database) as seen:
        scene.claim()
    assert not any(statement.startswith("INSERT") for statement in seen)
    assert len(work_of(seen)) == 2
