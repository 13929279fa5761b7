# SPDX-License-Identifier: Apache-2.0
"""Notifications to WebSocket connections while processes are killed: complete, in order, and removed afterwards.

One of two WebSocket processes is among the killed processes. The tests of one store share a run: the leases of dead
processes expire while the next store is tested.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.acceptance.backends import Backend
from tests.acceptance.push_kills import FULL, SMALL, Run, run_with_kills
from tests.acceptance.push_listeners import Connection
from tests.acceptance.server import wait_until
from tests.acceptance.test_notifications import STORES
from zaqar.storage.base import DROPPED_LIFETIME

SIZE = FULL if os.environ.get("ZAQAR_PUSHES") == "full" else SMALL
"""The full size is that of the promise: 2,000 messages and 100 connections. It takes minutes for each store."""

GONE_SECONDS = 30.0
"""The time limit for the removal of the subscriptions of a killed process."""

Runs = Callable[[Backend | None], Run]

pytestmark = pytest.mark.timeout(1500)
# Not "backend": tests with that parameter run in one process for each backend, so their runs could not overlap.
each_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name if store else "sqlite")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """One run for each store."""
    found: dict[Backend | None, Run] = {}
    with ExitStack() as stack:

        def run_of(backend: Backend | None) -> Run:
            if backend not in found:
                found[backend] = run_with_kills(backend, tmp_path_factory.mktemp("faults"), SIZE, stack)
            return found[backend]

        yield run_of


@each_store
def test_an_open_connection_gets_each_message_in_order_while_other_processes_are_killed(
    runs: Runs, store: Backend | None
) -> None:
    run = runs(store)
    first, *others = run.staying.connections
    order = list(first.numbers)
    # A post whose answer was lost is repeated, so a number may come twice. Its first occurrence counts.
    assert list(dict.fromkeys(first.numbers.values())) == list(range(SIZE.messages))
    acknowledged = set(run.poster.ids)
    assert [id_ for id_ in order if id_ in acknowledged] == run.poster.ids
    assert all(list(each.numbers) == order for each in others)
    assert run.staying.closed == []
    assert len(run.staying.connections) == SIZE.staying
    assert set(run.kills) == {"API", "WebSocket", "notifier"}
    # The process may have been restarted a moment ago, and not handle signals yet.
    assert run.statuses["notifier"] in (0, -signal.SIGTERM)
    assert run.statuses["websocket"] == 0
    report(run)


@each_store
def test_a_connection_of_a_killed_process_has_no_gap_before_the_kill(runs: Runs, store: Backend | None) -> None:
    run = runs(store)
    order = run.staying.connections[0].numbers
    assert len(run.returning.closed) >= SIZE.returning
    assert {each.code for each in run.returning.closed} == {1006}
    for connection in run.returning.connections:
        check_since_subscribed(connection, order)
    assert run.tracebacks() == []


def check_since_subscribed(connection: Connection, order: dict[str, int]) -> None:
    """The connection got the messages in order, without a gap from the first one posted after it subscribed."""
    places = {id_: place for place, id_ in enumerate(order)}
    got = [places[id_] for id_ in connection.numbers]
    assert got == sorted(got)
    start = next((places[id_] for id_, number in order.items() if number >= connection.begun), len(places))
    since = [place for place in got if place >= start]
    end = len(places) if connection.code is None else start + len(since)
    assert since == list(range(start, end))


@each_store
def test_subscriptions_and_deliveries_of_dead_connections_are_removed(runs: Runs, store: Backend | None) -> None:
    run = runs(store)
    watch = run.watch
    assert watch.dead
    wait_until(lambda: not watch.left, seconds=4 * GONE_SECONDS)
    assert watch.most_waiting, "nothing was posted for dead connections"
    last = max(each.died for each in watch.dead.values())
    for each in watch.dead.values():
        assert each.dropped is not None
        # While notifiers are killed as well, none may live long enough.
        since = last if each.died == last else run.last_kill
        assert each.died + each.dropped - since < GONE_SECONDS + watch.slow
    # Includes connections of which the test does not know that they subscribed.
    wait_until(lambda: list((watch.listed() or {}).values()) == [run.sink.url])
    report(run)
    assert run.server.terminate() == 0
    assert run.tracebacks() == []
    assert watch.undelivered() == ([], [])
    left = watch.stored()
    print(f"deliveries of {len(left)} dead subscriptions take space that cannot be reached")
    # These were stored while the others were dropped. The sweep removes them with its second look.
    assert not left or watch.stored(later=2 * DROPPED_LIFETIME) == []


def report(run: Run) -> None:
    """Print the figures of a run, for ``pytest -s``."""
    again = sorted(each.repetitions for each in run.staying.connections)
    stored = len(run.staying.connections[0].numbers)
    print(
        f"{SIZE.messages} messages ({stored} stored) to {SIZE.staying} connections that stay and {SIZE.returning} that "
        f"return, in {run.seconds:.0f} s; kills: {dict(run.kills)}; repetitions of each connection: median "
        f"{again[len(again) // 2]}, most {again[-1]}; webhook: {len(run.sink.receipts)} receipts"
    )
    dead = list(run.watch.dead.values())
    for what, times in {
        "unlisted": [each.unlisted for each in dead],
        "dropped": [each.dropped for each in dead],
    }.items():
        known = sorted(seconds for seconds in times if seconds is not None)
        if known:
            print(f"{len(known)} of {len(dead)} dead {what} after {known[0]:.1f} to {known[-1]:.1f} s")
    ends = [each.died + each.dropped for each in dead if each.dropped is not None]
    if ends:
        print(f"the last one {max(ends) - max(run.websocket_kills):.1f} s after the last WebSocket process was killed")
    print(f"most deliveries that waited for dead connections: {run.watch.most_waiting}")
