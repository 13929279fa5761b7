# SPDX-License-Identifier: Apache-2.0
"""Opens stores: the configured ones, and the stores of pools by their URI. Drivers are found by entry points only.

``zaqar.app`` and the commands call it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from oslo_config import cfg

from zaqar import entry_points
from zaqar.conf import sqlalchemy_uri
from zaqar.conf.opts import list_opts
from zaqar.errors import InvalidInput, StartupError
from zaqar.model import Pool
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.uris import lower_scheme

_log = logging.getLogger(__name__)

MESSAGE_STORES = "zaqar.data.storage"
MANAGEMENT_STORES = "zaqar.control.storage"

_DRIVER_OF_SCHEME = {
    "mongodb": "mongodb",
    "mongodb.fifo": "mongodb",
    "postgresql": "sqlalchemy",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlalchemy",
}
"""Driver by the part of a scheme before a ``+``. A scheme that is not listed is itself the name of a driver."""

_IN_MEMORY = ("", ":memory:")

_JSON_TYPES: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (cfg.BoolOpt, (bool,), "boolean"),
    (cfg.IntOpt, (int,), "integer"),
    (cfg.FloatOpt, (int, float), "number"),
    (cfg.StrOpt, (str,), "string"),
)


def open_management_store(conf: cfg.ConfigOpts, *, as_it_is: bool = False) -> ManagementStore:
    """Open the store that ``[drivers] management_store`` names. Raises StartupError if it cannot be opened.

    With ``as_it_is`` nothing in the store is made or upgraded.
    """
    return cast("ManagementStore", _open_configured(conf, "management_store", MANAGEMENT_STORES, as_it_is=as_it_is))


def open_message_store(conf: cfg.ConfigOpts, *, as_it_is: bool = False) -> MessageStore:
    """Open the store that ``[drivers] message_store`` names. Raises StartupError if it cannot be opened.

    With ``as_it_is`` nothing in the store is made or upgraded.
    """
    return cast("MessageStore", _open_configured(conf, "message_store", MESSAGE_STORES, as_it_is=as_it_is))


def _open_configured(conf: cfg.ConfigOpts, which: str, namespace: str, *, as_it_is: bool) -> Any:
    name = conf.drivers[which]
    store = entry_points.load(namespace, name)
    settings = _settings(conf, group_of(which, name))
    if name == "sqlalchemy":
        settings["uri"], settings["embedded"] = sqlalchemy_uri(conf, which)
    elif settings.get("uri"):
        settings["uri"] = lower_scheme(settings["uri"])
    return store.open_as_it_is(settings) if as_it_is else store.from_settings(settings)


def group_of(which: str, driver: str) -> str:
    """The group with the options of a driver; ``which`` is "message_store" or "management_store".

    ``mongodb.fifo`` is another name of ``mongodb``, and has no group of its own.
    """
    return f"drivers:{which}:{driver.removesuffix('.fifo')}"


def _settings(conf: cfg.ConfigOpts, group: str) -> dict[str, Any]:
    # A driver of another package may have no options of ours.
    return dict(conf[group]) if group in conf else {}


class DriverRegistry:
    """The installed message store drivers, for pools. It implements :class:`zaqar.storage.pools.PoolDrivers`."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        opened: Callable[[MessageStore, str], MessageStore] = lambda store, name: store,
    ) -> None:
        """``opened`` is called with each opened store and the name of its pool. It returns the store to use."""
        self._opened = opened
        self._conf = conf
        self._loaded: dict[str, type[MessageStore]] = {}

    def check(self, pool: Pool) -> None:
        scheme, separator, rest = lower_scheme(pool.uri).partition("://")
        if not scheme or not separator:
            raise InvalidInput("uri", "must begin with the scheme of a store, such as redis://")
        name = self._driver(pool)
        installed = entry_points.installed(MESSAGE_STORES)
        if name not in installed:
            raise InvalidInput("uri", f"no installed driver serves its scheme; installed: {', '.join(installed)}")
        if scheme.partition("+")[0] == "sqlite" and rest.partition("?")[0].removeprefix("/") in _IN_MEMORY:
            raise InvalidInput("uri", "a database in memory is one for each process and cannot be a pool")
        opts = {opt.dest: opt for group, opts in list_opts() if group == _group(name) for opt in opts}
        for option, value in pool.options.items():
            _check_option(option, value, opts.get(option))
        try:
            self._load(name)
        except StartupError as exc:
            _log.warning("The driver '%s' cannot be loaded.", name, exc_info=True)
            raise InvalidInput("uri", f"the driver '{name}' cannot be loaded; the log says why") from exc

    def open(self, pool: Pool) -> MessageStore:
        store, settings = self._find(pool)
        return self._opened(store.from_settings(settings), pool.name)

    def open_as_it_is(self, pool: Pool) -> MessageStore:
        """Open the store of a pool, but make and upgrade nothing in it."""
        store, settings = self._find(pool)
        return store.open_as_it_is(settings)

    def _find(self, pool: Pool) -> tuple[type[MessageStore], Mapping[str, Any]]:
        """The driver of a pool and its settings."""
        name = self._driver(pool)
        settings = {**_settings(self._conf, _group(name)), **pool.options, "uri": lower_scheme(pool.uri)}
        if name == "sqlalchemy":
            # embedded: the store creates its own tables, because operators do not run migrations for a pool.
            settings["embedded"] = True
        return self._load(name), settings

    def capabilities(self, pool: Pool) -> frozenset[str]:
        try:
            return self._load(self._driver(pool)).capabilities
        except StartupError:
            _log.warning("The driver of pool '%s' cannot be loaded.", pool.name, exc_info=True)
            return frozenset()

    def _load(self, name: str) -> type[MessageStore]:
        if name not in self._loaded:
            self._loaded[name] = entry_points.load(MESSAGE_STORES, name)
        return self._loaded[name]

    def _driver(self, pool: Pool) -> str:
        scheme = lower_scheme(pool.uri).partition("://")[0]
        return _DRIVER_OF_SCHEME.get(scheme) or _DRIVER_OF_SCHEME.get(scheme.partition("+")[0], scheme)


def _group(driver: str) -> str:
    return f"drivers:message_store:{driver}"


def _check_option(name: str, value: object, opt: cfg.Opt | None) -> None:
    field = f"options.{name}"
    if opt is None:
        raise InvalidInput(field, "the pool's driver has no such option")
    if name == "uri":
        raise InvalidInput(field, "the URI of a pool is its field 'uri'")
    for kind, types, noun in _JSON_TYPES:
        fits = isinstance(value, types) and isinstance(value, bool) == (kind is cfg.BoolOpt)
        if isinstance(opt, kind) and not fits:
            raise InvalidInput(field, f"must be of type {noun}")
    try:
        opt.type(value)
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from exc
