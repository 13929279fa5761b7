# SPDX-License-Identifier: Apache-2.0
"""Types of this package: kinds of waiters, kinds of wake-ups, and the state of a queue that is waited for."""

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
    """The kind of a waiter. A FREE_READER is a reader that does not see claimed or does not see delayed messages."""

    TAKER = "taker"
    READER = "reader"
    FREE_READER = "free reader"


class Wake(Flag):
    """The waiters that an event concerns. READERS: all readers. FREE_READERS: only the readers of that kind."""

    TAKERS = 1
    FREE_READERS = 2
    READERS = 4
    FREED = TAKERS | FREE_READERS
    """A message is free again: a claim was released or has ended, or a delay has ended."""
    SHOWN = FREE_READERS | READERS
    """A message was posted, and the takers are woken in another way."""
    POSTED = TAKERS | FREE_READERS | READERS


class Located(NamedTuple):
    """The uid of a queue that exists, and the reference to the store that serves it."""

    uid: str
    store_ref: StoreRef


class TooManyWaiting(Exception):
    """The process, or the project in it, has as many waiting clients as allowed. The client may retry in a moment."""

    def __init__(self, *, of_project: bool) -> None:
        super().__init__()
        self.of_project = of_project


@dataclass(eq=False, slots=True)
class WaitedQueue:
    """A queue for which clients wait. ``located`` is None if there is no such queue, or if it is not known yet.

    ``version`` grows with each change that readers may see; see :class:`~zaqar.waiting.shared_reads.SharedReads`.
    """

    queue_name: QueueName
    digest: str
    located: Located | None = None
    takers: dict[Waiter, None] = field(default_factory=dict)
    readers: dict[Waiter, None] = field(default_factory=dict)
    turn: Waiter | None = None
    changed_during_turn: bool = False
    """Whether the queue has changed after the attempt of the turn may have begun, so that the turn is passed on."""
    must_tell_others: bool = False
    """Whether the takers of other processes have to be woken if the takers of this process leave messages."""
    last: int = 0
    version: int = 0
    position: QueuePosition | None = None
    looked_at: float = 0.0

    @property
    def uid(self) -> str:
        """The uid of the queue; empty if the queue is not known."""
        return "" if self.located is None else self.located.uid

    def is_news(self, position: QueuePosition, now: float) -> bool:
        """Whether FREE_READERS have to look again: the position has changed, or the last look was long ago.

        A release of one claim among several may leave the position as it is. So an unchanged position counts as news
        every UNCHANGED_SECONDS.
        """
        # A negative difference means that the clock was set back. That counts as news as well.
        is_news = position != self.position or not 0.0 <= now - self.looked_at < UNCHANGED_SECONDS
        if is_news:
            self.position, self.looked_at = position, now
        return is_news


def digest_of(queue_name: QueueName) -> str:
    """Identifies the name of a queue among processes, in 16 characters."""
    # The digest is short. A tenant that finds two names with the same digest only delays and wakes its own waiters for
    # these two queues.
    return blake2b("\0".join(queue_name).encode(), digest_size=8).hexdigest()
