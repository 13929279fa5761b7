# SPDX-License-Identifier: Apache-2.0
"""The catalog of pools and flavors on an SQL database; see ``sql/catalog.sql``."""

from __future__ import annotations

import json
from dataclasses import asdict

from zaqar.model import Catalog, Pool
from zaqar.storage.base import CatalogStore
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries


class CatalogQueries(Queries, file="catalog"):
    get: str
    insert: str
    replace: str


class SqlCatalog(CatalogStore):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = CatalogQueries.of(database.dialect)

    def get(self) -> Catalog:
        with self._database.read() as connection:
            row = connection.execute(self._queries.get).fetchone()
        return Catalog() if row is None else _catalog_of(*row)

    def replace(self, *, catalog: Catalog) -> bool:
        content = {"pools": [asdict(pool) for pool in catalog.pools], "flavors": catalog.flavors}
        row = {"version": catalog.version, "content": json.dumps(content)}
        statement = self._queries.insert if catalog.version == 1 else self._queries.replace
        with self._database.write as connection:
            return connection.execute(statement, row).rowcount == 1


def _catalog_of(version: int, content: str) -> Catalog:
    found = json.loads(content)
    return Catalog(version, tuple(Pool(**pool) for pool in found["pools"]), tuple(found["flavors"]))
