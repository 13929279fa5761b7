# SPDX-License-Identifier: Apache-2.0
"""The rates of requests and posts: their errors, headers and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clock import FakeClock
from zaqar.errors import RateExceeded
from zaqar.metrics.families import THROTTLED
from zaqar.metrics.recorder import Recorder
from zaqar.model import QUEUE, QueueName
from zaqar.quotas.rates import Rates
from zaqar.quotas.settings import Amounts, QuotaSettings

Q = QueueName("p", QUEUE, "q")
OTHER = QueueName("p", QUEUE, "other")


def settings_with(**options: float) -> QuotaSettings:
    names = ("request_rate", "post_rate", "post_bytes_rate", "queue_post_rate", "queue_post_bytes_rate")
    values = {**dict.fromkeys(names, 0.0), "burst": 5.0, "processes": 1, **options}
    return QuotaSettings(from_keystone=False, amounts=Amounts(), **values)  # type: ignore[arg-type]


def rates_with(clock: FakeClock | None = None, **options: float) -> Rates:
    return Rates(settings_with(**options), None, clock or FakeClock())


def admitted(act: Callable[[], object]) -> int:
    """How many calls in a row are admitted."""
    for number in range(100_000):
        try:
            act()
        except RateExceeded:
            return number
    raise AssertionError


def test_without_options_there_is_no_rate() -> None:
    rates = rates_with()
    assert (rates.of_requests, rates.of_posts) == (None, ())
    assert rates.check_request("p") is None
    assert list(rates.uses("p")) == []


def test_a_project_may_send_the_burst_and_then_the_rate() -> None:
    clock = FakeClock()
    rates = rates_with(clock, request_rate=100)
    assert admitted(lambda: rates.check_request("p")) == 500
    clock.advance(3.0)
    assert admitted(lambda: rates.check_request("p")) in (299, 300)
    assert admitted(lambda: rates.check_request("another")) == 500


def test_within_one_percent_over_a_minute() -> None:
    clock = FakeClock()
    rates = rates_with(clock, request_rate=100)
    count = 0
    for _ in range(60 * 400):
        clock.advance(1 / 400)
        try:
            rates.check_request("p")
        except RateExceeded:
            continue
        count += 1
    assert count == pytest.approx(500 + 60 * 100, rel=0.01)


def test_each_of_several_processes_admits_its_share() -> None:
    rates = rates_with(request_rate=100, processes=4)
    assert admitted(lambda: rates.check_request("p")) == 125
    # At least one request at once, however small the share is.
    rates = rates_with(request_rate=0.1, processes=8)
    assert admitted(lambda: rates.check_request("p")) == 1


def test_the_error_names_the_limit_the_scope_and_the_time() -> None:
    rates = rates_with(request_rate=2, burst=3)
    admitted(lambda: rates.check_request("p"))
    with pytest.raises(RateExceeded) as caught:
        rates.check_request("p")
    assert str(caught.value) == "request_rate: the project may use 6 requests in 3 s; try again in 1 s."
    assert caught.value.retry_after == 1
    assert caught.value.headers == {"RateLimit-Policy": '"request";q=6;w=3', "RateLimit": '"request";r=0;t=1'}


def test_posts_are_limited_by_messages_and_bytes_of_the_project_and_the_queue() -> None:
    for option, error in (
        ("post_rate", "post_rate: the project may use 50 messages in 5 s; try again in 1 s."),
        ("queue_post_rate", "queue_post_rate: the queue 'q' may use 50 messages in 5 s; try again in 1 s."),
    ):
        rates = rates_with(**{option: 10})
        assert admitted(lambda rates=rates: rates.check_post(Q, 5, 100)) == 10  # type: ignore[misc]
        with pytest.raises(RateExceeded, match=error):
            rates.check_post(Q, 5, 100)
    for option in ("post_bytes_rate", "queue_post_bytes_rate"):
        rates = rates_with(**{option: 1000})
        assert admitted(lambda rates=rates: rates.check_post(Q, 1, 500)) == 10  # type: ignore[misc]
        assert admitted(lambda rates=rates: rates.check_post(OTHER, 1, 500)) == (0 if option[0] == "p" else 10)  # type: ignore[misc]


def test_a_refused_post_takes_nothing_of_the_other_rates() -> None:
    rates = rates_with(post_rate=10, queue_post_rate=2)
    assert admitted(lambda: rates.check_post(Q, 1, 1)) == 10
    admitted(lambda: rates.check_post(Q, 1, 1))
    assert admitted(lambda: rates.check_post(OTHER, 1, 1)) == 10
    assert [use.used for use in rates.uses("p")] == [20, None]


def test_headers_only_if_less_than_a_fifth_is_left() -> None:
    rates = rates_with(request_rate=10)
    for _ in range(40):
        assert rates.check_request("p") is None
    assert rates.check_request("p") == {
        "RateLimit-Policy": '"request";q=50;w=5',
        "RateLimit": '"request";r=9;t=5',
    }
    rates = rates_with(post_rate=1, queue_post_bytes_rate=100)
    rates.check_post(Q, 5, 450)
    assert rates.post_headers(Q) == {
        "RateLimit-Policy": '"post";q=5;w=5, "queue-post-bytes";q=500;w=5;qu="content-bytes"',
        "RateLimit": '"post";r=0;t=5, "queue-post-bytes";r=50;t=5',
    }
    assert rates.post_headers(OTHER) == {"RateLimit-Policy": '"post";q=5;w=5', "RateLimit": '"post";r=0;t=5'}


def test_each_refusal_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    counted: list[object] = []
    recorder.add = lambda *args: counted.append(args)  # type: ignore[method-assign,misc,assignment]
    rates = Rates(settings_with(request_rate=1, post_rate=1), recorder, FakeClock())
    admitted(lambda: rates.check_request("p"))
    admitted(lambda: rates.check_post(Q, 1, 1))
    assert counted == [(THROTTLED, ("request_rate",)), (THROTTLED, ("post_rate",))]
    recorder.close()
