# SPDX-License-Identifier: Apache-2.0
"""Part ``outbox``, a large post: notifiers make each delivery once, and other queues are not delayed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog
from tests.conformance.queue_client import QueueClient
from tests.unit.notification import harness
from tests.unit.notification.harness import until
from zaqar.model import Posted, PostPosition
from zaqar.notification import pieces

SUBSCRIBERS, MESSAGES, PIECE = 10, 120, 40
PIECES = SUBSCRIBERS * MESSAGES // PIECE


class Notifiers(harness.Harness):
    """Notifiers on the store under test, with subscriptions in memory."""

    def __post_init__(self) -> None:
        """Without the queue of its own that the other tests have."""

    def subscribe_to(self, orders: QueueClient, count: int) -> list[SubscriptionBacklog]:
        queue = orders.queue
        backlogs = [SubscriptionBacklog(NotifierClient(self.store, orders.clock), queue.uid) for _ in range(count)]
        for backlog in backlogs:
            self.subscribe(
                backlog.subscription_id,
                host=f"{queue.name}{backlogs.index(backlog)}",
                queue_uid=queue.uid,
                project=f"project of {queue.name}",
                source=queue.name,
            )
        return backlogs


class Watched:
    """The expansion of one queue's posts, as the store answers it; ``at`` says what to do before a piece."""

    def __init__(self, notifier: NotifierClient, uid: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored = 0
        self.at: dict[int, Callable[[], object]] = {}
        expand = notifier.store.outbox.expand
        lock = threading.Lock()

        def watch(*, posted: Posted, position: PostPosition | None, **rest: Any) -> bool:
            is_piece = posted.queue_uid == uid and posted.position != position
            if is_piece:
                with lock:
                    self.at.pop(self.stored, lambda: None)()
            stored = expand(posted=posted, position=position, **rest)
            with lock:
                self.stored += is_piece and stored
            return stored

        monkeypatch.setattr(notifier.store.outbox, "expand", watch)


@pytest.mark.parametrize("count", [1, 2])
def test_a_large_post_delays_no_other_queue_and_is_expanded_once(
    notifier: NotifierClient, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", PIECE)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    group = Notifiers(store=notifier.store, clock=notifier.clock)  # type: ignore[arg-type]
    large, small = notifier.open_queue("large"), notifier.open_queue("small")
    backlogs, (neighbour,) = group.subscribe_to(large, SUBSCRIBERS), group.subscribe_to(small, 1)
    watched = Watched(notifier, large.queue.uid, monkeypatch)
    posted = threading.Event()

    def post_beside() -> None:
        small.post("beside")
        posted.set()

    watched.at[3] = post_beside

    async def play() -> None:
        large.post(*map(str, range(MESSAGES)))
        async with AsyncExitStack() as stack:
            running = [await stack.enter_async_context(group.notifier()) for _ in range(count)]

            def wake() -> None:
                for each in running:
                    each.wake()

            def sent(backlog: SubscriptionBacklog) -> list[str]:
                return [message for each in running for message in each.messages(backlog.subscription_id)]

            wake()
            await until(posted.is_set, 30)
            wake()
            await until(lambda: sent(neighbour), 30)
            assert watched.stored < PIECES, "the large one is under way"
            await until(
                lambda: watched.stored >= PIECES and all(len(sent(backlog)) >= MESSAGES for backlog in backlogs), 60
            )
            assert watched.stored == PIECES
            for backlog in [*backlogs, neighbour]:
                assert set(Counter(sent(backlog)).values()) == {1}

    asyncio.run(play())
    assert notifier.take_posted() == []


def test_a_notifier_that_takes_over_a_post_continues_at_its_position(
    notifier: NotifierClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", PIECE)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    monkeypatch.setattr("zaqar.notification.notifier.FINISH_SECONDS", 0.1)
    monkeypatch.setattr("zaqar.notification.notifier.HAND_BACK_SECONDS", 0.1)
    group = Notifiers(store=notifier.store, clock=notifier.clock)  # type: ignore[arg-type]
    large = notifier.open_queue("large")
    backlogs = group.subscribe_to(large, SUBSCRIBERS)
    watched = Watched(notifier, large.queue.uid, monkeypatch)

    async def play() -> None:
        cut = threading.Event()
        async with group.notifier() as killed:

            def cut_off() -> None:
                killed.connection.cut = True
                cut.set()

            # The piece that is under way then is stored; nothing further reaches the store.
            watched.at[5] = cut_off
            large.post(*map(str, range(MESSAGES)))
            killed.wake()
            await until(cut.is_set, 30)
            await until(lambda: watched.stored == 6)
        notifier.clock.advance(6)
        async with group.notifier() as heir:
            heir.wake()
            await until(lambda: watched.stored == PIECES, 60)
            await until(lambda: all(backlog.counts() == (0, 0) for backlog in backlogs), 60)

    asyncio.run(play())
    assert watched.stored == PIECES
    for backlog in backlogs:
        assert [each.number for each in backlog.listing()] == list(range(MESSAGES, 0, -1))
    assert notifier.take_posted() == []
