# SPDX-License-Identifier: Apache-2.0
"""A WebSocket process as a node: its lease, what happens when it was too slow to renew that, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar import app, conf
from zaqar.context import Context
from zaqar.errors import StoreUnavailable
from zaqar.model import QUEUE, QueueName
from zaqar.notification import node_removal
from zaqar.service.nodes import LEASE_SECONDS, Nodes
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket import node as module
from zaqar.transport.websocket.node import NodeService

_RENEWAL_SECONDS = module.RENEWAL_SECONDS

QUEUE_NAME = QueueName("shop", QUEUE, "orders")


class Harness:
    """A process on memory stores with the connections ``c`` and ``d``."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.management = MemoryManagementStore()
        self.parts = app.build(
            conf.load([], default_config_files=[]),
            clock=self.clock,
            management=self.management,
            messages=MemoryMessageStore(),
        )
        self.open: dict[str, Any] = {"c": object(), "d": object()}
        self.closed: list[str] = []
        self.service = NodeService(
            Nodes(self.management, self.clock),
            self.parts.connection_subscriptions,
            find=self.open.get,
            close=self.closed.append,
        )

    def subscribe(self, connection: str) -> str:
        return self.parts.connection_subscriptions.create(Context("shop", "client"), QUEUE_NAME, b"{}", connection)

    def subscriptions(self) -> list[str]:
        return [each.id for each in self.parts.subscriptions.list_page(QUEUE_NAME, marker=None, limit=10)[0]]

    def over(self) -> list[str]:
        """The ids of the nodes whose leases have expired."""
        return self.management.nodes.list_expired(now=self.clock.now, limit=10)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Harness]:
    harness = Harness()
    await harness.service.start(folder=folder / "nodes", host="127.0.0.1", port=0)
    await until(lambda: harness.service._node is not None)
    try:
        yield harness
    finally:
        await harness.service.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RENEWAL_SECONDS", "RETRY_SECONDS", "_TIDY_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


def test_the_lease_is_renewed(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as harness:
            for _ in range(3):
                harness.clock.advance(LEASE_SECONDS - 1)
                await asyncio.sleep(0.1)
                assert harness.over() == []

    asyncio.run(go())


def test_a_closed_connection_loses_its_subscriptions(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as harness:
            harness.subscribe("c")
            kept = harness.subscribe("d")
            del harness.open["c"]
            harness.service.end("c")
            await until(lambda: harness.subscriptions() == [kept])

    asyncio.run(go())


def test_a_store_outage_at_a_close_delays_the_removal_of_subscriptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with running(tmp_path) as harness:
            harness.subscribe("c")
            tries = 0

            def away(**_: Any) -> bool:
                nonlocal tries
                tries += 1
                raise StoreUnavailable

            with monkeypatch.context() as outage:
                outage.setattr(harness.management.subscriptions, "delete_many", away)
                harness.service.end("c")
                await until(lambda: tries > 1)
            await until(lambda: harness.subscriptions() == [])

    asyncio.run(go())


def test_a_process_with_an_expired_lease_closes_subscribed_connections_and_registers_again(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as harness:
            harness.subscribe("c")
            before = harness.service._node
            assert before is not None
            assert harness.management.nodes.condemn(node_id=before.id, now=harness.clock.now + 2 * LEASE_SECONDS)
            await until(lambda: harness.closed == ["c"])
            await until(lambda: harness.service._node not in (None, before))
            # The other connection had no subscription, so it stays open and may subscribe now.
            harness.subscribe("d")

    asyncio.run(go())


@pytest.mark.parametrize("is_condemned", [True, False])
def test_renewals_that_fail_for_longer_than_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_condemned: bool
) -> None:
    """If only this process was cut off, its lease has expired and it registers again. Otherwise nothing is lost."""

    async def go() -> None:
        async with running(tmp_path) as harness:
            id_ = harness.subscribe("c")
            before = harness.service._node
            assert before is not None
            tries = 0

            def away(**_: Any) -> bool:
                nonlocal tries
                tries += 1
                raise StoreUnavailable

            with monkeypatch.context() as outage:
                outage.setattr(harness.management.nodes, "renew", away)
                harness.clock.advance(LEASE_SECONDS + 5)
                await until(lambda: tries > 2)
                assert harness.closed == []
                if is_condemned:
                    assert harness.management.nodes.condemn(node_id=before.id, now=harness.clock.now)
            if is_condemned:
                await until(lambda: harness.closed == ["c"])
                await until(lambda: harness.service._node not in (None, before))
                harness.subscribe("d")
                (node_id,) = harness.over()
                assert sum(harness.parts.connection_subscriptions.remove_of_node(node_id)) == 1
                assert id_ not in harness.subscriptions()
            else:
                await until(lambda: harness.over() == [])
                assert harness.service._node is before
                assert harness.closed == []
            assert len(harness.subscriptions()) == 1

    asyncio.run(go())


@pytest.mark.parametrize("skew", [-5.0, 5.0])
def test_a_clock_that_is_off_by_five_seconds_neither_kills_a_node_nor_keeps_it(skew: float) -> None:
    """The clock of the process differs from that of the notifier, and one renewal fails."""
    clock, management = FakeClock(), MemoryManagementStore()
    nodes = Nodes(management, lambda: clock.now + skew)
    node = nodes.begin(path="", host="h", port=1)
    for _ in range(3):
        clock.advance(2 * _RENEWAL_SECONDS)
        assert management.nodes.list_expired(now=clock.now, limit=10) == []
        assert nodes.renew(node)
    clock.advance(LEASE_SECONDS + abs(skew))
    assert management.nodes.list_expired(now=clock.now, limit=10) == [node.id]
    assert LEASE_SECONDS + abs(skew) + node_removal.POLL_SECONDS < 30


@pytest.mark.parametrize("is_away", [False, True])
def test_after_a_stop_notifiers_may_remove_remaining_subscriptions_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    def away(**_: Any) -> bool:
        raise StoreUnavailable

    async def go() -> None:
        async with running(tmp_path) as harness:
            harness.subscribe("c")
            node = harness.service._node
            assert node is not None
            if is_away:
                monkeypatch.setattr(harness.management.subscriptions, "delete_many", away)
            harness.service.end("c")
        assert harness.over() == [node.id]
        assert bool(harness.subscriptions()) is is_away

    asyncio.run(go())
