# SPDX-License-Identifier: Apache-2.0
"""How often a warm operation goes to PostgreSQL and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.scene import Scene

psycopg = pytest.importorskip("psycopg")

MOST = 2


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    driver = DRIVERS["postgresql"]
    store = driver.open_messages(driver.prepare(tmp_path))
    scene = Scene(store)
    yield scene
    scene.drop()
    store.close()


def trips_of(monkeypatch: pytest.MonkeyPatch, operation: Callable[[], object]) -> int:
    """Each wait for an answer is a round trip."""
    from zaqar.storage.sqlalchemy.postgresql_link import Link

    trips = 0
    wait = Link.wait

    def counted(link: Link, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return wait(link, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Link, "wait", counted)
        operation()
    return trips


@pytest.mark.parametrize("messages", [10, 1000])
def test_a_warm_operation_takes_few(scene: Scene, monkeypatch: pytest.MonkeyPatch, messages: int) -> None:
    numbers = scene.post(*["x"] * messages)
    claim_id, held = scene.claim(5)
    operations: dict[str, Callable[[], object]] = {
        "post": lambda: scene.post("x"),
        "post 10": lambda: scene.post(*["x"] * 10),
        "list": lambda: scene.listing(limit=10),
        "list all": lambda: scene.list_everything(),
        "get": lambda: scene.get(numbers[-1]),
        "claim": lambda: scene.claim(1),
        "get claim": lambda: scene.get_claim(claim_id),
        "delete held": lambda: scene.delete(held[0].sequence, claim_id),
        "delete": lambda: scene.delete(numbers[-1]),
        "delete several": lambda: scene.delete_many(numbers[-2], numbers[-3]),
        "pop": lambda: scene.pop(1),
        "stats": lambda: scene.stats(),
    }
    # The first time a statement is prepared, and a post now and then tidies up.
    for operation in operations.values():
        operation()
    scene.post(*["x"] * 64)
    held += scene.claim(1)[1]
    trips = {name: trips_of(monkeypatch, operation) for name, operation in operations.items()}
    assert all(1 <= count <= MOST for count in trips.values()), trips
