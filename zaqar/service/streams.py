# SPDX-License-Identifier: Apache-2.0
"""Streams: readers that follow a queue or topic and can resume without a gap.

A :class:`Stream` knows the queue and the position of one reader. A transport drives it: it calls :meth:`Stream.read`
whenever the stream was woken, is ready or is due, and sends the events. Only ``open`` and ``read`` ask a store.
"""

from __future__ import annotations

from typing import NamedTuple

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import InvalidInput
from zaqar.model import UID_LENGTH, Address, Message, is_message_id, message_id, sequence_of
from zaqar.service.bodies import Bodies
from zaqar.service.queues import Known, Queues
from zaqar.waiting.hub import Hub
from zaqar.waiting.tail import Shown, Tail


class StreamMessage(NamedTuple):
    """A message, as it was at ``now``. A reader that has seen it resumes with ``marker``, which is not its id if an
    earlier message is still delayed."""

    marker: str
    message: Message
    now: float


class Reset(NamedTuple):
    """The queue was created anew. What follows are the messages of the new queue from its start."""

    reason: str
    marker: str


Event = StreamMessage | Reset


class Streams:
    """Opens streams. Readers of a queue at one position cost one read."""

    def __init__(self, *, queues: Queues, bodies: Bodies, clock: Clock, hub: Hub) -> None:
        self.queues = queues
        self.bodies = bodies
        self.clock = clock
        self.shared = hub.shared

    def open(
        self, context: Context, address: Address, *, marker: str | None, from_start: bool, echo: bool, version: int
    ) -> Stream:
        """A stream of the messages after ``marker``.

        Without one, of those that are posted from now on, or with ``from_start`` of all. Without ``echo`` messages of
        the caller's Client-ID are left out. ``version`` is that of the waiter; see :meth:`Stream.read`. Raises
        InvalidInput if ``marker`` is not the id of a message.
        """
        if marker is not None:
            if not is_message_id(marker):
                raise InvalidInput("marker", "must be the id of a message")
            own = marker[:UID_LENGTH]
            return Stream(self, address, own, sequence_of(own, marker) or 0, None if echo else context.client_id)
        uid, last = (None, 0) if from_start else self._now(address, version)
        return Stream(self, address, uid, last, None if echo else context.client_id)

    def _now(self, address: Address, version: int) -> tuple[str | None, int]:
        """The uid of the queue and the number of its newest message; None and 0 if there is no such queue."""

        def ask() -> tuple[str | None, int]:
            row = self.queues.row(address)
            known = None if row is None else self.queues.find(address, create=False)
            if row is None or known is None:
                return None, 0
            position = known.place.store.positions(uids=[row.uid], now=self.clock()).get(row.uid)
            return row.uid, 0 if position is None else position.last

        return self.shared.read(("now", address), version, ask)


class Stream:
    """One reader. ``uid`` is None until the queue exists."""

    def __init__(
        self, streams: Streams, address: Address, uid: str | None, position: int, excluded_client: str | None
    ) -> None:
        self.address = address
        self.uid = uid
        self._streams = streams
        self._tail = Tail(position)
        self._excluded_client = excluded_client
        self.is_ready = True
        """Whether there may be more to read at once, without waiting for anything."""

    @property
    def marker(self) -> str | None:
        """The marker with which a reader that has seen everything up to now resumes; None if there is no queue yet."""
        return None if self.uid is None else message_id(self.uid, self._tail.resume)

    @property
    def next_due(self) -> float | None:
        """When to read again at the latest, in seconds since the epoch, even if nothing wakes the stream."""
        return self._tail.next_due

    def read(self, *, version: int, limit: int) -> list[Event]:
        """The next events, at most about ``limit``; none if there is nothing new. Blocks on the store.

        ``version`` is that of the waiter when its attempt began. Raises StoreUnavailable, after which the stream may
        be read again.
        """
        streams = self._streams
        now = streams.clock()
        due = self._tail.due(now, limit)
        if due:
            return self._read_due(due, version, now)
        most = min(limit, self._tail.room)
        if most <= 0:
            self.is_ready = False
            return []
        key = ("page", self.address, self.uid, self._tail.position, most)
        page = streams.shared.read(key, version, lambda: self._read_page(most, now))
        if page is None:
            self.is_ready = False
            return []
        uid, messages, at = page
        events: list[Event] = []
        if uid != self.uid:
            if self.uid is not None:
                events.append(Reset("recreated", message_id(uid, 0)))
            self.uid, self._tail = uid, Tail(0)
        self.is_ready = len(messages) == most
        return [*events, *self._events(self._tail.take(messages), at)]

    def _read_page(self, most: int, now: float) -> tuple[str, list[Message], float] | None:
        """The uid of the queue, and its messages after the position; None if there is no such queue."""

        def read(known: Known) -> tuple[str, list[Message], float]:
            uid = known.queue.uid
            messages = known.place.store.list_messages(
                queue=known.queue,
                after=self._tail.position if uid == self.uid else 0,
                limit=most,
                now=now,
                include_claimed=True,
                include_delayed=True,
            )
            return uid, self._streams.bodies.show(self.address.project, messages), now

        return self._streams.queues.serve(self.address, read)

    def _read_due(self, numbers: list[int], version: int, now: float) -> list[Event]:
        def read(known: Known) -> list[Message]:
            if known.queue.uid != self.uid:
                return []  # They went with the queue.
            found = known.place.store.get_messages(queue=known.queue, sequences=numbers, now=now)
            return self._streams.bodies.show(self.address.project, found)

        key = ("due", self.address, self.uid, tuple(numbers))
        found = self._streams.shared.read(key, version, lambda: self._streams.queues.serve(self.address, read) or [])
        self.is_ready = True
        return self._events(self._tail.take_due(numbers, found), now)

    def _events(self, shown: list[Shown], now: float) -> list[Event]:
        assert self.uid is not None
        uid = self.uid
        return [
            StreamMessage(message_id(uid, each.resume), each.message, now)
            for each in shown
            if each.message.client_id != self._excluded_client
        ]
