# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on pools and flavors, and on the service itself. They are about the whole of a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.api.agreement import BOSS, Row, World
from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS

OPTIONS: dict[str, Any] = {"pooling": True, "transport__max_pools_per_page": 5, "transport__max_flavors_per_page": 6}


class Deployment(World):
    """A service with three pools on files, of which two belong to flavors."""

    def __init__(self, folder: Path, **options: Any) -> None:
        driver = DRIVERS["memory"]
        # Two deployments may not know of each other's files, whose names are the same to the rows.
        folder.mkdir()
        self._folder = folder
        super().__init__(Api(driver, driver.prepare(folder), clock=FakeClock(), **{**OPTIONS, **options}))

    def _fill(self) -> None:
        self.names = {name: f"sqlite:///{self._folder}/{name}.db" for name in ("one", "two", "three", "fresh")}
        for name, weight in (("one", 1), ("two", 0), ("three", 3)):
            body = json.dumps({"uri": self.names[name], "weight": weight, "options": {"synchronous": "NORMAL"}})
            self.api.parts.pools.put(name, body.encode())
        self.api.parts.flavors.put("fast", b'{"pool_list":["two"]}')
        self.api.parts.flavors.put("slow", b'{"pool_list":["three"]}')

    def contents(self) -> Any:
        """Its pools and flavors as the management store has them."""
        catalog = self.api.parts.management.get_catalog()
        pools = sorted(catalog.pools, key=lambda pool: pool.name)
        return self.named([[[p.name, p.uri, p.weight, dict(p.options), p.flavor] for p in pools], catalog.flavors])
