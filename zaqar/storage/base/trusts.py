# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the management store that keeps the Keystone trusts of subscriptions.

The service writes a record when it makes a trust. The notifier deletes trusts that are not needed any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from zaqar.model import Trust


class TrustStore(ABC):
    """Trusts that the service has made and not deleted yet. ``due`` is when to check next whether one is needed.

    The service stores a record before the subscription that uses the trust, and removes it after it has deleted the
    trust. So a crash in between leaves a record that is checked later, and never a trust without a record.
    """

    @abstractmethod
    def put(self, *, trust: Trust) -> None:
        """Store the record, in place of one with the same id."""

    @abstractmethod
    def get(self, *, trust_id: str) -> Trust | None:
        """The record, or None if there is none."""

    @abstractmethod
    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        """Make the attached trusts of a subscription due at ``now``; without an id, of all subscriptions of the queue.

        A trust that is due earlier keeps its time.
        """

    @abstractmethod
    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        """At most ``limit`` trusts whose ``due`` is not after ``now``, the longest due first."""

    @abstractmethod
    def replace(self, *, trust: Trust, was_due: float) -> bool:
        """Store the record if the one in place is due at exactly ``was_due``; False if it is not, or is absent.

        So of several callers that read the same record one succeeds, and none overwrites a later ``hasten``.
        """

    @abstractmethod
    def forget(self, *, trust_id: str) -> None:
        """Remove the record. An absent one is no error."""
