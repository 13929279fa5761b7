# SPDX-License-Identifier: Apache-2.0
"""Promise 13, streams: a reader that resumes with its last marker misses nothing. The unit tests have a model."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.unit.workers import make_limits
from zaqar.context import Context
from zaqar.encryption.messages import NO_KEYS
from zaqar.model import QUEUE, UID_LENGTH, QueueName
from zaqar.service.bodies import Bodies
from zaqar.service.messages import Messages
from zaqar.service.queues import Queues
from zaqar.service.streams import MAX_BATCH_BYTES, Reset, Stream, StreamMessage, Streams
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.pools import Placement
from zaqar.waiting.hub import Hub


class Service:
    """A queue and its streams on the stores of one driver."""

    def __init__(self, management: ManagementStore, messages: MessageStore) -> None:
        self.clock, limits = FakeClock(), make_limits()
        self.queue_name = QueueName(uuid.uuid4().hex, QUEUE, "q")
        self.caller = Context(self.queue_name.project, "producer")
        self.queues = Queues(management=management, placement=Placement(messages), limits=limits, clock=self.clock)
        hub = Hub(
            folder=Path(os.devnull) / "waiters",
            remembered=lambda _: None,
            find_queues=lambda _: {},
            clock=self.clock,
            limits=limits,
        )
        common: dict[str, Any] = {"queues": self.queues, "bodies": Bodies(NO_KEYS), "clock": self.clock, "hub": hub}
        self.messages = Messages(limits=limits, stages=[], **common)
        self.streams = Streams(**common)
        self._version = 0

    def post(self, *bodies: Any, delay: int = 0) -> list[str]:
        messages = [{"body": body, "ttl": 300, "delay": delay} for body in bodies]
        return self.messages.post(self.caller, self.queue_name, json.dumps({"messages": messages}).encode())

    def open(self, marker: str | None = None, *, from_start: bool = False) -> Stream:
        return self.streams.open(
            self.caller, self.queue_name, marker=marker, from_start=from_start, echo=True, version=self._next_version()
        )

    def read(self, stream: Stream) -> list[StreamMessage | Reset]:
        """All there is, as after a wake-up."""
        events = stream.read(version=self._next_version(), limit=20)
        while stream.is_ready:
            events += stream.read(version=self._next_version(), limit=20)
        return events

    def bodies(self, stream: Stream) -> list[Any]:
        return bodies_of(self.read(stream))

    def _next_version(self) -> int:
        self._version += 1
        return self._version


def bodies_of(events: list[StreamMessage | Reset]) -> list[Any]:
    assert all(isinstance(event, StreamMessage) for event in events)
    return [json.loads(event.message.body) for event in events if isinstance(event, StreamMessage)]


@pytest.fixture
def service(management: ManagementStore, messages: MessageStore) -> Iterator[Service]:
    service = Service(management, messages)
    yield service
    service.queues.delete(service.queue_name)


def test_a_stream_begins_after_the_newest_message(service: Service) -> None:
    waiting = service.open()
    assert service.read(waiting) == []
    service.post(0)
    stream = service.open()
    assert service.bodies(stream) == []
    service.post(1, 2)
    assert service.bodies(stream) == [1, 2]
    assert service.bodies(waiting) == [0, 1, 2]
    assert service.bodies(service.open(from_start=True)) == [0, 1, 2]


def test_a_stream_that_begins_in_an_emptied_queue_sees_what_comes(service: Service) -> None:
    service.post(0, 1)
    service.queues.purge(service.queue_name, b'{"resource_types": ["messages"]}')
    stream = service.open()
    service.post(2)
    assert service.bodies(stream) == [2]


def test_a_reader_resumes_behind_a_message_that_is_gone(service: Service) -> None:
    ids = service.post(*range(5))
    service.messages.delete(service.queue_name, ids[2], claim_id=None)
    assert service.bodies(service.open(ids[2])) == [3, 4]
    assert service.bodies(service.open(ids[4])) == []


def test_a_reader_that_resumes_gets_no_message_that_was_deleted_before(service: Service) -> None:
    """Another reader at its position has the deleted message. It must not come after later messages."""
    first = service.post("first")[0]
    service.post("late", delay=30)
    deleted = service.post("deleted")[0]
    service.post("last")
    other = service.open(first)
    assert bodies_of(other.read(version=9, limit=20)) == ["deleted", "last"]
    service.messages.delete(service.queue_name, deleted, claim_id=None)
    # With another limit, as on another worker process, a reader shares no read. It sees the last message and is cut.
    reader = service.open(first)
    assert bodies_of(reader.read(version=9, limit=10)) == ["last"]
    assert reader.marker == first
    # No change has woken this process since the read of the other reader, so the version is the same.
    resumed, together = service.open(reader.marker), service.open(reader.marker)
    assert resumed.read_kept(version=9, limit=20) is None
    assert bodies_of(resumed.read(version=9, limit=20)) == ["last"]
    # Readers that have resumed before that read share it.
    assert bodies_of(together.read_kept(version=9, limit=20) or []) == ["last"]


def test_a_delayed_message_holds_the_marker_back(service: Service) -> None:
    first = service.post("first")[0]
    service.post("late", delay=30)
    newest = service.post("prompt")[0]
    stream = service.open(first)
    assert service.bodies(stream) == ["prompt"]
    assert (stream.marker, stream.next_due) == (first, service.clock.now + 30)
    cut = service.open(stream.marker)
    assert service.bodies(cut) == ["prompt"]
    service.clock.advance(30)
    assert service.bodies(stream) == service.bodies(cut) == ["late"]
    assert stream.marker == cut.marker == newest


def test_a_queue_that_is_created_anew_is_read_from_its_start(service: Service) -> None:
    last = service.post(0, 1)[-1]
    stream = service.open(last)
    assert service.read(stream) == []
    service.queues.delete(service.queue_name)
    assert service.read(stream) == []
    assert stream.is_deleted
    id_ = service.post(2)[0]
    for reader in (stream, service.open(last)):
        reset, message = service.read(reader)
        assert reset == Reset("recreated", id_[:UID_LENGTH] + "0" * 12)
        assert isinstance(message, StreamMessage)
        assert (message.message.id, message.marker) == (id_, id_)


def test_large_messages_are_read_in_small_batches(service: Service) -> None:
    bodies = [f"{number}{'x' * 100_000}" for number in range(7)]
    for body in bodies:
        service.post(body)
    stream, seen = service.open(from_start=True), []
    while stream.is_ready:
        batch = stream.read(version=0, limit=20)
        assert sum(len(event.message.body) for event in batch if isinstance(event, StreamMessage)) <= MAX_BATCH_BYTES
        seen += [json.loads(event.message.body) for event in batch if isinstance(event, StreamMessage)]
    assert seen == bodies


def test_a_queue_that_has_lost_its_newest_messages(service: Service) -> None:
    """As after a restore from a backup, or a fail-over: new messages get the numbers that the reader has seen."""
    [first] = service.post("kept")
    [delayed] = service.post("kept and delayed", delay=60)
    uid, seen = first[:UID_LENGTH], int(delayed[UID_LENGTH:], 16) + 2
    stream = service.open(f"{uid}{seen:012x}")
    [reset] = service.read(stream)
    assert reset == Reset("lost", delayed)
    assert stream.marker == delayed
    assert service.bodies(stream) == []
    [new] = service.post("new")
    assert int(new[UID_LENGTH:], 16) < seen
    assert service.bodies(stream) == ["new"]


def test_a_message_posted_on_another_host_is_read_without_a_wakeup(service: Service) -> None:
    """It was posted on another host. One reader has asked for the newest number before, another one reads on after."""
    service.post(0)
    idle, behind = service.open(), service.open(from_start=True)
    assert idle.read(version=9, limit=2) == []
    service.post(1)
    events = behind.read(version=9, limit=2)
    assert [json.loads(event.message.body) for event in events if isinstance(event, StreamMessage)] == [0, 1]
    assert behind.is_ready
    assert behind.read(version=9, limit=2) == []
