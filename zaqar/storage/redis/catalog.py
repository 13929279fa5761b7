# SPDX-License-Identifier: Apache-2.0
"""Pools and flavors on Redis: one hash with a version and the whole catalog as JSON."""

from __future__ import annotations

import json

from zaqar.model import Catalog, Pool
from zaqar.storage.base import CatalogStore
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.keys import slot_of

_REPLACE = load("catalog/replace")

_CATALOG = b"zaqar:catalog"
_SLOT = slot_of(_CATALOG)


class RedisCatalog(CatalogStore):
    """The catalog, which is read and replaced as a whole."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def get(self) -> Catalog:
        text = self._client.command(b"HGET", _CATALOG, b"catalog", slot=_SLOT)
        if text is None:
            return Catalog()
        written = json.loads(text)
        return Catalog(written["version"], tuple(Pool(**each) for each in written["pools"]), tuple(written["flavors"]))

    def replace(self, *, catalog: Catalog) -> bool:
        pools = [
            {"name": each.name, "uri": each.uri, "weight": each.weight, "options": dict(each.options)}
            | {"flavor": each.flavor}
            for each in catalog.pools
        ]
        text = json.dumps({"version": catalog.version, "pools": pools, "flavors": catalog.flavors})
        arguments = (catalog.version - 1, catalog.version, text)
        return bool(self._client.run(_REPLACE, (_CATALOG,), arguments, _SLOT))
