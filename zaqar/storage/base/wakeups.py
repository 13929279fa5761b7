# SPDX-License-Identifier: Apache-2.0
"""The contract of what tells a process that something happened to queues that its clients wait for."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Wakeups(ABC):
    """One connection to a message store. One thread receives; another one may close it at any time.

    It is a help and no promise: a wake-up may be lost, repeated or about a queue that nobody here waits for. Processes
    look at :meth:`~zaqar.storage.base.MessageStore.positions` once a second in any case.
    """

    @abstractmethod
    def receive(self, seconds: float) -> list[str]:
        """The uids of queues to look at; waits up to ``seconds`` for the first one. Empty: nothing has happened.

        Raises StoreUnavailable if the connection is lost, or is closed by another thread. It is then of no more use,
        except that it must be closed.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection, and with it a call of ``receive``. May be called twice."""
