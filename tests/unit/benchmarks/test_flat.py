# SPDX-License-Identifier: Apache-2.0
"""The table of ``zaqar-bench flat``, with a clock that the test moves instead of waiting."""

from __future__ import annotations

import pytest

from tests.unit.benchmarks.conftest import PROJECT, Service
from zaqar.benchmarks import flat
from zaqar.benchmarks.subject import Trial
from zaqar.model import QUEUE, QueueName

EXTENT = flat.Extent(few=3, many=45, fill_bytes=100, rounds=2, count=4)


def test_every_operation_is_measured_in_every_state(service: Service) -> None:
    said: list[str] = []
    steps = flat.measure(
        service.subject, extent=EXTENT, project=PROJECT, report=said.append, sleep=service.clock.advance
    )
    operations = ["POST 1", "GET list 10", "claim 1", "delete claimed 1"]
    assert [(step.state, step.operation) for step in steps] == [
        (state, operation) for state in ("expired", "claimed", "ready", "delayed") for operation in operations
    ]
    for step in steps:
        for figures in (step.few, step.many):
            assert (figures.requests, figures.errors) == (8, {})
        assert step.p50_ratio is not None
        assert step.cpu_ratio is None
    assert service.queues() == []
    assert said[0] == "making 3 and 45 expired messages"


@pytest.mark.parametrize(
    ("state", "free", "claimed", "delayed"),
    [("ready", 1500, 0, 0), ("claimed", 0, 45, 0), ("delayed", 0, 0, 45), ("expired", 0, 0, 0)],
)
def test_a_queue_is_filled_with_messages_of_the_state(
    service: Service, state: str, free: int, claimed: int, delayed: int
) -> None:
    trial = Trial(service.subject, PROJECT)
    flat.fill(trial, state, free + claimed + delayed or 45, 100)
    service.clock.advance(flat.SHORTEST_TTL)
    stats, _ = service.parts.queues.stats(QueueName(PROJECT, QUEUE, trial.queue))
    assert (stats.free, stats.claimed) == (free, claimed)
    service.clock.advance(flat.LONGEST_DELAY - flat.SHORTEST_TTL)
    stats, _ = service.parts.queues.stats(QueueName(PROJECT, QUEUE, trial.queue))
    assert (stats.free, stats.claimed) == (free + delayed, claimed)
