# SPDX-License-Identifier: Apache-2.0
"""A service to be measured: the application on the memory store, with a clock that can be moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.clock import FakeClock
from tests.unit.benchmarks.serving import served
from zaqar import app, conf
from zaqar.benchmarks.subject import Subject
from zaqar.model import QUEUE
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app

PROJECT = "bench"


@dataclass
class Service:
    subject: Subject
    parts: app.Parts
    clock: FakeClock

    def queues(self) -> list[str]:
        """The names of the existing queues."""
        listed = self.parts.management.queue_records.list_after(project=PROJECT, kind=QUEUE, after="", limit=100)
        return [queue.name for queue in listed]


@pytest.fixture
def service() -> Iterator[Service]:
    clock = FakeClock()
    parts = app.build(conf.load(), clock=clock, management=MemoryManagementStore(), messages=MemoryMessageStore())
    with served(make_app(parts)) as endpoint:
        yield Service(Subject(endpoint, "service"), parts, clock)
    parts.close()
