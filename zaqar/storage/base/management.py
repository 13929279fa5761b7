# SPDX-License-Identifier: Apache-2.0
"""The contract of the control plane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from zaqar.model import Address, Catalog, Queue, Subscription
from zaqar.storage.base.nodes import NodeStore
from zaqar.storage.base.trusts import TrustStore


class ManagementStore(ABC):
    """The control plane: the truth about which queues exist, about subscriptions, pools and flavors."""

    trusts: TrustStore
    """Keystone trusts that the service has made for subscriptions."""
    nodes: NodeStore
    """The running processes that hold WebSocket connections."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The store as the options of ``[drivers:management_store:<name>]`` say; see ``MessageStore.from_settings``."""

    @abstractmethod
    def create_queue(self, *, queue: Queue) -> Queue:
        """Insert the queue unless (project, kind, name) is taken; return the one that is in place afterwards."""

    @abstractmethod
    def get_queue(self, *, project: str, kind: str, name: str) -> Queue | None: ...

    @abstractmethod
    def find_queues(self, *, addresses: Collection[Address]) -> dict[Address, Queue]:
        """The queues of these names that exist, in one call to the server; at most 500 ``addresses``."""

    @abstractmethod
    def list_queues(self, *, project: str, kind: str, after: str, limit: int) -> list[Queue]:
        """At most ``limit`` queues with a name greater than ``after``, ordered by name (by code point)."""

    @abstractmethod
    def list_queue_names(self, *, project: str, kind: str, after: str, limit: int) -> list[str]:
        """The names of the queues that ``list_queues`` would return. Their metadata are not read."""

    @abstractmethod
    def count_queues(self, *, project: str, kind: str) -> int: ...

    @abstractmethod
    def replace_queue(self, *, queue: Queue, replaces: int | None = None) -> bool:
        """Write the queue if its uid is in place with the generation ``replaces``; False if it is not.

        Without ``replaces`` that is ``queue.generation - 1``.
        """

    @abstractmethod
    def delete_queue(self, *, queue: Queue) -> None:
        """Remove the row where the uid is still this one."""

    # -- subscriptions -----------------------------------------------------------------------------------------------
    #
    # They belong to a queue's uid: a queue of the same name that is made later has none of them. One whose ``expires``
    # is not after ``now`` is not there, for every method but ``expired_subscriptions``.

    @abstractmethod
    def create_subscription(self, *, subscription: Subscription, now: float) -> Subscription:
        """Insert it unless the queue has one with that subscriber; return the one that is in place afterwards."""

    @abstractmethod
    def get_subscription(self, *, queue_uid: str, subscription_id: str, now: float) -> Subscription | None: ...

    @abstractmethod
    def find_subscription(self, *, queue_uid: str, subscriber: str, now: float) -> Subscription | None:
        """The one of the queue that has this subscriber."""

    @abstractmethod
    def list_subscriptions(self, *, queue_uid: str, after: str, limit: int, now: float) -> list[Subscription]:
        """At most ``limit`` of the queue with an id greater than ``after``, ordered by id."""

    @abstractmethod
    def replace_subscription(self, *, subscription: Subscription, now: float) -> bool:
        """Write it where its id is in place with ``version - 1``; False where it is not.

        Conflict where another one of the queue has its subscriber; then nothing is written.
        """

    @abstractmethod
    def delete_subscription(self, *, queue_uid: str, subscription_id: str, version: int | None = None) -> bool:
        """Remove it, also if it has expired; return whether it was there and this call removed it.

        With ``version`` one that was changed since that version stays: for a caller that decides by what it has read.
        A step that was repeated because its answer was lost may return False although its first run removed it.
        """

    @abstractmethod
    def remove_subscriptions(self, *, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        """Remove at most 500 subscriptions, expired or not, if their stored subscribers are still the given ones.

        Other fields may have changed. Returns the subscriptions that the store does not have any more, including the
        ones that were absent before. A subscription whose subscriber has changed stays, and is not returned. Each
        removal is one atomic step; all together are not, but they take as few writes to disk as the store allows.
        """

    @abstractmethod
    def delete_subscriptions(self, *, queue_uid: str) -> None:
        """Remove all of a queue, in one step."""

    @abstractmethod
    def expired_subscriptions(self, *, now: float, limit: int) -> list[Subscription]:
        """Some that are over at ``now`` and still take space, of any queue; whoever asks deletes them."""

    @abstractmethod
    def take_pauses(self, *, pauses: Mapping[str, float], now: float) -> float | None:
        """Begin a pause under each of these keys, which ends at the time given, unless one of them is in a pause.

        Returns None, or the time when the last of the pauses that are in the way ends; then none has begun. Of callers
        at the same moment one succeeds. A crash in between may leave some of them begun. What is over is removed on the
        way, a bounded number of them with each call.
        """

    # -- pools and flavors -------------------------------------------------------------------------------------------

    @abstractmethod
    def pool_has_queues(self, *, pool: str) -> bool:
        """Whether a queue of any project is placed on the pool."""

    @abstractmethod
    def get_catalog(self) -> Catalog:
        """The pools and flavors; an empty catalog of version 0 where nothing was written yet."""

    @abstractmethod
    def replace_catalog(self, *, catalog: Catalog) -> bool:
        """Write the catalog where the one in place is of ``version - 1``; False where it is not."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store answers, raise StoreUnavailable when it does not."""

    @abstractmethod
    def close(self) -> None: ...
