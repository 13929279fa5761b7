# SPDX-License-Identifier: Apache-2.0
"""The contract of the data plane."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

from zaqar.model import Claim, DeadLetters, Draft, Message, Queue, QueuePosition, Stats
from zaqar.storage.base.deliveries import DeliveryStore
from zaqar.storage.base.sealed import SealedBodyStore
from zaqar.storage.base.wakeups import Wakeups

TOMBSTONE_LIFETIME = 86_400.0
"""Seconds a dropped queue is remembered. Longer than any request that still holds a copy of it can take."""


class MessageStore(DeliveryStore, SealedBodyStore):
    """The data plane: messages and claims of queues, by sequence number, and deliveries.

    Every method that takes a ``queue`` checks ``(queue.uid, queue.generation)`` against the fence of that queue inside
    its own atomic step and raises :class:`~zaqar.errors.StaleQueue` when they differ.
    """

    capabilities: ClassVar[frozenset[str]]
    """Of FIFO, CLAIMS, DURABILITY, AOD, HIGH_THROUGHPUT."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The store as the options of ``[drivers:message_store:<name>]``, or the URI of a pool, say.

        Raises StartupError, one sentence that never shows a password, where the settings can never work or the server
        is found unfit. A server that does not answer is no error here, as a worker may begin while it is away: then
        operations raise StoreUnavailable until it is back, and it is checked at the first contact.
        """

    # -- the fence ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def open_queue(self, *, queue: Queue, now: float) -> int:
        """Create the fence, or raise it to the queue's generation where it is lower; return the generation in force.

        Raises QueueDropped where the uid is tombstoned.
        """

    @abstractmethod
    def drop_queue(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        """Make every message and claim of the queue unreachable in one step, whatever its generation.

        A tombstone refuses the uid for ``remember`` seconds. Dropping an unknown or a dropped queue is fine.

        The same step makes all posts and deliveries of the uid unreachable, as ``drop_deliveries`` does for those of a
        subscription: ``take_posted`` and ``take_deliveries`` give none of them and pass over them at a cost that does
        not depend on how many posts a queue or deliveries a subscription has; while the tombstone lasts, ``expand`` and
        ``put_delivery`` store none; ``sweep`` removes them, and the tombstone only after them. With ``remember`` 0
        nothing is remembered and no delivery is touched: that is for a queue that never had any.
        """

    # -- messages ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        """Store all the drafts or none, durably, in their order; return their sequence numbers.

        With ``queue.notify`` a :class:`~zaqar.model.Posted` of them is stored in the same atomic step; see
        ``DeliveryStore``. Without, nothing of that costs anything.
        """

    @abstractmethod
    def list_messages(
        self,
        *,
        queue: Queue,
        after: int,
        limit: int,
        now: float,
        exclude_client: str | None = None,
        include_claimed: bool = False,
        include_delayed: bool = False,
    ) -> list[Message]:
        """Messages with a sequence number greater than ``after``, in order, without those of ``exclude_client``.

        ``due`` of a message that is delayed at ``now`` is the end of its delay.
        """

    @abstractmethod
    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        """Those that exist, in order, claimed and delayed ones as well; ``due`` as in ``list_messages``."""

    @abstractmethod
    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        """Delete one message; an absent one is fine whatever the claim id.

        Without ``claim_id``: Forbidden where the message is claimed. With it: ClaimOver where no such claim is live or
        the message is not claimed, Forbidden where another live claim holds it.
        """

    @abstractmethod
    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        """Delete several in one step, all or nothing; absent ones are fine.

        With ``claim_ids`` None claims do not matter. Else ClaimOver unless each message that exists is held by a live
        claim among them.
        """

    @abstractmethod
    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        """Take the first free messages out for good and return them as they were.

        Raises SealedMessages if one of them has a body that begins with SEALED, and takes none then.
        """

    # -- claims ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        """Lease the first free messages to ``claim`` (its id is new, its ``started`` is ``now``) and return them.

        Nothing free: an empty list and no claim. Each message's count of claims grows by one and its end of life
        is moved to the claim's end plus grace where that is later. With ``dead_letters``, messages that were claimed
        ``max_claim_count`` times before are instead moved to the end of that queue, which is another one, with their
        origin, each exactly once: in the same atomic step or, where they are very many or the two queues cannot change
        together, in steps before it. StaleQueue may then be about either queue. With a ``dead_letters.queue`` of None
        they stay where they are and are passed over. Those that are moved to a queue with ``notify`` are to be notified
        there, as those that it receives are.
        """

    @abstractmethod
    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        """A live claim and the messages it still holds; NotFound otherwise."""

    @abstractmethod
    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        """Start a live claim anew at ``now``; None keeps the claim's own value. NotFound where it is not live."""

    @abstractmethod
    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        """End a claim; its messages are free at once. An absent one is fine."""

    # -- dead letters on their way to another store ------------------------------------------------------------------
    #
    # Set aside in the one store, received in the other, then forgotten in the first. Each step is atomic and can be
    # repeated, so whoever finds what a killed process left set aside goes on where that one stopped.

    @abstractmethod
    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        """Take the worn out among the first free messages out of the queue, and return what is set aside, in order.

        Worn out are those claimed ``max_claim_count`` times or more. Taken out are those that a claim of ``limit``
        messages would meet, a batch of the driver's choice at most; what an earlier call set aside comes first. What is
        set aside is durable, is in no listing, claim or statistics, never expires, and stays until
        ``forget_set_aside``, a purge or a drop. Empty: such a claim would meet none.
        """

    @abstractmethod
    def receive(self, *, queue: Queue, letters: Sequence[Message], now: float) -> None:
        """Append messages that were set aside elsewhere, with their ``origin``, each once however often it comes.

        Their ``created``, ``expires``, ``client_id``, ``checksum`` and ``body`` are kept, their claim count begins at
        0. ``origin.message_id`` tells them apart, and is remembered for TOMBSTONE_LIFETIME seconds from ``now``. With
        ``queue.notify`` each that is new is stored as a Posted of its own as well, in the same atomic step.
        """

    @abstractmethod
    def forget_set_aside(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        """Remove what was received by the other store; absent ones are fine."""

    # -- the queue as a whole ----------------------------------------------------------------------------------------

    @abstractmethod
    def stats(self, *, queue: Queue, now: float) -> Stats: ...

    @abstractmethod
    def purge(self, *, queue: Queue, now: float) -> None:
        """Remove every message and claim in one step, claimed and delayed ones as well; deliveries go on."""

    @abstractmethod
    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        """How far queues are, by uid; one that is dropped or was never opened is not in the result.

        One call to the server, or one to each server that has some of the queues, for up to 500 ``uids``. An expired
        message is not free, unless many more have expired and nobody has removed them: then one may count as free until
        the next claim. A message that was claimed as often as its queue allows may count as free. ``next_due`` may be
        that of a message that expires before it. The caller asks because clients wait for these queues: the store
        may note that for some seconds, and tell of posts meanwhile. The generation of the queues does not matter.
        """

    def wakeups(self) -> Wakeups | None:
        """A new connection that tells of posts to, and releases in, queues whose ``positions`` somebody asked for.

        None if the store has no such thing, or if it is not switched on. Raises StoreUnavailable.
        """
        return None

    # -- the store as a whole ----------------------------------------------------------------------------------------

    @abstractmethod
    def volume(self, *, now: float) -> Stats:
        """Free and claimed messages of all queues together, without ``oldest`` and ``newest``."""

    @abstractmethod
    def sweep(self, *, now: float, limit: int) -> int:
        """Remove up to about ``limit`` dead records; return how many. Fewer than ``limit``: no more were there.

        Dead is what has expired, what was dropped or purged, with its posts and deliveries in any state, and a settled
        delivery from ``now >= keep_until``.
        """

    @abstractmethod
    def durability(self) -> Mapping[str, str]:
        """What "stored" survives with this store as it is set up, for the health report and the log."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store answers, raise StoreUnavailable when it does not."""

    @abstractmethod
    def close(self) -> None: ...
