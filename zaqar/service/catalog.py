# SPDX-License-Identifier: Apache-2.0
"""Changes of the catalog of pools and flavors. Each change is atomic. ``Pools`` and ``Flavors`` make them."""

from collections.abc import Callable
from dataclasses import replace

from zaqar.errors import StoreUnavailable
from zaqar.model import Catalog
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement

TRIES = 16
"""How often a change is retried while other requests keep changing the catalog."""


class CatalogChanges:
    """Changes the catalog atomically."""

    def __init__(self, management: ManagementStore, placement: Placement) -> None:
        self._management = management
        self._placement = placement

    def make(self, edit: Callable[[Catalog], Catalog]) -> Catalog:
        """Replace the catalog by the result of ``edit``, and return the new catalog.

        ``edit`` may run several times, each time on a newer catalog. If it raises, nothing changes. This worker acts on
        the change at once, the other workers within ``pools.CATALOG_SECONDS``. Raises StoreUnavailable after TRIES
        conflicts.
        """
        for _ in range(TRIES):
            catalog = self._management.catalog.get()
            changed = edit(catalog)
            if changed == catalog:
                return catalog
            changed = replace(changed, version=catalog.version + 1)
            # Fails if another request has replaced the version that was read: then edit() runs on the newer one.
            if self._management.catalog.replace(catalog=changed):
                self._placement.forget_catalog()
                return changed
        raise StoreUnavailable
