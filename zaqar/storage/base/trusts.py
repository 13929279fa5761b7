# SPDX-License-Identifier: Apache-2.0
"""The contract of the part of the control plane that remembers which Keystone trusts are to be deleted one day."""

from __future__ import annotations

from abc import ABC, abstractmethod

from zaqar.model import Trust


class TrustStore(ABC):
    """Every trust that the service has made and not yet deleted, each with the time when to look at it next.

    A record is written before the subscription that uses the trust and removed after the trust is gone, so a crash in
    between leaves a record that somebody looks at, never a trust that nobody knows of.
    """

    @abstractmethod
    def put(self, *, trust: Trust) -> None:
        """Write the record, in place of one with the same id."""

    @abstractmethod
    def get(self, *, trust_id: str) -> Trust | None: ...

    @abstractmethod
    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        """Make the attached trusts of a subscription, or of all subscriptions of a queue, due at ``now``.

        Those that are due earlier keep their time.
        """

    @abstractmethod
    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        """At most ``limit`` whose ``due`` is not after ``now``, the longest due first."""

    @abstractmethod
    def replace(self, *, trust: Trust, was_due: float) -> bool:
        """Write the record if the one in place is due at exactly ``was_due``; False if it is not or is absent.

        So of several callers who read the same record one succeeds, and none overwrites a ``hasten`` that came later.
        """

    @abstractmethod
    def forget(self, *, trust_id: str) -> None:
        """Remove the record; an absent one is fine."""
