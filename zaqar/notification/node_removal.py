# SPDX-License-Identifier: Apache-2.0
"""Ends the subscriptions of WebSocket processes that are dead. The notifier runs it beside its deliveries.

Each such process is a node with a lease in the management store. If it is killed, nobody renews the lease. Any number
of notifiers look for nodes whose lease is over; what they do for one of them they may do at the same time, as each step
is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.notification.calls import Calls
from zaqar.storage.base.nodes import NodeStore

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0

FIRST_SECONDS = 3.0
"""When to look first: the store may have been away until this process started."""

AWAY_SECONDS = 10.0
"""Pause after the management store did not answer: the nodes could not renew their leases either, and come first."""

NODES = 4
"""Nodes whose subscriptions are being ended at a time. Each takes a thread."""

RemoveOfNode = Callable[[str], int]
"""Ends some subscriptions of a node, with their deliveries; returns how many, 0 if none are left.

It blocks, and raises StoreUnavailable.
"""


class NodeRemoval:
    def __init__(self, nodes: NodeStore, remove_subscriptions: RemoveOfNode, *, clock: Clock) -> None:
        self._nodes = nodes
        self._remove_subscriptions = remove_subscriptions
        self._clock = clock
        self._calls = Calls("node removal", NODES)

    async def run(self) -> None:
        """Go on until it is cancelled. What is cut off then is done by the next one that looks."""
        pause = FIRST_SECONDS
        try:
            while True:
                await asyncio.sleep(pause)
                pause = POLL_SECONDS
                try:
                    await self.run_once()
                except StoreUnavailable:
                    # The driver of the store has logged it.
                    pause = AWAY_SECONDS
                except Exception:  # noqa: BLE001, it is logged
                    # It must not end for all time.
                    _log.error("An error of the notifier at the removal of WebSocket processes", exc_info=True)
                    pause = AWAY_SECONDS
        finally:
            self._calls.close()

    async def run_once(self) -> None:
        """Look once. Raises StoreUnavailable."""
        over = await self._calls.run(partial(self._nodes.list_over, now=self._clock(), limit=NODES))
        outcomes = await asyncio.gather(*map(self._remove, over), return_exceptions=True)
        for error in outcomes:
            if isinstance(error, BaseException):
                raise error

    async def _remove(self, node_id: str) -> None:
        condemn = partial(self._nodes.condemn, node_id=node_id, now=self._clock())
        if not await self._calls.run(condemn):
            return  # It has renewed its lease in time.
        ended = 0
        while some := await self._calls.run(partial(self._remove_subscriptions, node_id)):
            ended += some
        await self._calls.run(partial(self._nodes.remove, node_id=node_id))
        _log.info("Node %s has ended; %d subscriptions of its connections are removed.", node_id, ended)
