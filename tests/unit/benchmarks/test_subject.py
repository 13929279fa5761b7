# SPDX-License-Identifier: Apache-2.0
"""A trial: preparing requests must succeed, measured requests may fail and are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.benchmarks.conftest import PROJECT, Service
from zaqar.benchmarks.subject import Trial


def test_a_preparation_that_fails_is_reported(service: Service) -> None:
    trial = Trial(service.subject, PROJECT)
    with pytest.raises(RuntimeError, match=rf"service: POST /v2/queues/{trial.queue}/messages HTTP/1\.1: 400 .*ttl"):
        trial.prepare([trial.author.post(trial.queue, [{"body": 1, "ttl": 1}])])


def test_a_measured_request_that_fails_is_counted_without_an_answer(service: Service) -> None:
    trial = Trial(service.subject, PROJECT)
    posts = [trial.author.post(trial.queue, [{"body": 1, "ttl": ttl}]) for ttl in (60, 1, 60)]
    figures = trial.measure(posts, {201})
    assert (figures.requests, figures.errors) == (2, {"status 400": 1})
    assert [answer.status for answer in trial.answers] == [201, 201]


def test_a_reader_sees_what_the_author_posted_and_drops_it(service: Service) -> None:
    trial = Trial(service.subject, PROJECT)
    posted = trial.prepare([trial.author.post(trial.queue, [{"body": n, "ttl": 60} for n in range(3)])])
    listed = trial.prepare([trial.reader.page(trial.queue, limit=10)])
    assert trial.hrefs(listed, 3) == [trial.resources(posted, 3)]
    trial.drop()
    assert service.queues() == []


def test_a_plain_server_gets_invented_messages_and_may_answer_any_status(service: Service) -> None:
    trial = Trial(replace(service.subject, plain=True), PROJECT)
    refused = trial.author.post(trial.queue, [{"body": 1, "ttl": 1}])
    figures = trial.measure([refused, refused], {201})
    assert (figures.requests, figures.errors) == (2, {})
    claims = trial.hrefs(trial.answers, 3)
    assert [len(claim) for claim in claims] == [3, 3]
    assert len({href for claim in claims for href in claim}) == 6
    assert trial.reader.delete_claimed(trial.queue, claims[0]).count(b"claim_ids=") == 1
    assert len(trial.resources(trial.answers, 2)) == 4
