# SPDX-License-Identifier: Apache-2.0
"""Changes of the catalog of pools and flavors, each of them all or nothing."""

from collections.abc import Callable
from dataclasses import replace

from zaqar.errors import StoreUnavailable
from zaqar.model import Catalog
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement

TRIES = 16
"""How often a change is made anew while others keep changing the catalog."""


class CatalogChanges:
    def __init__(self, management: ManagementStore, placement: Placement) -> None:
        self._management = management
        self._placement = placement

    def make(self, edit: Callable[[Catalog], Catalog]) -> Catalog:
        """Put what ``edit`` makes of the catalog in its place, and return it.

        ``edit`` may run several times, each time on a newer catalog; what it raises changes nothing. This worker acts
        on the change at once, the others within ``placement.CATALOG_SECONDS``.
        """
        for _ in range(TRIES):
            catalog = self._management.catalog.get()
            changed = edit(catalog)
            if changed == catalog:
                return catalog
            changed = replace(changed, version=catalog.version + 1)
            if self._management.catalog.replace(catalog=changed):
                self._placement.forget_catalog()
                return changed
        raise StoreUnavailable
