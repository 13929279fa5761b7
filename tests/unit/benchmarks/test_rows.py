# SPDX-License-Identifier: Apache-2.0
"""The rows, on the application and on a server without the API."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.unit.benchmarks.conftest import PROJECT, Service
from tests.unit.benchmarks.serving import served
from zaqar.benchmarks import rows
from zaqar.benchmarks.subject import Subject

DRAFTS = [{"body": "first", "ttl": 60}, {"body": "second", "ttl": 60}]


def teapot(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("418 I'm a teapot", [("Content-Length", "0")])
    return []


def test_every_row_is_measured_without_an_error(service: Service) -> None:
    measured = rows.measure([service.subject], drafts=DRAFTS, rounds=2, count=12, project=PROJECT)
    assert [row.name for row in measured] == [row.name for row in rows.ROWS]
    for row in measured:
        (figures,) = row.figures
        assert (row.name, figures.requests, figures.errors) == (row.name, 24, {})
        assert 0 < figures.p50 <= figures.p99
        assert figures.cpu is None
        assert row.ratios == []
    assert service.queues() == []


def test_cpu_is_shown_for_the_processes_that_are_named(service: Service) -> None:
    subject = replace(service.subject, pids=(os.getpid(),), store_pids=(os.getpid(),))
    measured = rows.measure([subject], drafts=DRAFTS, rounds=1, count=2, project=PROJECT)
    assert all(row.figures[0].cpu and row.figures[0].store_cpu for row in measured)


def test_a_plain_server_is_sent_the_same_number_of_requests(service: Service) -> None:
    with served(teapot) as endpoint:
        subjects = [service.subject, Subject(endpoint, "teapot", plain=True)]
        measured = rows.measure(subjects, drafts=DRAFTS, rounds=1, count=5, project=PROJECT)
    for row in measured:
        assert [figures.requests for figures in row.figures] == [5, 5]
        assert not any(figures.errors for figures in row.figures)
        (ratios,) = row.ratios
        assert ratios["cpu"] is None
        assert ratios["p50"] == row.figures[0].p50 / row.figures[1].p50
