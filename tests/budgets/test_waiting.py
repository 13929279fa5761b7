# SPDX-License-Identifier: Apache-2.0
"""The number of calls of the stores while clients wait, for any number of clients, and while no client waits."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores import replace_methods
from tests.unit.waiting.processes import CALLER, QUEUE_NAME, Process
from zaqar import app, conf
from zaqar.model import UID_LENGTH
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.waiting import shared_reads
from zaqar.waiting.polling import StorePoller
from zaqar.waiting.registry import Waiter
from zaqar.waiting.waiters import Kind, Located

WAITING = 1000
MOST = 4


class Counted:
    """A process on stores whose calls are counted."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        loaded = conf.load([], default_config_files=[])
        loaded.set_override("state_dir", str(tmp_path))
        for option in ("max_waiting_clients", "max_streams"):
            loaded.set_override(option, WAITING, "transport")
            loaded.set_override(f"{option}_per_project", WAITING, "transport")
        stores: dict[str, Any] = {}
        if kind == "memory":
            stores = {"management": MemoryManagementStore(), "messages": MemoryMessageStore()}
        self.parts = app.build(loaded, **stores)
        self.process = Process(self.parts)
        self.calls: list[str] = []
        store_ref = self.parts.placement.all_stores()[0]
        replace_methods(store_ref.store, self._counted)
        replace_methods(self.parts.management, self._counted)
        self.uid = self.process.post("x")[0][:UID_LENGTH]
        self.process.claim()
        self.registry = self.parts.hub.registry
        self.poller = StorePoller(store_ref, self.registry, self.parts.clock, lost=lambda: None)
        # The test runs the periodic look itself, so that no thread does it meanwhile.
        monkeypatch.setattr(self.parts.hub, "_watch", lambda _: None)
        # On a busy machine a thousand readers may take longer than a result is cached.
        monkeypatch.setattr(shared_reads, "KEEP_SECONDS", 3600.0)
        self.ready: deque[Waiter] = deque()
        self.located = Located(self.uid, store_ref)

    def _counted(self, name: str, method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return method(*args, **kwargs)

        return call

    def join(self, kind: Kind) -> Waiter:
        waiter: Waiter
        waiter = self.registry.join(QUEUE_NAME, self.located, kind, wake=lambda: self.ready.append(waiter))
        self.parts.hub.check_at = 0.0
        return waiter

    def look(self) -> None:
        """Do the work that the thread of the store does once a second."""
        self.poller._next_full = float("-inf")
        self.poller.step()


@pytest.fixture(params=["memory", "sqlite"])
def counted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    made = Counted(tmp_path, monkeypatch, request.param)
    yield made
    made.parts.close()


def test_a_post_is_claimed_once_for_any_number_of_waiting_takers(counted: Counted) -> None:
    """A post leads to one claim, and to a second claim that finds nothing more. No other taker tries."""
    served = []

    def attempts() -> None:
        while counted.ready:
            waiter = counted.ready.popleft()
            waiter.begin()
            found = counted.process.attempt()
            waiter.finish(is_full=found.is_full, is_served=found.is_served)
            if found.is_served:
                served.append(waiter)
                waiter.leave()

    waiters = [counted.join(Kind.TAKER) for _ in range(WAITING)]
    counted.ready.append(waiters[0])
    attempts()
    counted.look()
    for number in range(3):
        counted.calls.clear()
        counted.process.post(str(number))
        attempts()
        counted.look()
        assert len(counted.calls) <= MOST, counted.calls
        assert sorted(counted.calls) == ["claims.claim", "claims.claim", "messages.post", "queues.positions"]
    assert served == waiters[:3]


def test_one_read_serves_any_number_of_streams(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read serves all streams with the message of a post."""
    # Streams share no result after the second of the clock in which it was read.
    now = counted.parts.clock()
    monkeypatch.setattr(counted.parts.streams, "clock", lambda: now)
    streams = {}
    for _ in range(WAITING):
        waiter = counted.join(Kind.READER)
        streams[waiter] = counted.parts.streams.open(
            CALLER, QUEUE_NAME, marker=None, from_start=False, echo=True, version=waiter.begin()
        )

    def read() -> list[int]:
        seen = []
        while counted.ready:
            waiter = counted.ready.popleft()
            stream, version = streams[waiter], waiter.begin()
            stream.is_ready = True
            while stream.is_ready:
                seen.append(len(stream.read(version=version, limit=10)))
        return seen

    counted.look()
    read()
    for number in range(3):
        counted.calls.clear()
        counted.process.post(str(number))
        assert read() == [1] * WAITING
        counted.look()
        # The look has found nothing that the readers have not seen.
        assert read() == []
        assert len(counted.calls) <= MOST, counted.calls
        assert sorted(counted.calls) == ["messages.list_after", "messages.post", "queues.positions"]


def test_the_periodic_look_is_one_call_for_all_queues(counted: Counted) -> None:
    for number in range(50):
        queue_name = QUEUE_NAME._replace(name=f"q{number}")
        known = counted.parts.queues.ensure(queue_name)
        counted.registry.join(queue_name, Located(known.queue.uid, known.store_ref), Kind.TAKER, wake=lambda: None)
    counted.calls.clear()
    counted.look()
    assert counted.calls == ["queues.positions"]


def test_without_waiting_clients_no_additional_call_is_made(counted: Counted) -> None:
    counted.calls.clear()
    counted.process.post("x")
    claim_id, _ = counted.process.claim()
    counted.parts.claims.release(QUEUE_NAME, claim_id)
    assert counted.calls == ["messages.post", "claims.claim", "claims.release"]
    assert not counted.parts.hub._background._jobs
