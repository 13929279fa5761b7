# SPDX-License-Identifier: Apache-2.0
"""Ends the subscriptions of WebSocket processes that are dead. The notifier runs it beside its deliveries.

Each such process is a node with a lease in the management store. If it is killed, nobody renews the lease. Any number
of notifiers look for nodes whose lease has expired, and may remove one node at the same time, as each step is
idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.notification.executors import StoreExecutor
from zaqar.storage.base.nodes import NodeStore

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0

FIRST_SECONDS = 3.0
"""Pause before the first look: the store may have been away until this process started."""

AWAY_SECONDS = 10.0
"""Pause after the management store did not answer: the nodes could not renew their leases either, and come first."""

NODES = 4
"""Nodes that are being removed at a time. Each takes a thread."""

TURN_SECONDS = 5.0
"""Length of a turn: how long one removal goes on before a node that waits gets its turn."""

SLOW_SECONDS = 2.0
"""A step that takes longer has waited for a store that does not answer: the node is left alone for a while."""

FIRST_PAUSE_SECONDS = 2.0
MOST_PAUSE_SECONDS = 30.0
"""Back-off of a node after a failure or a slow step: at first, doubled each time, and at most."""

FORGOTTEN_SECONDS = 600.0
"""Time between two searches for notes of removed nodes, which a crash may have left."""

MAX_KNOWN = 200
"""Nodes whose removal has begun and not ended. Of more, the one with the longest back-off is forgotten, and begun again
when it is listed the next time."""

RemoveOfNode = Callable[[str], Iterator[int]]
"""Ends all subscriptions of a node, with their deliveries. Each step yields how many it has ended.

A step blocks, and may raise StoreUnavailable.
"""


@dataclass(slots=True)
class _Removal:
    """A node whose removal has begun. Times are those of the event loop."""

    node_id: str
    steps: Iterator[int] | None = None
    """None until the node is condemned, and after a failure: then it begins again."""
    ended: int = 0
    pause: float = 0.0
    try_after: float = float("-inf")
    task: asyncio.Task[None] | None = None


class NodeRemoval:
    """Condemns nodes whose lease has expired, and removes their subscriptions. One object serves one event loop."""

    def __init__(self, nodes: NodeStore, remove_subscriptions: RemoveOfNode, *, clock: Clock) -> None:
        self._nodes = nodes
        self._remove_subscriptions = remove_subscriptions
        self._clock = clock
        # One more thread, so that the search for expired nodes never waits for removals.
        self._executor = StoreExecutor("node removal", NODES + 1)
        self._removals: dict[str, _Removal] = {}
        self._look_for_forgotten_at = float("-inf")
        self._turn_ended = asyncio.Event()

    async def run(self) -> None:
        """Go on until it is cancelled. The next notifier that looks finishes a removal that was cut off."""
        try:
            await asyncio.sleep(FIRST_SECONDS)
            while True:
                if await self._try_to_look():
                    await self._wait_for_next_look()
                else:
                    await asyncio.sleep(AWAY_SECONDS)
        finally:
            for task in self._running():
                task.cancel()
            self._executor.close()

    async def _try_to_look(self) -> bool:
        try:
            await self.look()
        except StoreUnavailable:
            # The driver of the store has logged it.
            return False
        except Exception:  # noqa: BLE001, it is logged
            # The loop must go on.
            _log.error("An error of the notifier at the removal of WebSocket processes", exc_info=True)
            return False
        return True

    async def _wait_for_next_look(self) -> None:
        """Wait for POLL_SECONDS, or until a turn ends, because another node may wait for its turn."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._turn_ended.wait()

    def _running(self) -> list[asyncio.Task[None]]:
        return [each.task for each in self._removals.values() if each.task is not None]

    async def look(self) -> None:
        """Look once for nodes to remove, and begin or go on with up to NODES in all. Raises StoreUnavailable.

        A node is condemned only just after the management store has answered. If it was away, the nodes get
        AWAY_SECONDS to renew their leases before the next look.
        """
        self._turn_ended.clear()
        loop = asyncio.get_running_loop()
        if loop.time() >= self._look_for_forgotten_at:
            await self._executor.run(self._nodes.condemn_forgotten)
            self._look_for_forgotten_at = loop.time() + FORGOTTEN_SECONDS
        # Known nodes may be listed first. So ask for that many more, so that unknown nodes are listed as well.
        limit = NODES + len(self._removals)
        over = await self._executor.run(partial(self._nodes.list_expired, now=self._clock(), limit=limit))
        if len(over) < limit:
            self._forget_all_but(over)
        now = loop.time()
        for node_id in over:
            self._removals.setdefault(node_id, _Removal(node_id))
        waiting = [each for each in self._removals.values() if each.task is None and each.try_after <= now]
        # In random order, so that several notifiers begin with different nodes.
        random.shuffle(waiting)
        # New nodes first, then the nodes whose last turn was longest ago.
        waiting.sort(key=lambda each: each.try_after)
        for each in waiting[: max(0, NODES - len(self._running()))]:
            each.task = asyncio.create_task(self._take_turn(each))
        self._bound()

    def _forget_all_but(self, over: list[str]) -> None:
        """Forget nodes that other notifiers have removed, or that have renewed their lease in time."""
        there = set(over)
        for node_id in [each.node_id for each in self._removals.values() if each.task is None]:
            if node_id not in there:
                del self._removals[node_id]

    def _bound(self) -> None:
        idle = sorted((each for each in self._removals.values() if each.task is None), key=lambda each: each.try_after)
        for each in idle[max(0, MAX_KNOWN - len(self._running())) :]:
            del self._removals[each.node_id]

    async def _take_turn(self, removal: _Removal) -> None:
        """Work on one node for a while; it is removed, or gets another turn later."""
        loop = asyncio.get_running_loop()
        is_slow, is_over = False, False
        try:
            ends = loop.time() + TURN_SECONDS
            while True:
                began = loop.time()
                is_over = await self._step(removal)
                is_slow = loop.time() - began > SLOW_SECONDS
                if is_over or is_slow or loop.time() >= ends:
                    break
        except StoreUnavailable:
            removal.steps, is_slow = None, True
        except Exception:  # noqa: BLE001, it is logged
            _log.error("An error of the notifier at the removal of node %s", removal.node_id, exc_info=True)
            removal.steps, is_slow = None, True
        finally:
            removal.task = None
            self._turn_ended.set()
        if is_over:
            self._removals.pop(removal.node_id, None)
            return
        removal.pause = min(max(FIRST_PAUSE_SECONDS, 2 * removal.pause), MOST_PAUSE_SECONDS) if is_slow else 0.0
        removal.try_after = loop.time() + removal.pause

    async def _step(self, removal: _Removal) -> bool:
        """Take the next step of a removal; True if it was the last one, or if the node lives."""
        node_id = removal.node_id
        if removal.steps is None:
            condemn = partial(self._nodes.condemn, node_id=node_id, now=self._clock())
            if not await self._executor.run(condemn):
                return True  # It has renewed its lease in time.
            removal.steps = self._remove_subscriptions(node_id)
        steps = removal.steps
        # A StopIteration cannot be raised into a coroutine.
        ended = await self._executor.run(lambda: next(steps, None))
        if ended is not None:
            removal.ended += ended
            return False
        await self._executor.run(partial(self._nodes.remove, node_id=node_id))
        _log.info("Node %s has ended; %d subscriptions of its connections are removed.", node_id, removal.ended)
        return True
