# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps pools and flavors, as one versioned record."""

from __future__ import annotations

from abc import ABC, abstractmethod

from zaqar.model import Catalog


class CatalogStore(ABC):
    """The catalog of pools and flavors. ``service.catalog`` changes it, ``zaqar.storage.pools`` reads it."""

    @abstractmethod
    def get(self) -> Catalog:
        """The pools and flavors; an empty catalog of version 0 if nothing was written yet."""

    @abstractmethod
    def replace(self, *, catalog: Catalog) -> bool:
        """Write the catalog if the stored one has ``version - 1``; False if it has not."""
