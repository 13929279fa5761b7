# SPDX-License-Identifier: Apache-2.0
"""Streams: readers that follow a queue or topic and can resume without a gap.

A :class:`Stream` knows the queue and the position of one reader. A transport drives it: it calls :meth:`Stream.read`
whenever the stream was woken, is ready or is due, and sends the events. Only ``open`` and ``read`` ask a store.
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
from zaqar.waiting.tail import Shown, Tail

T = TypeVar("T")

MAX_BATCH_BYTES = 256 * 1024
"""Bodies of the messages that one read returns, unless it returns only one message."""

_FIRST_BATCH = 20
"""Messages of the first read. Later ones have more, or fewer if the messages are large."""

_MOST_OF_BATCH = 100
"""However small they were: the store returns all of them before it is known how large they are."""

_NO_QUEUE = "0" * UID_LENGTH
"""The uid in the marker of a reader that waits for its queue to be created. No queue has it."""


class StreamMessage(NamedTuple):
    """A message, as it was at ``now``. A reader that has seen it resumes with ``marker``, which is not its id if an
    earlier message is still delayed."""

    marker: str
    message: Message
    now: float


class Reset(NamedTuple):
    """The numbers of the queue do not go on from those that the reader has seen. ``marker`` says where it goes on.

    ``reason`` is RECREATED or LOST. The messages of a queue that was created anew follow from its start. If the store
    has lost the newest messages, the messages that were posted after the loss follow.
    """

    reason: str
    marker: str


RECREATED = "recreated"
LOST = "lost"


Event = StreamMessage | Reset


class _NotKept(Exception):
    """The store would have to be read."""


class _Page(NamedTuple):
    """Messages as they were at ``now``. ``is_cut``: whether more were read than a batch may have."""

    uid: str
    messages: list[Message]
    now: float
    is_cut: bool


class Streams:
    """Opens streams. Readers of a queue at one position cost one read."""

    most = _MOST_OF_BATCH
    """Messages that one read returns at most."""

    def __init__(self, *, queues: Queues, bodies: Bodies, clock: Clock, hub: Hub) -> None:
        self.queues = queues
        self.bodies = bodies
        self.clock = clock
        self.shared = hub.shared

    def open(
        self,
        context: Context,
        address: QueueName,
        *,
        marker: str | None,
        from_start: bool,
        echo: bool,
        version: int,
    ) -> Stream:
        """A stream of the messages after ``marker``.

        Without one, of those that are posted from now on, or with ``from_start`` of all. Without ``echo`` messages of
        the caller's Client-ID are left out. ``version`` is that of the waiter; see :meth:`Stream.read`. Raises
        InvalidInput if ``marker`` is not the id of a message.
        """
        if marker is not None:
            check_marker(marker)
            own = marker[:UID_LENGTH]
            uid, last = (None, 0) if own == _NO_QUEUE else (own, sequence_of(own, marker) or 0)
        else:
            uid, last = (None, 0) if from_start else self._now(address, version)
        return Stream(self, address, uid, last, None if echo else context.client_id)

    def is_deleted(self, address: QueueName, marker: str) -> bool:
        """Whether there is no such queue any more, though ``marker`` is that of a reader for which there was one."""
        return not marker.startswith(_NO_QUEUE) and self.queues.row(address) is None

    def _now(self, address: QueueName, version: int) -> tuple[str | None, int]:
        """The uid of the queue and the number of its newest message; None and 0 if there is no such queue."""

        def ask() -> tuple[str | None, int]:
            known = self.queues.find(address, create=False)
            last = None if known is None else self.last(known)
            if last is None:
                # The queue that is remembered may be gone, and another one may have its name.
                self.queues.refresh(address, create=False)
                known = self.queues.find(address, create=False)
                last = None if known is None else self.last(known)
            return (None if known is None else known.queue.uid), last or 0

        return self.shared.read(("now", address), version, ask)

    def last(self, known: ResolvedQueue) -> int | None:
        """The number of the newest message that was ever in a queue; None if the store does not have the queue."""
        uid = known.queue.uid
        position = known.store_ref.store.queues.positions(uids=[uid], now=self.clock()).get(uid)
        return None if position is None else position.last


def check_marker(marker: str, *, field: str = "marker") -> None:
    """Raise InvalidInput, about ``field``, if ``marker`` cannot be that of a stream."""
    if not isinstance(marker, str) or not is_message_id(marker):
        raise InvalidInput(field, "must be the id of a message")


class Stream:
    """One reader. ``uid`` is None until the queue exists."""

    def __init__(
        self, streams: Streams, address: QueueName, uid: str | None, position: int, excluded_client: str | None
    ) -> None:
        self.address = address
        self.uid = uid
        self._streams = streams
        self._tail = Tail(position)
        self._excluded_client = excluded_client
        self.tell: Callable[[Sequence[Message]], None] | None = None
        """Called with the messages of each batch, if stages want to know. It may block, also in ``read_kept``."""
        self._fitting = _FIRST_BATCH
        self._follows_full_page = False
        self._is_blocking = True
        self.is_ready = True
        """Whether there may be more to read at once, without waiting for anything."""
        self.is_deleted = False
        """Whether the last read found that the queue, which this stream has followed, does not exist any more."""

    @property
    def marker(self) -> str:
        """The marker with which a reader that has seen everything up to now resumes.

        If there is no queue yet, that is a marker with which the reader gets all messages of the queue.
        """
        return message_id(self.uid or _NO_QUEUE, self._tail.resume)

    @property
    def next_due(self) -> float | None:
        """When to read again at the latest, in seconds since the epoch, even if nothing wakes the stream."""
        return self._tail.next_due

    def read(self, *, version: int, limit: int) -> list[Event]:
        """The next events, at most about ``limit`` and MAX_BATCH_BYTES; none if there is nothing new.

        ``version`` is that of the waiter when its attempt began. Blocks on the store. Raises StoreUnavailable, after
        which the stream may be read again.
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
            # Held numbers that are not lost are read again.
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
        """The number of the newest message, if it is smaller than the position; else None.

        Then the store was restored from a backup, or its fail-over has lost what was written last, and it gives the
        lost numbers to new messages. A queue that has nothing new is asked for this, unless the last page was full:
        after such a page an empty one is usual.
        """
        if not self._tail.position or self._follows_full_page:
            return None
        # With the position, because an answer from before that message was posted would look like a loss.
        last = self._share(("last", self._tail.position), version, now, self._ask_last)
        return last if last is not None and last < self._tail.position else None

    def _ask_last(self) -> int | None:
        known = self._streams.queues.find(self.address, create=False)
        return None if known is None or known.queue.uid != self.uid else self._streams.last(known)

    def read_kept(self, *, version: int, limit: int) -> list[Event] | None:
        """The same as :meth:`read` if the result of another reader can be used, else None. It does not block."""
        self._is_blocking = False
        try:
            return self.read(version=version, limit=limit)
        except _NotKept:
            return None
        finally:
            self._is_blocking = True

    def use(self, streams: Streams) -> None:
        """Read with this object from now on, because the configuration was reloaded."""
        self._streams = streams

    def _share(self, key: tuple[Hashable, ...], version: int, now: float, call: Callable[[], T]) -> T:
        # By the second: a message may be deleted or expire and nothing wakes readers then.
        whole = (self.address, self.uid, int(now), *key)
        if self._is_blocking:
            return self._streams.shared.read(whole, version, call)
        kept = self._streams.shared.kept(whole, version)
        if kept is None:
            raise _NotKept
        result: T = kept[0]
        return result

    def _read_page(self, most: int, now: float) -> _Page | None:
        """The messages after the position, at most ``most``; None if there is no such queue."""

        def read(known: ResolvedQueue) -> _Page:
            uid = known.queue.uid
            messages = known.store_ref.store.messages.list_after(
                queue=known.queue,
                after=self._tail.position if uid == self.uid else 0,
                limit=most,
                now=now,
                include_claimed=True,
                include_delayed=True,
            )
            fitting = _fitting(messages)
            shown = self._streams.bodies.show(self.address.project, messages[:fitting])
            return _Page(uid, shown, now, fitting < len(messages))

        return self._streams.queues.serve(self.address, read)

    def _read_due(self, numbers: list[int], version: int, now: float) -> list[Event]:
        def read(known: ResolvedQueue) -> tuple[list[int], list[Message]]:
            if known.queue.uid != self.uid:
                return numbers, []  # They went with the queue.
            found = known.store_ref.store.messages.get(queue=known.queue, sequences=numbers, now=now)
            fitting = _fitting(found)
            looked_at = numbers
            if fitting < len(found):
                found = found[:fitting]
                looked_at = [number for number in numbers if number <= found[-1].sequence]
            return looked_at, self._streams.bodies.show(self.address.project, found)

        def serve() -> tuple[list[int], list[Message]]:
            return self._streams.queues.serve(self.address, read) or (numbers, [])

        looked_at, found = self._share(("due", *numbers), version, now, serve)
        self.is_ready = True
        return self._events(self._tail.take_due(looked_at, found), now)

    def _events(self, shown: list[Shown], now: float) -> list[Event]:
        assert self.uid is not None
        uid = self.uid
        sent = [each for each in shown if each.message.client_id != self._excluded_client]
        if self.tell is not None and sent:
            self.tell([each.message for each in sent])
        return [StreamMessage(message_id(uid, each.resume), each.message, now) for each in sent]


def _fitting(messages: Sequence[Message]) -> int:
    """How many of the first messages make a batch."""
    size = 0
    for count, message in enumerate(messages):
        size += len(message.body)
        if size > MAX_BATCH_BYTES and count:
            return count
    return len(messages)
