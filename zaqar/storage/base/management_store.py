# SPDX-License-Identifier: Apache-2.0
"""The contract of a management store: the control plane, made of parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from zaqar.storage.base.catalog import CatalogStore
from zaqar.storage.base.nodes import NodeStore
from zaqar.storage.base.queue_records import QueueRecordStore
from zaqar.storage.base.subscriptions import SubscriptionStore
from zaqar.storage.base.trusts import TrustStore


class ManagementStore(ABC):
    """The control plane: it decides which queues exist, and has subscriptions, pools and flavors."""

    queue_records: QueueRecordStore
    subscriptions: SubscriptionStore
    catalog: CatalogStore
    trusts: TrustStore
    """Keystone trusts that the service has made for subscriptions."""
    nodes: NodeStore
    """The running processes that hold WebSocket connections."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Open a store with options of ``[drivers:management_store:<name>]``; see ``MessageStore.from_settings``."""

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Self:
        """Open a store, but make and upgrade nothing in it; see ``MessageStore.open_as_it_is``.

        Of the opened store only ``ping``, ``catalog.get`` and ``close`` are called.
        """
        return cls.from_settings(settings)

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers. Raises StoreUnavailable if it does not."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. Operations that run in other threads may fail."""
