# SPDX-License-Identifier: Apache-2.0
"""Streams run the hooks of a listing, so a client cannot evade a stage by a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.workers import CALLER, QUEUE_NAME, Cluster
from zaqar.context import Context
from zaqar.encryption.messages import NO_KEYS
from zaqar.errors import Forbidden, NotAcceptable, StageFailed
from zaqar.model import Message
from zaqar.service.bodies import Bodies
from zaqar.service.staged.streams import StagedStreams
from zaqar.service.streams import Stream
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import MESSAGES, ListMessages
from zaqar.stages.pipeline import Pipeline
from zaqar.waiting.hub import Hub


class Gate(Stage):
    """A stage that does what the test has set, and records its calls."""

    def __init__(self) -> None:
        self.answer: ListMessages | Done[Sequence[Message]] | Exception | None = None
        self.asked: list[ListMessages] = []
        self.seen: list[list[str]] = []

    def before_list_messages(self, context: Context, request: ListMessages) -> ListMessages | Done[Sequence[Message]]:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or request

    def after_list_messages(self, context: Context, request: ListMessages, result: Sequence[Message]) -> None:
        self.seen.append([json.loads(message.body) for message in result])


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def streams(cluster: Cluster, gate: Gate) -> StagedStreams:
    worker = cluster.worker()
    hub = Hub(
        folder=Path(os.devnull) / "waiters",
        remembered=lambda _: None,
        find_queues=lambda _: {},
        clock=cluster.clock,
        limits=cluster.limits,
    )
    pipeline = Pipeline([gate], resource=MESSAGES)
    return StagedStreams(pipeline=pipeline, queues=worker.queues, bodies=Bodies(NO_KEYS), clock=cluster.clock, hub=hub)


def begin(streams: StagedStreams, marker: str | None = None) -> Stream:
    return streams.open(CALLER, QUEUE_NAME, marker=marker, from_start=True, echo=True, version=1)


def test_before_hooks_run_once_and_after_hooks_get_each_batch(
    cluster: Cluster, streams: StagedStreams, gate: Gate
) -> None:
    cluster.worker().post(*(str(number) for number in range(30)))
    stream = begin(streams)
    assert len(stream.read(version=1, limit=20)) == 20
    assert len(stream.read(version=1, limit=20)) == 10
    assert stream.read(version=2, limit=20) == []
    assert gate.asked == [ListMessages(QUEUE_NAME, None, 100, True, include_claimed=True, include_delayed=True)]
    assert [len(batch) for batch in gate.seen] == [20, 10]


def test_a_stage_that_refuses_a_listing_refuses_a_stream(streams: StagedStreams, gate: Gate) -> None:
    gate.answer = Forbidden("Not here.")
    with pytest.raises(Forbidden, match=r"Not here\."):
        begin(streams)


def test_a_stream_is_refused_if_a_stage_answers_the_listing(streams: StagedStreams, gate: Gate) -> None:
    gate.answer = Done([])
    with pytest.raises(NotAcceptable, match="stage"):
        begin(streams)


def test_a_stage_may_change_the_marker(cluster: Cluster, streams: StagedStreams, gate: Gate) -> None:
    ids = cluster.worker().post("a", "b", "c")
    request = ListMessages(QUEUE_NAME, None, 100, True, include_claimed=True, include_delayed=True)
    gate.answer = replace(request, marker=ids[1])
    assert len(begin(streams).read(version=1, limit=20)) == 1
    gate.answer = replace(request, marker="no id")
    with pytest.raises(StageFailed):
        begin(streams)
