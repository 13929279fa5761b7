# SPDX-License-Identifier: Apache-2.0
"""The contract of wake-ups: a store tells a process that a queue has changed for which clients wait.

``zaqar.waiting`` opens one connection for each store that has wake-ups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Wakeups(ABC):
    """One connection to a message store. One thread receives; another thread may close it at any time.

    Wake-ups make waiting faster, and nothing relies on them. A wake-up may be lost, repeated, or about a queue for
    which no client of this process waits. Each process asks for ``queues.positions`` once a second in any case.
    """

    @abstractmethod
    def receive(self, seconds: float) -> list[str]:
        """Wait up to ``seconds`` for a wake-up; return the uids of the queues that may have changed, or an empty list.

        Raises StoreUnavailable if the connection is lost or another thread has closed it. Then the caller closes it and
        opens a new one.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; a ``receive`` in another thread ends. A second call is no error."""
