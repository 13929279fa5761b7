# SPDX-License-Identifier: Apache-2.0
"""Management and message store restored from backups of different moments, as ``docs/backup.rst`` says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS

SQLITE = DRIVERS["sqlite"]


@dataclass
class Stores:
    """A database file for each of the two stores, and applications on them."""

    folder: Path
    opened: list[Api] = field(default_factory=list)

    def make(self) -> None:
        for store in ("management", "messages"):
            (self.folder / store).mkdir(parents=True)
            SQLITE.prepare(self.folder / store)

    def back_up(self, store: str, target: Stores) -> None:
        (target.folder / store).mkdir(parents=True)
        with closing(sqlite3.connect(self.folder / store / "zaqar.db")) as shell:
            shell.execute("VACUUM INTO ?", [str(target.folder / store / "zaqar.db")])

    def open(self, project: str | None = None) -> Api:
        def uri(store: str) -> str:
            return f"sqlite:///{self.folder / store}/zaqar.db"

        driver = replace(
            SQLITE,
            open_management=lambda _: SQLITE.open_management(uri("management")),
            open_messages=lambda _: SQLITE.open_messages(uri("messages")),
        )
        api = Api(driver, "", clock=FakeClock())
        api.project = project or api.project
        self.opened.append(api)
        return api


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[str], Stores]]:
    made: list[Stores] = []

    def make(name: str) -> Stores:
        made.append(Stores(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        for api in each.opened:
            api.close()


def test_with_the_management_store_backed_up_last_each_stored_message_can_be_reached(
    stores: Callable[[str], Stores],
) -> None:
    original, backup = stores("original"), stores("backup")
    original.make()
    api = original.open()
    api.send("early", "a", "b")
    original.back_up("messages", backup)
    api.send("early", "c")
    api.send("late", "d")
    api.patch_queue("early", {"op": "add", "path": "/metadata/colour", "value": "red"})
    original.back_up("management", backup)

    restored = backup.open(api.project)
    assert [each["name"] for each in restored.get("/v2/queues").json["queues"]] == ["early", "late"]
    assert restored.bodies("early") == ["a", "b"]
    assert restored.bodies("late") == []
    for queue in ("early", "late"):
        restored.send(queue, "new")
    assert restored.bodies("early") == ["a", "b", "new"]
    assert restored.bodies("late") == ["new"]
    assert restored.get("/v2/queues/early").json["colour"] == "red"


def test_with_the_management_store_backed_up_first_messages_of_a_queue_that_it_does_not_know_are_not_reached(
    stores: Callable[[str], Stores],
) -> None:
    original, backup = stores("original"), stores("backup")
    original.make()
    api = original.open()
    api.send("early", "a")
    original.back_up("management", backup)
    api.send("early", "b")
    api.send("late", "c")
    api.patch_queue("early", {"op": "add", "path": "/metadata/colour", "value": "red"})
    original.back_up("messages", backup)

    restored = backup.open(api.project)
    assert [each["name"] for each in restored.get("/v2/queues").json["queues"]] == ["early"]
    assert restored.bodies("early") == ["a", "b"]
    restored.send("late", "new")
    assert restored.bodies("late") == ["new"]
    restored.send("early", "new")
    assert restored.bodies("early") == ["a", "b", "new"]
