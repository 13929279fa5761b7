# SPDX-License-Identifier: Apache-2.0
"""The words of waiting: kinds of waiters and of wake-ups, and a queue that is waited for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from zaqar.model import QueueName, QueuePosition
from zaqar.storage.pools import StoreRef

if TYPE_CHECKING:
    from zaqar.waiting.registry import Waiter

UNCHANGED_SECONDS = 5.0
"""How often FREE_READERS look at a queue that has free messages and shows no change."""


class Kind(Enum):
    """What a waiter does when it is woken. FREE_READER is a reader that sees no claimed or no delayed messages."""

    TAKER = "taker"
    READER = "reader"
    FREE_READER = "free reader"


class Wake(Flag):
    """Which waiters of a queue an event concerns. FREE_READERS are among the READERS."""

    TAKERS = 1
    FREE_READERS = 2
    READERS = 4
    FREED = TAKERS | FREE_READERS
    """A message is free again: a claim was released or has ended, or a delay has ended."""
    SHOWN = FREE_READERS | READERS
    """A message was posted, and takers are told in another way."""
    POSTED = TAKERS | FREE_READERS | READERS


class Located(NamedTuple):
    """The uid of a queue that exists, and the reference to the store that serves it."""

    uid: str
    store_ref: StoreRef


class TooManyWaiting(Exception):
    """As many clients wait as this process, or the project in it, may have. The client may try again in a moment."""

    def __init__(self, *, of_project: bool) -> None:
        super().__init__()
        self.of_project = of_project


@dataclass(eq=False, slots=True)
class WaitedQueue:
    """A queue for which somebody waits. ``located`` is None if there is no such queue, or if it is not known yet.

    ``version`` grows with each change that readers may see; see :class:`~zaqar.waiting.shared_reads.SharedReads`.
    """

    address: QueueName
    digest: str
    located: Located | None = None
    takers: dict[Waiter, None] = field(default_factory=dict)
    readers: dict[Waiter, None] = field(default_factory=dict)
    turn: Waiter | None = None
    again: bool = False
    """Whether something happened after the attempt of the turn may have begun."""
    tells: bool = False
    """Whether the takers of other processes have to be told if the takers of this one leave messages."""
    last: int = 0
    version: int = 0
    position: QueuePosition | None = None
    looked_at: float = 0.0

    @property
    def uid(self) -> str:
        """Empty if the queue is not known."""
        return "" if self.located is None else self.located.uid

    def is_news(self, position: QueuePosition, now: float) -> bool:
        """Whether a message may be free since the last position that was news.

        A release of one claim among several may leave the position as it was, so that in a while it counts as news.
        """
        # Also if the clock was set back.
        is_news = position != self.position or not 0.0 <= now - self.looked_at < UNCHANGED_SECONDS
        if is_news:
            self.position, self.looked_at = position, now
        return is_news


def digest_of(address: QueueName) -> str:
    """Identifies the name of a queue among processes, in 16 characters."""
    # A tenant that finds two names with the same digest only delays and wakes its own waiters for these two queues.
    return blake2b("\0".join(address).encode(), digest_size=8).hexdigest()
