# SPDX-License-Identifier: Apache-2.0
"""Streams: readers that follow a queue or topic and can resume without a gap.

A :class:`Stream` has the queue and the position of one reader. A transport drives it: it calls :meth:`Stream.read`
if the stream was woken, is ready or is due, and sends the events. Only ``open`` and ``read`` ask a store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import InvalidInput
from zaqar.model import UID_LENGTH, Message, QueueName, is_message_id, message_id, sequence_of
from zaqar.service.bodies import Bodies
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.service.queues import Queues
from zaqar.waiting.hub import Hub
from zaqar.waiting.shared_reads import moment
from zaqar.waiting.tail import Shown, Tail

T = TypeVar("T")

MAX_BATCH_BYTES = 256 * 1024
"""Limit in bytes of the bodies that one read returns. A single larger message is returned alone."""

_FIRST_BATCH = 20
"""Messages of the first read. Later reads return more, or fewer if the messages are large."""

_MOST_OF_BATCH = 100
"""Limit in messages of one read, also for small ones: the store loads all of them before their size is known."""

_NO_QUEUE = "0" * UID_LENGTH
"""The uid in the marker of a reader that waits for its queue to be created. No queue has this uid."""


class StreamMessage(NamedTuple):
    """A message, as it was at ``now``. A reader resumes after it with ``marker``, which is another id than that of the
    message if an earlier message is still delayed."""

    marker: str
    message: Message
    now: float


class Reset(NamedTuple):
    """The position of the reader is void, and the stream continues from ``marker``.

    ``reason`` is RECREATED or LOST. RECREATED: the queue was deleted and created again; its messages follow from the
    start. LOST: the store has lost the newest messages; the messages that were posted after the loss follow.
    """

    reason: str
    marker: str


RECREATED = "recreated"
LOST = "lost"


Event = StreamMessage | Reset


class _NotKept(Exception):
    """No other reader's result can be used, so the store would have to be read."""


class _Page(NamedTuple):
    """Messages as they were at ``now``. ``is_cut``: messages that exceed MAX_BATCH_BYTES were left out."""

    uid: str
    messages: list[Message]
    now: float
    is_cut: bool


class Streams:
    """Opens streams. All readers of a queue at the same position share one read."""

    most = _MOST_OF_BATCH
    """The largest number of messages that one read returns."""

    def __init__(self, *, queues: Queues, bodies: Bodies, clock: Clock, hub: Hub) -> None:
        self.queues = queues
        self.bodies = bodies
        self.clock = clock
        self.shared = hub.shared

    def open(
        self,
        context: Context,
        queue_name: QueueName,
        *,
        marker: str | None,
        from_start: bool,
        echo: bool,
        version: int,
    ) -> Stream:
        """Open a stream of the messages after ``marker``.

        Without a marker it begins with the messages that are posted from now on, or with ``from_start`` at the start of
        the queue. Without ``echo`` messages of the caller's Client-ID are left out. ``version`` is the version of the
        waiter; see :meth:`Stream.read`. Raises InvalidInput if ``marker`` is not the id of a message.
        """
        if marker is not None:
            check_marker(marker)
            own = marker[:UID_LENGTH]
            uid, last = (None, 0) if own == _NO_QUEUE else (own, sequence_of(own, marker) or 0)
        else:
            uid, last = (None, 0) if from_start else self._now(queue_name, version)
        # A shared result may have messages that were deleted up to a second ago. A reader that resumes may have passed
        # their numbers before, and would get them now, after later messages. So all its reads begin after this moment.
        since = 0 if marker is None else moment()
        return Stream(self, queue_name, uid, last, None if echo else context.client_id, since)

    def is_deleted(self, queue_name: QueueName, marker: str) -> bool:
        """Whether the queue does not exist, although it existed when the reader with ``marker`` last read it."""
        return not marker.startswith(_NO_QUEUE) and self.queues.row(queue_name) is None

    def _now(self, queue_name: QueueName, version: int) -> tuple[str | None, int]:
        """Return the uid of the queue and the number of its newest message; None and 0 if there is no such queue."""

        def ask() -> tuple[str | None, int]:
            resolved = self.queues.find(queue_name, create=False)
            last = None if resolved is None else self.last(resolved)
            if last is None:
                # The cached queue may have been deleted, and another queue may have its name.
                self.queues.refresh(queue_name, create=False)
                resolved = self.queues.find(queue_name, create=False)
                last = None if resolved is None else self.last(resolved)
            return (None if resolved is None else resolved.queue.uid), last or 0

        return self.shared.read(("now", queue_name), version, ask)

    def last(self, resolved: ResolvedQueue) -> int | None:
        """Return the number of the newest message that was ever in a queue; None if the store has no such queue."""
        uid = resolved.queue.uid
        position = resolved.store_ref.store.queues.positions(uids=[uid], now=self.clock()).get(uid)
        return None if position is None else position.last


def check_marker(marker: str, *, field: str = "marker") -> None:
    """Raise InvalidInput, about ``field``, if ``marker`` does not have the form of a marker."""
    if not isinstance(marker, str) or not is_message_id(marker):
        raise InvalidInput(field, "must be the id of a message")


class Stream:
    """The position of one reader in a queue. ``uid`` is None until the queue exists."""

    def __init__(
        self,
        streams: Streams,
        queue_name: QueueName,
        uid: str | None,
        position: int,
        excluded_client: str | None,
        since: int,
    ) -> None:
        """``since`` is the moment after which each shared read must have begun; 0 if it does not matter."""
        self.queue_name = queue_name
        self.uid = uid
        self._streams = streams
        self._tail = Tail(position)
        self._excluded_client = excluded_client
        self._since = since
        self.on_batch: Callable[[Sequence[Message]], None] | None = None
        """Called with the messages of each batch, if a stage has a hook for it. It may block, even in ``read_kept``."""
        self._fitting = _FIRST_BATCH
        self._follows_full_page = False
        self._is_blocking = True
        self.is_ready = True
        """Whether the next read may find messages at once, so that the transport should not wait."""
        self.is_deleted = False
        """Whether the last read found that the queue was deleted."""

    @property
    def marker(self) -> str:
        """The marker with which the reader resumes after all events up to now.

        If the queue does not exist yet, the reader resumes at its start.
        """
        return message_id(self.uid or _NO_QUEUE, self._tail.resume)

    @property
    def next_due(self) -> float | None:
        """The time at which to read again even if nothing wakes the stream, in seconds since the epoch."""
        return self._tail.next_due

    def read(self, *, version: int, limit: int) -> list[Event]:
        """Return the next events, at most about ``limit`` and MAX_BATCH_BYTES; none if there is nothing new.

        ``version`` is the version of the waiter when its attempt began; it decides whether the result of another reader
        is new enough. Blocks while the store answers. Raises StoreUnavailable; then the stream can be read again.
        """
        streams = self._streams
        now = streams.clock()
        most = min(limit, self._fitting)
        due = self._tail.due(now, most)
        if due:
            return self._read_due(due, version, now)
        most = min(most, self._tail.room)
        if most <= 0:
            self.is_ready = False
            return []
        page = self._share(("page", self._tail.position, most), version, now, lambda: self._read_page(most, now))
        self.is_deleted = page is None and self.uid is not None
        if page is None:
            self.is_ready = self._follows_full_page = False
            return []
        events: list[Event] = []
        if page.uid != self.uid:
            if self.uid is not None:
                events.append(Reset(RECREATED, message_id(page.uid, 0)))
            self.uid, self._tail = page.uid, Tail(0)
        elif not page.messages and (last := self._lost_after(version, now)) is not None:
            # Delayed messages before the loss are read again, because the tail has forgotten them.
            self._tail = Tail(min(last, self._tail.resume))
            self.is_ready = True
            return [Reset(LOST, self.marker)]
        self.is_ready = self._follows_full_page = page.is_cut or len(page.messages) == most
        if page.is_cut:
            self._fitting = len(page.messages)
        elif self.is_ready and most == self._fitting:
            self._fitting = min(2 * most, _MOST_OF_BATCH)
        return [*events, *self._events(self._tail.take(page.messages), page.now)]

    def _lost_after(self, version: int, now: float) -> int | None:
        """Return the number of the newest message if it is smaller than the position, else None.

        In that case the store was restored from a backup, or its fail-over lost the last writes, and it gives the lost
        numbers to new messages. The store is asked only after an empty page, and not after a full one, because an empty
        page after a full one is usual.
        """
        if not self._tail.position or self._follows_full_page:
            return None
        # The position is part of the key: an answer from before the message at the position would look like a loss.
        last = self._share(("last", self._tail.position), version, now, self._ask_last)
        return last if last is not None and last < self._tail.position else None

    def _ask_last(self) -> int | None:
        resolved = self._streams.queues.find(self.queue_name, create=False)
        return None if resolved is None or resolved.queue.uid != self.uid else self._streams.last(resolved)

    def read_kept(self, *, version: int, limit: int) -> list[Event] | None:
        """Do the same as :meth:`read` if the result of another reader can be used; else return None. Does not block."""
        self._is_blocking = False
        try:
            return self.read(version=version, limit=limit)
        except _NotKept:
            return None
        finally:
            self._is_blocking = True

    def use(self, streams: Streams) -> None:
        """Use this object from now on, because the configuration was reloaded."""
        self._streams = streams

    def _share(self, key: tuple[Hashable, ...], version: int, now: float, call: Callable[[], T]) -> T:
        # A result is shared for a second at most, because a deleted or expired message wakes no reader.
        whole = (self.queue_name, self.uid, int(now), *key)
        if self._is_blocking:
            return self._streams.shared.read(whole, version, call, since=self._since)
        kept = self._streams.shared.kept(whole, version, since=self._since)
        if kept is None:
            raise _NotKept
        result: T = kept[0]
        return result

    def _read_page(self, most: int, now: float) -> _Page | None:
        """Read at most ``most`` messages after the position; None if there is no such queue."""

        def read(resolved: ResolvedQueue) -> _Page:
            uid = resolved.queue.uid
            messages = resolved.store_ref.store.messages.list_after(
                queue=resolved.queue,
                after=self._tail.position if uid == self.uid else 0,
                limit=most,
                now=now,
                include_claimed=True,
                include_delayed=True,
            )
            fitting = _fitting(messages)
            shown = self._streams.bodies.show(self.queue_name.project, messages[:fitting])
            return _Page(uid, shown, now, fitting < len(messages))

        return self._streams.queues.serve(self.queue_name, read)

    def _read_due(self, numbers: list[int], version: int, now: float) -> list[Event]:
        def read(resolved: ResolvedQueue) -> tuple[list[int], list[Message]]:
            if resolved.queue.uid != self.uid:
                return numbers, []  # The messages were deleted with their queue.
            found = resolved.store_ref.store.messages.get(queue=resolved.queue, sequences=numbers, now=now)
            fitting = _fitting(found)
            looked_at = numbers
            if fitting < len(found):
                found = found[:fitting]
                looked_at = [number for number in numbers if number <= found[-1].sequence]
            return looked_at, self._streams.bodies.show(self.queue_name.project, found)

        def serve() -> tuple[list[int], list[Message]]:
            return self._streams.queues.serve(self.queue_name, read) or (numbers, [])

        looked_at, found = self._share(("due", *numbers), version, now, serve)
        self.is_ready = True
        return self._events(self._tail.take_due(looked_at, found), now)

    def _events(self, shown: list[Shown], now: float) -> list[Event]:
        assert self.uid is not None
        uid = self.uid
        sent = [each for each in shown if each.message.client_id != self._excluded_client]
        if self.on_batch is not None and sent:
            self.on_batch([each.message for each in sent])
        return [StreamMessage(message_id(uid, each.resume), each.message, now) for each in sent]


def _fitting(messages: Sequence[Message]) -> int:
    """Return how many of the first messages fit into MAX_BATCH_BYTES; at least one."""
    size = 0
    for count, message in enumerate(messages):
        size += len(message.body)
        if size > MAX_BATCH_BYTES and count:
            return count
    return len(messages)
