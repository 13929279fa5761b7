# SPDX-License-Identifier: Apache-2.0
"""Streams have no gaps: readers disconnect at any event and resume with their last id, while a queue changes.

A model has all messages. If a reader has read to the end, it must have seen each message that exists.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.unit.workers import QUEUE_NAME, Cluster
from zaqar.context import Context
from zaqar.encryption.messages import NO_KEYS
from zaqar.model import UID_LENGTH, Claim
from zaqar.service import streams as streams_module
from zaqar.service.bodies import Bodies
from zaqar.service.queues import Queues
from zaqar.service.streams import Event, Reset, Stream, StreamMessage, Streams
from zaqar.waiting.hub import Hub
from zaqar.waiting.tail import Tail
from zaqar.waiting.waiters import Kind, Located

CLIENTS = ("alice", "bob")
MOST_READS = 500
"""A stream that still claims to have more after this number of reads would keep a processor busy for ever."""


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "Tail", partial(Tail, max_held=4))
    monkeypatch.setattr(streams_module, "MAX_BATCH_BYTES", 60)
    monkeypatch.setattr(streams_module, "_FIRST_BATCH", 2)


@dataclass
class Sent:
    """A message that was posted. ``number`` counts all posts of the test."""

    id: str
    number: int
    client: str
    due: float
    expires: float
    is_delayed: bool
    deleted: float | None = None

    def is_visible(self, now: float) -> bool:
        return self.deleted is None and self.due <= now < self.expires


@dataclass
class Reader:
    """A client that reconnects. ``start`` is the number of the first message that it has to see."""

    start: int
    excluded: str | None
    last: str = ""
    seen: set[str] = field(default_factory=set)
    newest_of: Counter[str] = field(default_factory=Counter)
    """By uid of the queue, the largest number of a message without a delay that the reader has seen."""
    # Of the current connection:
    stream: Any = None
    waiter: Any = None
    pending: list[Event] = field(default_factory=list)
    uid: str | None = None
    since: int = 0
    newest: int = 0
    ids: set[str] = field(default_factory=set)
    gone: frozenset[str] = frozenset()
    """The messages that were gone when the reader resumed. Empty for its first connection."""


class Streaming(RuleBasedStateMachine):
    """One process writes. Another process has the readers, and may get no wakeups from the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.clock = self.cluster.clock
        self.writer = self.cluster.worker()
        self.placement = self.cluster.placement()
        self.queues = Queues(
            management=self.cluster.management,
            placement=self.placement,
            limits=self.cluster.limits,
            clock=self.clock,
        )
        self.hub = Hub(
            folder=Path(os.devnull) / "waiters",
            remembered=lambda _: None,
            find_queues=lambda _: {},
            clock=self.clock,
            limits=self.cluster.limits,
        )
        self.streams = Streams(queues=self.queues, bodies=Bodies(NO_KEYS), clock=self.clock, hub=self.hub)
        self.sent: dict[str, Sent] = {}
        self.readers: list[Reader] = []

    def teardown(self) -> None:
        self.clock.advance(100)
        for reader in self.readers:
            self.read_all(reader)
        for reader in self.readers:
            reader.waiter.leave()
        assert self.hub.registry.waiting == 0

    # -- what happens to the queue -----------------------------------------------------------------------------------

    @rule(
        sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
        delay=st.sampled_from([0, 0, 1, 5, 70]),
        ttl=st.sampled_from([60, 300, 300]),
        client=st.sampled_from(CLIENTS),
        is_told=st.booleans(),
    )
    def post(self, sizes: list[int], delay: int, ttl: int, client: str, is_told: bool) -> None:
        ttl = max(ttl, delay + 30)
        messages = [{"body": "x" * size, "ttl": ttl, "delay": delay} for size in sizes]
        raw = json.dumps({"messages": messages}).encode()
        for id_ in self.writer.messages.post(Context(QUEUE_NAME.project, client), QUEUE_NAME, raw):
            now = self.clock.now
            self.sent[id_] = Sent(id_, len(self.sent), client, now + delay, now + ttl, delay > 0)
        if is_told:
            self.tell()

    @rule(count=st.integers(1, 3), ttl=st.sampled_from([60, 90]))
    def claim(self, count: int, ttl: int) -> None:
        row = self.cluster.row()
        if row is None:
            return
        claim = Claim(f"{len(self.sent):024x}", ttl, 60, self.clock.now)
        for message in self.cluster.store.claims.claim(
            queue=row, claim=claim, limit=count, now=self.clock.now
        ).messages:
            # A claim keeps a message alive.
            self.sent[message.id].expires = message.expires

    @rule(data=st.data())
    @precondition(lambda self: self.sent)
    def delete(self, data: st.DataObject) -> None:
        row = self.cluster.row()
        sent = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
        if row is not None and sent.id.startswith(row.uid):
            number = int(sent.id[UID_LENGTH:], 16)
            self.cluster.store.messages.delete_many(queue=row, sequences=[number], claim_ids=None, now=self.clock.now)
            self.gone([sent])

    @rule()
    def purge(self) -> None:
        self.writer.queues.purge(QUEUE_NAME, b'{"resource_types": ["messages"]}')
        self.gone(list(self.sent.values()))

    @rule(is_told=st.booleans())
    def drop(self, is_told: bool) -> None:
        self.writer.queues.delete(QUEUE_NAME)
        self.gone(list(self.sent.values()))
        if is_told:
            self.look()

    def gone(self, messages: list[Sent]) -> None:
        for sent in messages:
            sent.deleted = self.clock.now if sent.deleted is None else sent.deleted

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 30.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # -- what the process of the readers gets to know ----------------------------------------------------------------

    @rule()
    def tell(self) -> None:
        row = self.cluster.row()
        if row is not None:
            self.hub.registry.note_queue(QUEUE_NAME, Located(row.uid, self.placement.store_of(row)))

    @rule()
    def look(self) -> None:
        """Poll the queue, which happens once a second while clients wait."""
        registry = self.hub.registry
        for store_ref in registry.store_refs():
            uids = registry.uids_of(store_ref)
            positions = store_ref.store.queues.positions(uids=uids, now=self.clock.now)
            registry.note_positions(uids, positions, self.clock.now)
        for queue_name in registry.missing():
            if queue_name == QUEUE_NAME:
                self.tell()

    # -- readers -----------------------------------------------------------------------------------------------------

    @rule(is_from_start=st.booleans(), excluded=st.sampled_from([None, None, *CLIENTS]))
    @precondition(lambda self: len(self.readers) < 3)
    def come(self, is_from_start: bool, excluded: str | None) -> None:
        reader = Reader(0 if is_from_start else len(self.sent), excluded)
        self.readers.append(reader)
        self.connect(reader, from_start=is_from_start)

    @rule(data=st.data(), count=st.integers(1, 4))
    @precondition(lambda self: self.readers)
    def read(self, data: st.DataObject, count: int) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        for _ in range(count):
            if not reader.pending and self.is_due(reader):
                reader.pending = reader.stream.read(version=reader.waiter.begin(), limit=3)
            if reader.pending:
                self.receive(reader, reader.pending.pop(0))

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def cut(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.waiter.leave()
        self.connect(reader, from_start=False)

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def beat(self, data: st.DataObject) -> None:
        """Send the marker of an idle connection."""
        reader = data.draw(st.sampled_from(self.readers))
        if not reader.pending:
            reader.last = reader.stream.marker
            reader.uid = reader.uid or reader.stream.uid

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def read_to_the_end(self, data: st.DataObject) -> None:
        self.read_all(data.draw(st.sampled_from(self.readers)))

    def connect(self, reader: Reader, *, from_start: bool) -> None:
        waiter = reader.waiter = self.hub.registry.join(QUEUE_NAME, None, Kind.READER, wake=lambda: None)
        caller = Context(QUEUE_NAME.project, reader.excluded or "")
        stream: Stream = self.streams.open(
            caller,
            QUEUE_NAME,
            marker=reader.last or None,
            from_start=from_start,
            echo=reader.excluded is None,
            version=waiter.begin(),
        )
        reader.stream = stream
        if reader.last:
            assert stream.marker == reader.last
            now = self.clock.now
            reader.gone = frozenset(
                each.id for each in self.sent.values() if each.deleted is not None or each.expires <= now
            )
        reader.last, reader.pending = stream.marker, []
        self.begin_queue(reader, stream.marker if stream.uid else "")

    def begin_queue(self, reader: Reader, marker: str) -> None:
        reader.uid = marker[:UID_LENGTH] or None
        reader.since = int(marker[UID_LENGTH:] or "0", 16)
        reader.newest, reader.ids = 0, set()

    def is_due(self, reader: Reader) -> bool:
        due = reader.stream.next_due
        return bool(reader.waiter.is_ready or reader.stream.is_ready or (due is not None and due <= self.clock.now))

    def read_all(self, reader: Reader) -> None:
        # One read for the deleted queue, one for the new queue with its name.
        self.look()
        self.look()
        for _ in range(MOST_READS):
            while reader.pending:
                self.receive(reader, reader.pending.pop(0))
            if not self.is_due(reader):
                break
            reader.pending = reader.stream.read(version=reader.waiter.begin(), limit=3)
        else:
            pytest.fail("the stream never comes to rest")
        tail = reader.stream._tail
        for sent in self.sent.values():
            is_behind = not sent.id.startswith(reader.stream.uid or "") or int(sent.id[UID_LENGTH:], 16) > tail.position
            if tail.room == 0 and is_behind:
                continue  # The largest allowed number of delayed messages comes before it, perhaps of a former queue.
            if sent.number >= reader.start and sent.client != reader.excluded and sent.is_visible(self.clock.now):
                assert sent.id in reader.seen, f"{sent} is missed"

    def receive(self, reader: Reader, event: Event) -> None:
        if isinstance(event, Reset):
            assert reader.uid is None or not event.marker.startswith(reader.uid)
            self.begin_queue(reader, event.marker)
        else:
            self.receive_message(reader, event)
        reader.last = event.marker

    def receive_message(self, reader: Reader, event: StreamMessage) -> None:
        sent, number = self.sent[event.message.id], event.message.sequence
        reader.uid = reader.uid or event.message.queue_uid
        assert event.message.queue_uid == reader.uid == event.marker[:UID_LENGTH]
        assert sent.client != reader.excluded
        assert sent.due <= event.now
        # Readers share a read for a second at most.
        assert min(sent.expires, sent.deleted or sent.expires) >= int(event.now)
        assert sent.id not in reader.gone, "gone before the reader resumed"
        assert sent.id not in reader.ids, "twice in one connection"
        assert number > reader.since, "before the marker"
        if not sent.is_delayed:
            assert number > reader.newest, "out of order"
            reader.newest = number
            assert sent.id in reader.seen or number > reader.newest_of[reader.uid], "first seen after a later message"
            reader.newest_of[reader.uid] = max(reader.newest_of[reader.uid], number)
        reader.ids.add(sent.id)
        reader.seen.add(sent.id)


def test_a_reader_that_resumes_misses_nothing() -> None:
    run_state_machine_as_test(Streaming, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
