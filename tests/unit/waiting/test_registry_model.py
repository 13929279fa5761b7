# SPDX-License-Identifier: Apache-2.0
"""Two processes with takers and readers of one queue, in random orders of their steps, chosen by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zaqar.model import QUEUE, QueueName
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.pools import Placement
from zaqar.waiting.registry import Registry, Waiter
from zaqar.waiting.shared_reads import SharedReads
from zaqar.waiting.waiters import Kind, Located, Wake, digest_of

QUEUE_NAME = QueueName("shop", QUEUE, "orders")
UID = "a" * 24
LOCATED = Located(UID, Placement(MemoryMessageStore()).all_stores()[0])
DIGEST = digest_of(QUEUE_NAME)


@dataclass
class Client:
    """A taker of up to ``limit`` messages. An attempt has three steps: it begins, the store answers, it ends."""

    waiter: Waiter
    limit: int
    number: int
    step: str = "waits"
    taken: int = 0


@dataclass
class Reader:
    waiter: Waiter
    seen: int = 0
    version: int | None = None
    """The version of the attempt that has begun."""


@dataclass
class Process:
    registry: Registry
    shared: SharedReads = field(default_factory=SharedReads)
    takers: list[Client] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    others: list[Process] = field(default_factory=list)

    def tell(self, wake: Wake, last: int = 0) -> None:
        for other in self.others:
            other.registry.note_other_process(DIGEST, UID, wake, last)


class Waiting(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.free = self.last = 0
        self.joined = self.events = self.served = self.left = 0
        self.processes = [self._make_process(), self._make_process()]
        for process in self.processes:
            process.others = [other for other in self.processes if other is not process]

    def _make_process(self) -> Process:
        process: Process
        registry = Registry(
            max_waiting=1000,
            max_waiting_per_project=1000,
            max_streams=1000,
            max_streams_per_project=1000,
            passed_on=lambda *_: self._pass_on(process),
        )
        process = Process(registry)
        return process

    def _pass_on(self, process: Process) -> None:
        self.events += 1
        process.tell(Wake.TAKERS)

    numbers = st.integers(0, 1)
    choices = st.integers(0, 9)

    @rule(at=numbers, limit=st.integers(1, 3))
    def a_taker_comes(self, at: int, limit: int) -> None:
        process = self.processes[at]
        while not process.registry.has_takers(QUEUE_NAME):
            # It tries before it waits; and so do others, until one has to wait.
            taken = min(limit, self.free)
            if not taken:
                break
            self.free -= taken
        self.joined += 1
        waiter = process.registry.join(QUEUE_NAME, LOCATED, Kind.TAKER, wake=lambda: None)
        process.takers.append(Client(waiter, limit, self.joined))

    @rule(at=numbers)
    def a_reader_comes(self, at: int) -> None:
        process = self.processes[at]
        waiter = process.registry.join(QUEUE_NAME, LOCATED, Kind.READER, wake=lambda: None)
        process.readers.append(Reader(waiter))

    @rule(at=numbers, count=st.integers(1, 4))
    def a_post(self, at: int, count: int) -> None:
        self.free += count
        self.last += count
        self.events += 1
        process = self.processes[at]
        here = process.registry.note_queue(QUEUE_NAME, LOCATED, is_own=True, last=self.last)
        process.tell(Wake.SHOWN if here else Wake.POSTED, self.last)

    @rule(at=numbers)
    def a_release(self, at: int) -> None:
        self.free += 1
        self.events += 1
        process = self.processes[at]
        here = process.registry.wake(UID, Wake.FREED, is_own=True)
        process.tell(Wake.FREE_READERS if here else Wake.FREED)

    def _ready(self) -> list[tuple[Process, Client]]:
        return [
            (process, client)
            for process in self.processes
            for client in process.takers
            if client.waiter.is_ready or client.step != "waits"
        ]

    @precondition(lambda self: self._ready())
    @rule(choice=choices, steps=st.integers(1, 3))
    def an_attempt_goes_on(self, choice: int, steps: int) -> None:
        ready = self._ready()
        process, client = ready[choice % len(ready)]
        for _ in range(steps):
            if client.waiter.is_ready and client in process.takers:
                self._go_on(process, client)

    def _go_on(self, process: Process, client: Client) -> None:
        if client.step == "waits":
            client.waiter.begin()
            client.step = "begun"
        elif client.step == "begun":
            client.taken = min(client.limit, self.free)
            self.free -= client.taken
            client.step = "answered"
        else:
            if client.taken:
                # Takers are served in the order in which they came.
                assert client.number == min(other.number for other in process.takers)
                process.takers.remove(client)
                self.served += 1
            client.step = "waits"
            client.waiter.finish(is_full=client.taken == client.limit, is_served=client.taken > 0)
            if client.taken:
                client.waiter.leave()

    @precondition(lambda self: any(process.takers for process in self.processes))
    @rule(choice=choices)
    def a_taker_leaves(self, choice: int) -> None:
        """Its time is over, its client went away, or its attempt has failed before the store took anything."""
        every = [(process, client) for process in self.processes for client in process.takers]
        process, client = every[choice % len(every)]
        if client.step == "answered":
            return
        process.takers.remove(client)
        self.left += 1
        client.waiter.leave()

    def _woken(self) -> list[tuple[Process, Reader]]:
        return [
            (process, reader)
            for process in self.processes
            for reader in process.readers
            if reader.waiter.is_ready or reader.version is not None
        ]

    @precondition(lambda self: self._woken())
    @rule(choice=choices, ends=st.booleans())
    def a_reader_goes_on(self, choice: int, ends: bool) -> None:
        woken = self._woken()
        process, reader = woken[choice % len(woken)]
        if reader.version is None:
            reader.version = reader.waiter.begin()
        else:
            ends = True
        if ends:
            reader.seen = process.shared.read("key", reader.version, lambda: self.last)
            reader.version = None

    @precondition(lambda self: any(process.readers for process in self.processes))
    @rule(choice=choices)
    def a_reader_leaves(self, choice: int) -> None:
        every = [(process, reader) for process in self.processes for reader in process.readers]
        process, reader = every[choice % len(every)]
        process.readers.remove(reader)
        reader.waiter.leave()

    @invariant()
    def nobody_sleeps_while_a_message_is_free(self) -> None:
        if self.free and any(process.takers for process in self.processes):
            assert self._ready()

    @invariant()
    def at_most_one_taker_of_a_process_has_the_turn(self) -> None:
        for process in self.processes:
            assert sum(client.waiter.is_ready for client in process.takers) <= 1

    @invariant()
    def readers_that_sleep_have_seen_everything(self) -> None:
        for process in self.processes:
            for reader in process.readers:
                if not reader.waiter.is_ready and reader.version is None:
                    assert reader.seen == self.last

    @invariant()
    def attempts_are_few(self) -> None:
        """At most one for each event and process, and one for a taker that comes first or takes over a turn."""
        attempts = sum(process.registry.attempts for process in self.processes)
        assert attempts <= self.joined + 2 * self.events + self.served + self.left

    @invariant()
    def waiters_are_counted(self) -> None:
        for process in self.processes:
            assert process.registry.waiting == len(process.takers) + len(process.readers)
            assert process.registry.streams == len(process.readers)


Waiting.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestWaiting = Waiting.TestCase
