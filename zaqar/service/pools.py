# SPDX-License-Identifier: Apache-2.0
"""Pools: register, list, change, remove. The transports call it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from zaqar import uris
from zaqar.errors import Conflict, Forbidden, InvalidInput, NotFound, StartupError, StoreUnavailable
from zaqar.model import Catalog, Pool
from zaqar.schemas.fields import check_name
from zaqar.schemas.pools import apply_patch, parse_patch, parse_pool
from zaqar.service.catalog import CatalogChanges
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import PoolDrivers

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 300

MOST_POOLS = 1000
"""All pools are one record, which each worker reads every few seconds."""


class Pools:
    """The operations on pools. Threads may share it."""

    def __init__(self, *, management: ManagementStore, changes: CatalogChanges, drivers: PoolDrivers) -> None:
        self._management = management
        self._changes = changes
        self._drivers = drivers

    def list_page(self, *, after: str, limit: int) -> list[Pool]:
        """Return the first ``limit`` pools with a name after ``after``, ordered by name."""
        pools = self._management.catalog.get().pools
        return sorted((pool for pool in pools if pool.name > after), key=lambda pool: pool.name)[:limit]

    def get(self, name: str) -> Pool:
        """Return the pool. Raises NotFound if there is none."""
        return _find(self._management.catalog.get(), name)

    def put(self, name: str, raw: bytes) -> None:
        """Register the pool that a request body describes, or replace the pool with this name.

        Raises InvalidInput if its store does not answer, and Conflict if another pool has the same URI.
        """
        check_name(name, field="pool_name")
        self._change(name, lambda catalog: parse_pool(raw, name=name, old=catalog.pool(name)))

    def patch(self, name: str, raw: bytes) -> Pool:
        """Change the fields in a request body. Raises NotFound, and InvalidInput if a changed store does not answer."""
        changes = parse_patch(raw)
        return self._change(name, lambda catalog: apply_patch(changes, _find(catalog, name)))

    def _change(self, name: str, describe: Callable[[Catalog], Pool]) -> Pool:
        # The store is tried after all other checks, and before the catalog is changed.
        tried: list[Pool] = []

        def edit(catalog: Catalog) -> Catalog:
            pool = describe(catalog)
            changed = _with_pool(catalog, pool)
            if not any(_same_store(pool, other) for other in (catalog.pool(name), *tried)):
                self._try(pool)
                tried.append(pool)
            return changed

        return _find(self._changes.make(edit), name)

    def _try(self, pool: Pool) -> None:
        """Raise InvalidInput if the store of the pool does not answer. The text has the reason but no password."""
        self._drivers.check(pool)
        try:
            store = self._drivers.open(pool)
        except StartupError as exc:
            _log.warning("Pool '%s' cannot be registered.", pool.name, exc_info=True)
            raise InvalidInput("uri", _reason(exc, pool)) from exc
        except StoreUnavailable as exc:
            raise _no_answer(pool, exc) from exc
        try:
            store.ping()
        except StoreUnavailable as exc:
            raise _no_answer(pool, exc) from exc
        finally:
            store.close()

    def delete(self, name: str) -> None:
        """Remove a pool. An absent pool is no error. Raises Forbidden if a flavor uses it, or if queues are on it."""
        if self._management.catalog.get().pool(name) is None:
            return
        if self._management.queue_records.any_on_pool(pool=name):
            raise _in_use(name)
        removed: list[Pool] = []

        def edit(catalog: Catalog) -> Catalog:
            pool = catalog.pool(name)
            if pool is None:
                return catalog
            if pool.flavor in catalog.flavors:
                raise Forbidden(f"The flavor '{pool.flavor}' uses the pool '{name}'.")
            removed.append(pool)
            return replace(catalog, pools=tuple(other for other in catalog.pools if other.name != name))

        self._changes.make(edit)
        # A queue may have been created on the pool between the check above and the removal. Then put the pool back. A
        # request that creates a queue writes the row first and then looks for the pool (Placement.pool_is_registered),
        # so of the two requests at least the second one sees the change of the first.
        if removed and self._management.queue_records.any_on_pool(pool=name):
            self._changes.make(lambda catalog: catalog if catalog.pool(name) else _with_pool(catalog, removed[-1]))
            raise _in_use(name)


def _find(catalog: Catalog, name: str) -> Pool:
    pool = catalog.pool(name)
    if pool is None:
        raise NotFound(f"There is no pool '{name}'.")
    return pool


def _with_pool(catalog: Catalog, pool: Pool) -> Catalog:
    others = tuple(other for other in catalog.pools if other.name != pool.name)
    twin = next((other for other in others if other.uri == pool.uri), None)
    if twin is not None:
        raise Conflict(f"uri: the pool '{twin.name}' has the same")
    if len(others) >= MOST_POOLS:
        raise Conflict(f"There are {MOST_POOLS} pools, which is the most there can be.")
    return replace(catalog, pools=(*others, pool))


def _same_store(pool: Pool, other: Pool | None) -> bool:
    return other is not None and (pool.uri, pool.options) == (other.uri, other.options)


def _no_answer(pool: Pool, error: StoreUnavailable) -> InvalidInput:
    cause = error.__cause__ or error
    return InvalidInput("uri", f"the store at {uris.mask(pool.uri)} does not answer: {_reason(cause, pool)}")


def _reason(error: BaseException, pool: Pool) -> str:
    """Return the error text of a driver or its library, for an administrator. A text with a password is not shown."""
    text = " ".join(str(error).split())[:_MOST_CHARACTERS] or type(error).__name__
    return "the log says why" if uris.reveals(text, pool.uri) else text


def _in_use(name: str) -> Forbidden:
    return Forbidden(f"There are queues on the pool '{name}'; with weight 0 it gets no new ones.")
