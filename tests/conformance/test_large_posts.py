# SPDX-License-Identifier: Apache-2.0
"""Notifiers on each store while a large post is expanded: each delivery is made once, and nobody is held up."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conformance.outbox import Lane, Outbox
from tests.conformance.scene import Scene
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

    def subscribe_to(self, scene: Scene, count: int) -> list[Lane]:
        queue = scene.queue
        lanes = [Lane(Outbox(self.store, scene.clock), queue.uid) for _ in range(count)]
        for lane in lanes:
            self.subscribe(
                lane.subscription_id,
                host=f"{queue.name}{lanes.index(lane)}",
                queue_uid=queue.uid,
                project=f"project of {queue.name}",
                source=queue.name,
            )
        return lanes


class Watched:
    """The expansion of one queue's posts, as the store answers it; ``at`` says what to do before a piece."""

    def __init__(self, outbox: Outbox, uid: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored = 0
        self.at: dict[int, Callable[[], object]] = {}
        expand = outbox.store.outbox.expand
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

        monkeypatch.setattr(outbox.store.outbox, "expand", watch)


@pytest.mark.parametrize("count", [1, 2])
def test_a_large_post_holds_up_nobody_and_is_expanded_once(
    outbox: Outbox, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", PIECE)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    crowd = Notifiers(store=outbox.store, clock=outbox.clock)  # type: ignore[arg-type]
    large, small = outbox.new_scene("large"), outbox.new_scene("small")
    lanes, (neighbour,) = crowd.subscribe_to(large, SUBSCRIBERS), crowd.subscribe_to(small, 1)
    watched = Watched(outbox, large.queue.uid, monkeypatch)
    posted = threading.Event()

    def post_beside() -> None:
        small.post("beside")
        posted.set()

    watched.at[3] = post_beside

    async def play() -> None:
        large.post(*map(str, range(MESSAGES)))
        async with AsyncExitStack() as stack:
            running = [await stack.enter_async_context(crowd.notifier()) for _ in range(count)]

            def wake() -> None:
                for each in running:
                    each.wake()

            def sent(lane: Lane) -> list[str]:
                return [message for each in running for message in each.messages(lane.subscription_id)]

            wake()
            await until(posted.is_set, 30)
            wake()
            await until(lambda: sent(neighbour), 30)
            assert watched.stored < PIECES, "the large one is under way"
            await until(lambda: watched.stored >= PIECES and all(len(sent(lane)) >= MESSAGES for lane in lanes), 60)
            assert watched.stored == PIECES
            for lane in [*lanes, neighbour]:
                assert set(Counter(sent(lane)).values()) == {1}

    asyncio.run(play())
    assert outbox.take_posted() == []


def test_a_notifier_that_takes_over_goes_on_from_the_position(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_DELIVERIES", PIECE)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 3600.0)
    monkeypatch.setattr("zaqar.notification.notifier.FINISH_SECONDS", 0.1)
    monkeypatch.setattr("zaqar.notification.notifier.HAND_BACK_SECONDS", 0.1)
    crowd = Notifiers(store=outbox.store, clock=outbox.clock)  # type: ignore[arg-type]
    large = outbox.new_scene("large")
    lanes = crowd.subscribe_to(large, SUBSCRIBERS)
    watched = Watched(outbox, large.queue.uid, monkeypatch)

    async def play() -> None:
        cut = threading.Event()
        async with crowd.notifier() as killed:

            def cut_off() -> None:
                killed.connection.cut = True
                cut.set()

            # The piece that is under way then is stored; nothing further reaches the store.
            watched.at[5] = cut_off
            large.post(*map(str, range(MESSAGES)))
            killed.wake()
            await until(cut.is_set, 30)
            await until(lambda: watched.stored == 6)
        outbox.clock.advance(6)
        async with crowd.notifier() as heir:
            heir.wake()
            await until(lambda: watched.stored == PIECES, 60)
            await until(lambda: all(lane.counts() == (0, 0) for lane in lanes), 60)

    asyncio.run(play())
    assert watched.stored == PIECES
    for lane in lanes:
        assert [each.number for each in lane.listing()] == list(range(MESSAGES, 0, -1))
    assert outbox.take_posted() == []
