# SPDX-License-Identifier: Apache-2.0
"""What a notifier counts: attempts by outcome, their duration, the lag, settled deliveries and its slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.metrics.test_recorder import series_of, snapshots
from tests.unit.notification.harness import FINE, GONE, Harness, ScriptedSender, until
from zaqar.metrics.families import Histogram
from zaqar.metrics.recorder import Recorder
from zaqar.model import DEAD, DONE
from zaqar.notification.attempts import _label_of
from zaqar.notification.bounds import Bounds
from zaqar.notification.senders.base import Outcome


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, "notifier")
    yield recorder
    recorder.close()


def counted(folder: Path) -> dict[tuple[str, ...], float]:
    """The values by name and labels; of a histogram the number of values."""
    return {
        (series.family.name, *series.labels): sum(series.cells[:-1])
        if isinstance(series.family, Histogram)
        else series.cells[0]
        for series in series_of(folder)
    }


def test_a_notifier_counts_its_attempts_and_what_became_of_deliveries(recorder: Recorder, tmp_path: Path) -> None:
    harness = Harness(recorder=recorder, bounds=Bounds(retention=3600.0))
    answers = {"s1": lambda _: FINE, "s2": lambda _: Outcome(False, 404, "", final=True), "s3": lambda _: GONE}

    async def play() -> None:
        for id_ in answers:
            harness.subscribe(id_)
        sender = ScriptedSender()
        sender.answers.update(answers)
        async with harness.notifier(sender) as notifier:
            harness.post(1, 2)
            notifier.wake()
            await until(lambda: len(harness.deliveries("s1", DONE)) == 2)
            await until(lambda: len(harness.deliveries("s2", DEAD)) == 2)
            await until(lambda: not harness.deliveries("s3"))
            notifier.notifier.sample(recorder)

    asyncio.run(play())
    found = counted(tmp_path)
    assert found["zaqar_delivery_attempts", "http", "ok"] == 2
    assert found["zaqar_delivery_attempts", "http", "http_4xx"] == 2
    assert found["zaqar_delivery_attempts", "http", "gone"] >= 1
    attempts = sum(value for key, value in found.items() if key[0] == "zaqar_delivery_attempts")
    assert found["zaqar_delivery_attempt_duration_seconds", "http"] == attempts
    assert found["zaqar_delivery_lag_seconds",] == attempts
    assert found["zaqar_deliveries_settled", "done"] == 2
    assert found["zaqar_deliveries_settled", "dead"] == 2
    assert found["zaqar_notifier_slots",] == harness.bounds.most
    assert found["zaqar_deliveries_in_flight",] == 0


def test_a_notifier_says_that_it_is_alive(recorder: Recorder, tmp_path: Path) -> None:
    async def play() -> None:
        async with Harness(recorder=recorder).notifier():
            await until(lambda: any(tmp_path.iterdir()))

    asyncio.run(play())
    (snapshot,) = snapshots(tmp_path)
    assert snapshot.heartbeat >= snapshot.started > 0


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (Outcome(True, 200, ""), "ok"),
        (Outcome(True, None, "the mail was taken"), "ok"),
        (Outcome(False, 410, "", gone=True), "gone"),
        (Outcome(False, 302, ""), "redirect"),
        (Outcome(False, 429, ""), "http_4xx"),
        (Outcome(False, 503, ""), "http_5xx"),
        (Outcome(False, None, "no answer within 10 seconds", reached=False, failure="timeout"), "timeout"),
        (Outcome(False, None, "the name cannot be resolved", reached=False), "connect"),
    ],
)
def test_outcomes_have_few_labels(outcome: Outcome, label: str) -> None:
    assert _label_of(outcome) == label
