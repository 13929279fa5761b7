# SPDX-License-Identifier: Apache-2.0
"""The events that wake waiting clients, in the same process and in another one. Polls are usually an hour apart."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.unit.waiting.processes import QUEUE_NAME, SECONDS, Process, WaitingClaim, build, until
from zaqar import conf
from zaqar.errors import StoreUnavailable
from zaqar.ipc import socket_files, wakeup_socket
from zaqar.model import UID_LENGTH, QueuePosition
from zaqar.storage.base import Wakeups
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.waiting import background, polling, wakeups
from zaqar.waiting import hub as waiting_hub
from zaqar.waiting.blocking import Attempt, wait_for
from zaqar.waiting.polling import StorePoller
from zaqar.waiting.registry import Registry
from zaqar.waiting.waiters import Kind, Located, TooManyWaiting, Wake, digest_of
from zaqar.waiting.wakeups import WakeupMessage


class Pair:
    """Two processes: clients wait in ``here``, and ``there`` changes queues."""

    def __init__(self, here: Process, there: Process) -> None:
        self.here = here
        self.there = there

    def wait(self, **keywords: Any) -> WaitingClaim:
        """A client that waits, after the other process has noticed its socket."""
        waiting = WaitingClaim(self.here, **keywords)
        until(lambda: waiting.attempts or not waiting.thread.is_alive())
        self.meet()
        return waiting

    def meet(self) -> None:
        hub = self.there.parts.hub
        until(self.is_listening)
        # The other process lists the folder at most once a second.
        hub._wakeup_sender._list_again = hub.check_at = float("-inf")

    def is_listening(self) -> bool:
        return bool(socket_files.names(conf.waiters_dir(self.here.parts.conf)))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(polling, "POLL_SECONDS", 3600.0)
    stores: dict[str, Any] = {"management": MemoryManagementStore(), "messages": MemoryMessageStore()}
    made = Pair(Process(build(tmp_path, **stores)), Process(build(tmp_path, **stores)))
    yield made
    for process in (made.here, made.there):
        process.parts.hub.drain()
        process.parts.close()


def test_a_post_in_the_same_process_wakes_a_waiter(pair: Pair) -> None:
    pair.here.post("old")
    assert pair.here.claim()[1] == ["old"]
    waiting = pair.wait()
    pair.here.post("new")
    assert waiting.bodies == ["new"]


def test_a_post_in_another_process_wakes_a_waiter(pair: Pair) -> None:
    pair.there.post("old")
    assert pair.there.claim()[1] == ["old"]
    waiting = pair.wait()
    pair.there.post("new")
    assert waiting.bodies == ["new"]


def test_a_release_in_another_process_wakes_a_waiter(pair: Pair) -> None:
    pair.there.post("once")
    claim_id, _ = pair.there.claim()
    waiting = pair.wait()
    pair.there.parts.claims.release(QUEUE_NAME, claim_id)
    assert waiting.bodies == ["once"]


def test_a_queue_that_another_process_creates(pair: Pair) -> None:
    waiting = pair.wait()
    pair.there.post("first")
    assert waiting.bodies == ["first"]


def test_a_queue_that_another_process_deletes_and_creates_wakes_its_waiters(pair: Pair) -> None:
    pair.here.post("old")
    pair.here.claim()
    waiting = pair.wait()
    pair.there.parts.queues.delete(QUEUE_NAME)
    pair.there.post("new")
    assert waiting.bodies == ["new"]


def test_dead_letters_that_a_claim_moves_wake_waiters_of_their_queue(pair: Pair) -> None:
    lost = QUEUE_NAME._replace(name="lost")
    metadata = {"_dead_letter_queue": "lost", "_max_claim_count": 1}
    pair.there.parts.queues.create(QUEUE_NAME, json.dumps(metadata).encode())
    pair.there.post("bad")
    claim_id, _ = pair.there.claim()
    pair.there.parts.claims.release(QUEUE_NAME, claim_id)
    pair.there.parts.queues.ensure(lost)
    waiting = pair.wait(queue_name=lost)
    assert pair.there.claim()[1] == []
    assert waiting.bodies == ["bad"]


def test_a_post_serves_takers_of_its_own_process_first(pair: Pair) -> None:
    pair.there.post("x")
    pair.there.claim()
    elsewhere = pair.wait()
    # Its process has looked at the store, and does not do so while the posts are made.
    store_ref, jobs = pair.here.parts.placement.all_stores()[0], pair.here.parts.hub._background
    until(lambda: (job := jobs.get(store_ref)) is not None and job._known)  # type: ignore[attr-defined]
    own = WaitingClaim(pair.there)
    before = elsewhere.attempts
    pair.there.post("one")
    assert own.bodies == ["one"]
    assert elsewhere.thread.is_alive()
    # It took all it could, so the other process was told, and may otherwise make its attempt after the next post.
    until(lambda: elsewhere.attempts > before)
    own = WaitingClaim(pair.there)
    pair.there.post("two", "three")
    assert own.bodies == ["two"]
    assert elsewhere.bodies == ["three"]
    # Each taker that took all it could told the other process, and the first look at the store may have come just then.
    assert elsewhere.attempts <= before + 3


def test_without_sockets_the_poll_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.1)
    # No folder can be made here.
    (tmp_path / "waiters").write_text("")
    stores: dict[str, Any] = {"management": MemoryManagementStore(), "messages": MemoryMessageStore()}
    here, there = Process(build(tmp_path, **stores)), Process(build(tmp_path, **stores))
    try:
        created = WaitingClaim(here)
        there.post("created")
        assert created.bodies == ["created"]
        posted = WaitingClaim(here)
        claim_id = there.claim()[0]
        there.post("posted")
        assert posted.bodies == ["posted"]
        there.parts.claims.release(QUEUE_NAME, claim_id)
    finally:
        for process in (here, there):
            process.parts.hub.drain()
            process.parts.close()


def test_the_store_is_asked_if_datagrams_may_be_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux queues only some datagrams for a socket. If others may be lost, the store is asked."""
    pair.there.post("x")
    pair.there.claim()
    waiting = pair.wait()
    monkeypatch.setattr(pair.there.parts.hub, "_wake_others", lambda *_: None)
    pair.there.post("not told")
    other = WakeupMessage(Wake.POSTED, "f" * 24, 1, digest_of(QUEUE_NAME._replace(name="other"))).encode()
    while waiting.thread.is_alive():
        for _ in range(50):
            pair.there.parts.hub._wakeup_sender.wake(other)
        waiting.thread.join(0.01)
    assert waiting.bodies == ["not told"]


def test_datagrams_that_may_be_lost_cost_a_store_little(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, looked = pair.here.parts.hub, []
    monkeypatch.setattr(hub, "_look", lambda uid, store_ref: looked.append(uid))
    store_ref = pair.here.parts.placement.all_stores()[0]
    waiters = []
    for number in range(101):
        queue_name = QUEUE_NAME._replace(name=f"q{number}")
        located = Located(f"{number:024x}", store_ref)
        waiters.append(hub.registry.join(queue_name, located, Kind.READER, wake=lambda: None))
    hub._look_at_all()
    assert looked == []
    waiters.pop().leave()
    hub._look_at_all()
    assert len(looked) == 100
    for waiter in waiters:
        waiter.leave()


def test_datagrams_of_other_programs_are_ignored(pair: Pair) -> None:
    pair.there.post("x")
    pair.there.claim()
    waiting = pair.wait()
    for datagram in (b"", b"\0" * 200, b"9" + b"a" * 52, b"7" + b"z" * 52):
        assert WakeupMessage.decode(datagram) is None
        pair.there.parts.hub._wakeup_sender.wake(datagram)
    pair.there.post("new")
    assert waiting.bodies == ["new"]


def test_wakeup_messages_are_decoded_as_encoded() -> None:
    message = WakeupMessage(Wake.FREED, "0123456789ab" * 2, 2**47, digest_of(QUEUE_NAME))
    assert WakeupMessage.decode(message.encode()) == message
    nothing = message._replace(wake=Wake(0), last=0)
    assert WakeupMessage.decode(nothing.encode()) == nothing


@pytest.fixture
def rare_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second in which a post does not list the folder again never passes, even if the machine is slow."""
    for module in (wakeup_socket, waiting_hub):
        monkeypatch.setattr(module, "LISTING_SECONDS", 3600.0)


def test_a_post_without_waiters_only_lists_the_folder(
    rare_listings: None, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post lists the folder once a second, and does nothing else."""
    hub = pair.here.parts.hub
    listed: list[Path] = []
    names = socket_files.names
    monkeypatch.setattr(socket_files, "names", lambda folder: listed.append(folder) or names(folder))
    sent: list[bytes] = []
    monkeypatch.setattr(socket.socket, "sendto", lambda _, data, *__: sent.append(data))
    called: list[object] = []
    monkeypatch.setattr(hub.registry, "note_queue", lambda *_, **__: called.append(1))
    for number in range(5):
        pair.here.post(str(number))
    waiters = conf.waiters_dir(pair.here.parts.conf)
    assert listed.count(waiters) == 1
    assert not sent
    assert not called
    assert hub.check_at > time.monotonic()
    assert not hub._background._jobs
    assert not waiters.exists()


def test_a_post_is_noted_from_the_moment_a_client_waits(rare_listings: None, pair: Pair) -> None:
    pair.here.post("x")
    pair.here.claim()
    hub = pair.here.parts.hub
    assert hub.check_at > time.monotonic()
    waiter = hub.join(QUEUE_NAME, Kind.TAKER, wake=lambda: None)
    waiter.begin()
    waiter.finish(is_full=False, is_served=False)
    pair.here.post("y")
    assert waiter.is_ready
    waiter.leave()


def test_threads_and_the_socket_end_after_the_last_waiter(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(background, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(wakeups, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(wakeups, "NO_CHANNEL_SECONDS", 0.05)
    hub = pair.here.parts.hub
    before = set(threading.enumerate())
    for _ in range(2):
        waiting = pair.wait()
        pair.there.post("x")
        assert waiting.bodies == ["x"]
        until(lambda: not hub._background._jobs)
        until(lambda: not pair.is_listening())
        until(lambda: set(threading.enumerate()) <= before)
    assert hub.registry.waiting == 0


def test_a_drain(pair: Pair) -> None:
    waiting = [pair.wait(), WaitingClaim(pair.here), WaitingClaim(pair.here)]
    pair.here.parts.hub.drain()
    assert [each.bodies for each in waiting] == [[], [], []]
    with pytest.raises(TooManyWaiting):
        pair.here.parts.hub.join(QUEUE_NAME, Kind.TAKER, wake=lambda: None)
    # A post after that works as before.
    pair.here.post("x")


# -- attempts that fail ----------------------------------------------------------------------------------------------


def test_a_drain_between_two_looks_of_a_waiter_is_not_lost(pair: Pair) -> None:
    """The waiter has seen that its time is not over yet, and has not begun its attempt."""

    def drain() -> bool:
        pair.here.parts.hub.drain()
        return False

    answers: list[Attempt | None] = []
    empty = Attempt([], is_served=False, is_full=False)
    keywords: dict[str, Any] = {"seconds": 3600.0, "attempt": lambda _: empty, "is_gone": drain}
    thread = threading.Thread(
        target=lambda: answers.append(wait_for(pair.here.parts.hub, QUEUE_NAME, Kind.TAKER, **keywords)), daemon=True
    )
    thread.start()
    thread.join(SECONDS)
    assert answers == [empty]
    assert pair.here.parts.hub.registry.waiting == 0


def test_an_attempt_that_fails_leaves_the_turn_to_the_next(pair: Pair) -> None:
    pair.here.post("x")
    pair.here.claim()
    fails = False

    def attempt(_: int) -> Attempt:
        if fails:
            raise ZeroDivisionError
        return pair.here.attempt()

    first = pair.wait(attempt=attempt)
    second = WaitingClaim(pair.here)
    fails = True
    pair.here.post("y")
    with pytest.raises(ZeroDivisionError):
        _ = first.bodies
    assert second.bodies == ["y"]


def test_a_store_that_is_away_fails_one_waiter_and_not_all(pair: Pair) -> None:
    pair.here.post("x")
    pair.here.claim()
    is_away = False

    def attempt(_: int) -> Attempt:
        if is_away:
            raise StoreUnavailable
        return pair.here.attempt()

    first = pair.wait(attempt=attempt)
    others = [WaitingClaim(pair.here, attempt=attempt) for _ in range(5)]
    is_away = True
    pair.here.post("y")
    with pytest.raises(StoreUnavailable):
        _ = first.bodies
    assert [other.attempts for other in others] == [0] * 5
    is_away = False
    pair.here.post("z")
    assert [other.bodies for other in others[:2]] == [["y"], ["z"]]


def test_the_time_ends_although_something_happens_all_the_time(pair: Pair) -> None:
    uid = pair.here.post("x")[0][:UID_LENGTH]
    pair.here.claim()

    def attempt(_: int) -> Attempt:
        pair.here.parts.hub.registry.wake(uid)
        return Attempt([], False, False)

    waiting = WaitingClaim(pair.here, seconds=0.1, attempt=attempt)
    assert waiting.bodies == []
    assert waiting.attempts > 1


def test_a_client_that_is_gone_takes_nothing(pair: Pair) -> None:
    pair.here.post("x")
    keywords: dict[str, Any] = {"seconds": SECONDS, "attempt": lambda _: pair.here.attempt()}
    assert wait_for(pair.here.parts.hub, QUEUE_NAME, Kind.TAKER, is_gone=lambda: True, **keywords) is None
    assert pair.here.claim()[1] == ["x"]
    assert pair.here.parts.hub.registry.waiting == 0


# -- looks at the stores ---------------------------------------------------------------------------------------------


class WatchedStore(MemoryMessageStore):
    """Counts the questions for positions, can be away or silent, and can have a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[list[str]] = []
        self.is_away = False
        self.is_silent = False
        self.silence = threading.Event()
        self.channels: list[Channel] | None = None
        self._positions = self.queues.positions
        self.queues.positions = self._look  # type: ignore[method-assign]

    def _look(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        self.looks.append(list(uids))
        if self.is_silent:
            self.silence.wait(SECONDS)
        if self.is_away:
            raise StoreUnavailable
        return self._positions(uids=uids, now=now)

    def wakeups(self) -> Wakeups | None:
        if self.channels is None:
            return None
        self.channels.append(Channel())
        return self.channels[-1]


class Channel(Wakeups):
    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.is_closed = False

    def receive(self, seconds: float) -> list[str]:
        try:
            uid = self.told.get(timeout=seconds)
        except queue.Empty:
            return []
        if not uid:
            raise StoreUnavailable
        return [uid]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def process(store: WatchedStore, tmp_path: Path) -> Iterator[Process]:
    made = Process(build(tmp_path, management=MemoryManagementStore(), messages=store))
    yield made
    made.parts.hub.drain()


def test_waiters_are_served_when_their_store_answers_again(
    process: Process, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LONGEST_BACK_OFF_SECONDS", 0.05)
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.05)
    process.post("x")
    process.claim()
    waiting = WaitingClaim(process)
    store.is_away = True
    looks = len(store.looks)
    until(lambda: len(store.looks) > looks + 3)
    # Another process posts, and cannot send a wake-up.
    monkeypatch.setattr(process.parts.hub, "posted", lambda *_: None)
    process.post("meanwhile")
    looks = len(store.looks)
    until(lambda: len(store.looks) > looks + 1)
    assert waiting.thread.is_alive()
    store.is_away = False
    assert waiting.bodies == ["meanwhile"]


def test_a_silent_store_delays_no_other_one(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.05)
    hub, silent, other = process.parts.hub, WatchedStore(), WatchedStore()
    silent.is_silent = True
    for store in (silent, other):
        # A pool of the same process.
        pool = build(tmp_path, management=MemoryManagementStore(), messages=store)
        queue_name = QUEUE_NAME._replace(name=f"queue {id(store)}")
        known = pool.queues.ensure(queue_name)
        hub.registry.join(queue_name, None, Kind.READER, wake=lambda: None)
        hub._found(queue_name, Located(known.queue.uid, known.store_ref))
    until(lambda: len(other.looks) > 5)
    assert len(silent.looks) == 1
    silent.is_silent = False
    silent.silence.set()
    until(lambda: len(silent.looks) > 2)


def test_one_call_for_all_queues(process: Process, store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "CHUNK", 10)
    registry = process.parts.hub.registry
    store_ref = process.parts.placement.all_stores()[0]
    for number in range(25):
        uid = f"{number:024x}"
        for kind in Kind:
            registry.join(QUEUE_NAME._replace(name=uid), Located(uid, store_ref), kind, wake=lambda: None)
    lost: list[bool] = []
    poller = StorePoller(store_ref, registry, time.time, lost=lambda: lost.append(True))
    poller.step()
    assert [len(uids) for uids in store.looks] == [10, 10, 5]
    # The store has none of them.
    assert lost
    assert len(registry.missing()) == 25


class Waited:
    """A queue with a taker that waits, on the memory store, by a clock that the test moves."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = FakeClock()
        self.store = WatchedStore()
        parts = build(tmp_path, clock=self.clock, management=MemoryManagementStore(), messages=self.store)
        self.process = Process(parts)
        self.registry = Registry(
            max_waiting=10,
            max_waiting_per_project=10,
            max_streams=10,
            max_streams_per_project=10,
            passed_on=lambda *_: None,
        )
        known = parts.queues.ensure(QUEUE_NAME)
        self.located = Located(known.queue.uid, known.store_ref)
        self.waiter = self.registry.join(QUEUE_NAME, self.located, Kind.TAKER, wake=lambda: None)
        self.poller = StorePoller(known.store_ref, self.registry, self.clock, lost=lambda: None)

    def rest(self) -> None:
        """Make the taker attempt a claim and find nothing."""
        self.waiter.begin()
        self.waiter.finish(is_full=False, is_served=False)


def test_waiters_are_woken_when_claims_end(tmp_path: Path) -> None:
    waited = Waited(tmp_path)
    waited.process.post("one", "two")
    for ttl in (60, 90):
        raw = json.dumps({"ttl": ttl, "grace": 60}).encode()
        assert waited.process.parts.claims.prepare(QUEUE_NAME, raw, limit=1).answer_now().messages
    waited.rest()
    assert waited.poller.step() <= polling.POLL_SECONDS
    for seconds in (59.5, 29.5):
        # Each poll learns when the next claim ends.
        waited.clock.advance(seconds)
        waited.poller._next_full = float("-inf")
        assert waited.poller.step() == pytest.approx(0.5, abs=0.1)
        assert not waited.waiter.is_ready
        waited.clock.advance(0.5)
        waited.poller.step()
        assert waited.waiter.is_ready
        waited.process.claim()
        waited.rest()


def test_a_queue_that_was_not_waited_for_is_looked_at_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "SOON_SECONDS", 0.0)
    waited = Waited(tmp_path)
    waited.poller.step()
    new = waited.process.parts.queues.ensure(QUEUE_NAME._replace(name="new"))
    waited.registry.join(
        QUEUE_NAME._replace(name="new"), Located(new.queue.uid, new.store_ref), Kind.TAKER, wake=lambda: None
    )
    waited.poller.look_if_new(waited.located.uid)
    assert waited.poller.step() > 0
    assert len(waited.store.looks) == 1
    waited.poller.look_if_new(new.queue.uid)
    waited.poller.look_if_new(new.queue.uid)
    waited.poller.step()
    assert waited.store.looks[1:] == [[new.queue.uid]]


# -- channels of stores ----------------------------------------------------------------------------------------------


def test_the_channel_of_a_store_wakes_waiters(
    process: Process, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(background, "LONGEST_BACK_OFF_SECONDS", 0.05)
    store.channels = []
    channels = store.channels
    uid = process.post("x")[0][:UID_LENGTH]
    process.claim()
    monkeypatch.setattr(process.parts.hub, "posted", lambda *_: None)
    waiting = WaitingClaim(process)
    until(lambda: len(channels) == 1)
    process.post("by channel")
    channels[0].told.put(uid)
    assert waiting.bodies == ["by channel"]
    # The connection is lost, and made again.
    waiting = WaitingClaim(process)
    channels[0].told.put("")
    until(lambda: len(channels) == 2)
    assert channels[0].is_closed
    process.post("after it was lost")
    channels[1].told.put(uid)
    assert waiting.bodies == ["after it was lost"]
