# SPDX-License-Identifier: Apache-2.0
"""Flavors: define, list, change, remove. The transports call it."""

from dataclasses import dataclass, replace

from zaqar.errors import Conflict, InvalidInput, NotFound
from zaqar.model import Catalog
from zaqar.schemas.fields import check_name
from zaqar.schemas.flavors import parse_pool_list
from zaqar.service.catalog import CatalogChanges
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import PoolDrivers

MOST_FLAVORS = 1000


@dataclass(frozen=True, slots=True)
class Flavor:
    """A flavor: its pools, and the capabilities that all their drivers have."""

    name: str
    pool_list: list[str]
    capabilities: frozenset[str]


class Flavors:
    """The operations on flavors. Threads may share it."""

    def __init__(self, *, management: ManagementStore, changes: CatalogChanges, drivers: PoolDrivers) -> None:
        self._management = management
        self._changes = changes
        self._drivers = drivers

    def list_page(self, *, after: str, limit: int) -> list[Flavor]:
        """Return the first ``limit`` flavors with a name after ``after``, ordered by name."""
        catalog = self._management.catalog.get()
        return [
            self._flavor(catalog, name) for name in sorted(name for name in catalog.flavors if name > after)[:limit]
        ]

    def get(self, name: str) -> Flavor:
        """Return the flavor. Raises NotFound if there is none."""
        catalog = self._management.catalog.get()
        _check_exists(catalog, name)
        return self._flavor(catalog, name)

    def put(self, name: str, raw: bytes) -> None:
        """Define the flavor, or replace it, by the pools in a request body. These pools leave their other flavors.

        Raises InvalidInput for a pool that does not exist, and Conflict if there are too many flavors.
        """
        check_name(name, field="flavor_name")
        pool_list = parse_pool_list(raw)
        self._changes.make(lambda catalog: _with_flavor(catalog, name, pool_list))

    def patch(self, name: str, raw: bytes) -> Flavor:
        """Replace the pools of a flavor by the pools in a request body. Raises NotFound if there is no such flavor."""
        pool_list = parse_pool_list(raw)

        def edit(catalog: Catalog) -> Catalog:
            _check_exists(catalog, name)
            return _with_flavor(catalog, name, pool_list)

        return self._flavor(self._changes.make(edit), name)

    def delete(self, name: str) -> None:
        """Remove a flavor. An absent flavor is no error. Its pools get new queues without a flavor from then on.

        The queues that have this flavor stay on their pools.
        """
        self._changes.make(lambda catalog: _without_flavor(catalog, name))

    def _flavor(self, catalog: Catalog, name: str) -> Flavor:
        pools = catalog.pools_of(name)
        capabilities = [self._drivers.capabilities(pool) for pool in pools]
        common = frozenset.intersection(*capabilities) if capabilities else frozenset()
        return Flavor(name, [pool.name for pool in pools], common)


def _check_exists(catalog: Catalog, name: str) -> None:
    if name not in catalog.flavors:
        raise NotFound(f"There is no flavor '{name}'.")


def _with_flavor(catalog: Catalog, name: str, pool_list: list[str]) -> Catalog:
    for index, pool in enumerate(pool_list):
        if catalog.pool(pool) is None:
            raise InvalidInput(f"pool_list[{index}]", f"there is no pool '{pool}'")
    if name not in catalog.flavors and len(catalog.flavors) >= MOST_FLAVORS:
        raise Conflict(f"There are {MOST_FLAVORS} flavors, which is the most there can be.")
    changed = _without_flavor(catalog, name)
    pools = tuple(replace(pool, flavor=name) if pool.name in pool_list else pool for pool in changed.pools)
    return replace(changed, pools=pools, flavors=tuple(sorted({*changed.flavors, name})))


def _without_flavor(catalog: Catalog, name: str) -> Catalog:
    if name not in catalog.flavors and not catalog.pools_of(name):
        return catalog
    pools = tuple(replace(pool, flavor=None) if pool.flavor == name else pool for pool in catalog.pools)
    return replace(catalog, pools=pools, flavors=tuple(other for other in catalog.flavors if other != name))
