# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that keeps pools and flavors."""

from __future__ import annotations

from copy import deepcopy
from threading import Lock

from zaqar.model import Catalog
from zaqar.storage.base import CatalogStore


class MemoryCatalog(CatalogStore):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._catalog = Catalog()

    def get(self) -> Catalog:
        with self._lock:
            return deepcopy(self._catalog)

    def replace(self, *, catalog: Catalog) -> bool:
        with self._lock:
            if self._catalog.version != catalog.version - 1:
                return False
            self._catalog = deepcopy(catalog)
            return True
