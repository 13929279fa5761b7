# SPDX-License-Identifier: Apache-2.0
"""Carries notifications from the links of notifiers to the connections of this process, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from zaqar.errors import StoreUnavailable
from zaqar.ipc.push_protocol import Push, Status
from zaqar.service.connection_subscriptions import QUESTIONS
from zaqar.service.store_guard import StoreBusy
from zaqar.transport.websocket.order import Order

_log = logging.getLogger(__name__)

HOLD_SECONDS = 0.5
"""How long a notifier waits for the status of a notification. After that it is told to send the notification again."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of the notifications that are held in memory in all. A further one has to arrive again."""

_BATCH_BYTES = 256 * 1024
"""Bytes that are handed to a connection at a time."""

_TICK_SECONDS = 0.1

_ARRIVAL_SECONDS = 0.03
"""How long to wait for a gap to close by itself, if the last gap of the subscription has closed by itself."""

_FIRST_PAUSE_SECONDS = 0.01
_MAX_PAUSE_SECONDS = 0.2
"""Pause before a store that has an earlier notification is asked again: at first, doubled each time, and at most."""

_AWAY_SECONDS = 1.0
"""Pause before a store that did not answer is asked again."""

Answer = Callable[[Status], None]


class Gone(Exception):
    """A notification was not sent because the connection is closed or is being closed."""


class TooSlow(Exception):
    """None of the notifications was sent because the connection has too many unsent bytes. The caller may retry."""


class Target(Protocol):
    """The part of a connection that pushes need."""

    def encode(self, notification: bytes) -> str | bytes:
        """The frame of a notification, which is given as JSON, in the format that the connection has subscribed in."""

    async def push(self, frames: Sequence[str | bytes]) -> None:
        """Send frames in order. Raises Gone and TooSlow."""


class Subscribed(Protocol):
    """The part of ``ConnectionSubscriptions`` that pushes need. Any thread may call both methods."""

    def is_subscribed(self, connection: str, queue_uid: str, subscription_id: str) -> bool: ...

    def has_undelivered_before(self, connection: str, queue_uid: str, number: int) -> bool:
        """Whether the store has an earlier delivery. Blocks. Raises StoreUnavailable and StoreBusy."""


@dataclass(slots=True, eq=False)
class _Subscription:
    """A subscription. Its times are by the clock of the event loop.

    ``ask_at``: when the store may be asked about a gap. ``pause``: how long to wait after the next answer that does not
    close the gap. ``expects_arrival``: the last gap was closed by a notification that arrived, not by an answer.
    """

    connection: str
    queue_uid: str
    subscription_id: str
    target: Target
    order: Order[Answer] = field(default_factory=Order)
    sending: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None
    blocked: int | None = None
    ask_at: float = 0.0
    pause: float = _FIRST_PAUSE_SECONDS
    expects_arrival: bool = False


class Pushes:
    """For the event loop only."""

    def __init__(
        self,
        subscriptions: Subscribed,
        *,
        find: Callable[[str], Target | None],
        call: Callable[[Callable[[], bool]], asyncio.Future[bool]],
    ) -> None:
        """``find`` returns the connection with an id; ``call`` makes a blocking call in a thread."""
        self._subscriptions = subscriptions
        self._find = find
        self._call = call
        self._by_connection: dict[str, dict[str, _Subscription]] = {}
        """By connection, and by id of the subscription."""
        self._busy: set[_Subscription] = set()
        """Subscriptions with notifications that were not sent yet."""
        self._questions = asyncio.Semaphore(QUESTIONS)
        self._size = 0
        self._tick: asyncio.TimerHandle | None = None

    def use(self, subscriptions: Subscribed) -> None:
        """Use these subscriptions from now on. They know the same connections."""
        self._subscriptions = subscriptions

    def receive(self, push: Push, answer: Answer) -> None:
        """Take a notification that has arrived. ``answer`` is called once, now or later."""
        target = self._find(push.connection)
        is_subscribed = self._subscriptions.is_subscribed(push.connection, push.queue_uid, push.subscription_id)
        if target is None or not is_subscribed:
            ended = self._by_connection.get(push.connection, {}).pop(push.subscription_id, None)
            if ended is not None:
                self._end(ended)
            answer(Status.GONE)
            return
        if self._size > MOST_BYTES:
            answer(Status.WAIT)
            return
        of_connection = self._by_connection.setdefault(push.connection, {})
        subscription = of_connection.get(push.subscription_id)
        if subscription is None:
            subscription = of_connection[push.subscription_id] = _Subscription(
                push.connection, push.queue_uid, push.subscription_id, target
            )
        self._size -= subscription.order.size
        status = subscription.order.arrive(push.number, push.text, answer, again=push.attempts > 0, now=_time())
        self._size += subscription.order.size
        if status is not None:
            answer(status)
        else:
            self._advance(subscription)

    def close(self, connection: str) -> None:
        """Send nothing more to a connection: it has closed, or its subscriptions have ended."""
        for subscription in self._by_connection.pop(connection, {}).values():
            self._end(subscription)

    def stop(self) -> None:
        """Send nothing more; notifiers are told that the connections are gone."""
        for connection in list(self._by_connection):
            self.close(connection)
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    # -- one subscription --------------------------------------------------------------------------------------------

    def _advance(self, subscription: _Subscription) -> None:
        """Send the notifications that are ready, and ask the store about a gap."""
        order = subscription.order
        if not len(order):
            self._busy.discard(subscription)
            subscription.blocked = None
            return
        self._busy.add(subscription)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._expire_overdue)
        if subscription.sending is None and order.has_ready:
            subscription.sending = asyncio.create_task(self._send(subscription))
        if order.blocked != subscription.blocked:
            # A gap was closed, or there is a new one.
            subscription.expects_arrival = subscription.blocked is not None
            subscription.blocked = order.blocked
            subscription.pause = _FIRST_PAUSE_SECONDS
            subscription.ask_at = _time() + (_ARRIVAL_SECONDS if subscription.expects_arrival else 0.0)
        if subscription.blocked is not None and subscription.asking is None:
            subscription.asking = asyncio.create_task(self._ask(subscription))

    async def _send(self, subscription: _Subscription) -> None:
        order = subscription.order
        try:
            while batch := order.take(_BATCH_BYTES):
                await subscription.target.push([subscription.target.encode(entry.text) for entry in batch])
                self._size -= order.size
                done = order.sent()
                self._size += order.size
                _answer_all(done, Status.PUSHED)
        except Gone:
            self._drop(subscription, Status.GONE)
        except TooSlow:
            self._drop(subscription, Status.WAIT)
        except Exception:  # noqa: BLE001, it is logged
            # An error of one connection must not stop the others. Its notifications are sent again later.
            _log.exception("A notification for connection %s cannot be sent.", subscription.connection)
            self._drop(subscription, Status.WAIT)
        finally:
            subscription.sending = None
        self._advance(subscription)

    async def _ask(self, subscription: _Subscription) -> None:
        """Ask the store about the gap until its answer or an arriving notification closes it."""
        try:
            while (number := subscription.blocked) is not None:
                if (seconds := subscription.ask_at - _time()) > 0:
                    await asyncio.sleep(seconds)
                elif await self._may_release(subscription, number):
                    subscription.blocked = None
                    subscription.order.release(number)
                    break
        finally:
            subscription.asking = None
        self._advance(subscription)

    async def _may_release(self, subscription: _Subscription, number: int) -> bool:
        """Whether the store has nothing before that number. If it has, or does not answer, ``ask_at`` is moved on."""
        ask = partial(
            self._subscriptions.has_undelivered_before, subscription.connection, subscription.queue_uid, number
        )
        try:
            async with self._questions:
                undelivered = await self._call(ask)
        except StoreBusy:
            subscription.ask_at = _time() + _FIRST_PAUSE_SECONDS
            return False
        except StoreUnavailable:
            subscription.ask_at = _time() + _AWAY_SECONDS
            return False
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("The store cannot be asked about subscription %s.", subscription.subscription_id)
            subscription.ask_at = _time() + _AWAY_SECONDS
            return False
        if not undelivered:
            return True
        subscription.ask_at = _time() + subscription.pause
        subscription.pause = min(2 * subscription.pause, _MAX_PAUSE_SECONDS)
        return False

    def _expire_overdue(self) -> None:
        """Tell notifiers to send again the notifications that have waited longer than HOLD_SECONDS."""
        self._tick = None
        before = _time() - HOLD_SECONDS
        for subscription in list(self._busy):
            self._size -= subscription.order.size
            calls = subscription.order.expire(before)
            self._size += subscription.order.size
            _answer_all(calls, Status.WAIT)
            self._advance(subscription)
        if self._busy and self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._expire_overdue)

    def _end(self, subscription: _Subscription) -> None:
        for task in (subscription.sending, subscription.asking):
            if task is not None:
                task.cancel()
        self._drop(subscription, Status.GONE)

    def _drop(self, subscription: _Subscription, status: Status) -> None:
        self._size -= subscription.order.size
        _answer_all(subscription.order.fail(), status)
        self._busy.discard(subscription)


def _answer_all(answers: Iterable[Answer], status: Status) -> None:
    for answer in answers:
        answer(status)


def _time() -> float:
    return asyncio.get_running_loop().time()
