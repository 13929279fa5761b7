# SPDX-License-Identifier: Apache-2.0
"""The catalog of pools and flavors: one document, ``catalog``, in the main collection of the management store.

Pools and flavors are stored as JSON text, because not every key of their options can be a key of a document.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from pymongo.errors import DuplicateKeyError

from zaqar.model import Catalog, Pool
from zaqar.storage.base import CatalogStore
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.queue_records import RECORDS

_ID = "catalog"


class MongoCatalog(CatalogStore):
    def __init__(self, replica_set: ReplicaSet) -> None:
        self._set = replica_set

    def get(self) -> Catalog:
        with self._set.step() as connection:
            document = connection[RECORDS].majority.find_one({"_id": _ID})
        if document is None:
            return Catalog()
        pools = tuple(Pool(**pool) for pool in json.loads(document["pools"]))
        return Catalog(document["version"], pools, tuple(json.loads(document["flavors"])))

    def replace(self, *, catalog: Catalog) -> bool:
        pools = json.dumps([{**asdict(pool), "options": dict(pool.options)} for pool in catalog.pools])
        new = {"version": catalog.version, "pools": pools, "flavors": json.dumps(catalog.flavors)}
        before = {"_id": _ID, "version": catalog.version - 1}
        with self._set.step() as connection:
            try:
                # The first version is inserted. If there is a catalog of another version, the insert finds its id.
                is_first = catalog.version == 1
                result = connection[RECORDS].majority.replace_one(before, new, upsert=is_first)
            except DuplicateKeyError:
                return False
        return result.matched_count == 1 or result.upserted_id is not None
