# SPDX-License-Identifier: Apache-2.0
"""Percentiles, medians and ratios, by numbers small enough to check by hand."""

from __future__ import annotations

from array import array

import pytest

from tests.unit.benchmarks.serving import scripted
from zaqar.benchmarks.figures import Figures, Tally, figures, middle, percentile, ratio
from zaqar.benchmarks.http_client import Connection, Endpoint

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("count", "share", "value"),
    [(0, 0.5, 0.0), (1, 0.99, 1.0), (100, 0.5, 51.0), (100, 0.99, 100.0), (1000, 0.99, 991.0)],
)
def test_percentile(count: int, share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, count + 1)], share) == value


def test_figures_are_microseconds_and_per_request() -> None:
    tally = Tally(array("d", [0.003, 0.001, 0.002, 0.010]))
    found = figures(tally, 2.0, cpu=0.004, store_cpu=0.002)
    assert found == Figures(requests=4, rate=2.0, p50=3000.0, p99=10000.0, cpu=1000.0, store_cpu=500.0, errors={})


def test_no_request_makes_figures_of_zero() -> None:
    assert figures(Tally(), 1.0, cpu=0.5) == Figures(requests=0, rate=0.0, p50=0.0, p99=0.0, cpu=0.0)


def test_the_figures_of_rounds_are_their_medians() -> None:
    rounds = [
        Figures(10, 100.0, 1.0, 9.0, 50.0, None, {"status 503": 1}),
        Figures(10, 300.0, 3.0, 7.0, 70.0, None, {}),
        Figures(10, 200.0, 2.0, 8.0, 60.0, None, {"status 503": 2}),
    ]
    assert middle(rounds) == Figures(30, 200.0, 2.0, 8.0, 60.0, None, {"status 503": 3})


def test_cpu_in_total_has_that_of_the_store() -> None:
    assert Figures(1, 1.0, 1.0, 1.0, 50.0, 7.0).total_cpu == 57.0
    assert Figures(1, 1.0, 1.0, 1.0, 50.0, None).total_cpu == 50.0
    assert Figures(1, 1.0, 1.0, 1.0, None, 7.0).total_cpu is None


def test_ratio_is_the_median_of_the_pairs() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0
    assert ratio([2.0, None], [1.0, 1.0]) == 2.0
    assert ratio([None], [None]) is None
    assert ratio([1.0], [0.0]) is None


def test_exchanges_are_counted_by_how_they_ended() -> None:
    good = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    bad = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    tally = Tally()
    with scripted([[[good], [bad], [bad], [good[:10]]]]) as endpoint:
        connection = Connection(endpoint)
        answers = [tally.exchange(connection, REQUEST, good) for good in ({201}, {201}, (), {201})]
    assert [answer and answer.status for answer in answers] == [201, None, 503, None]
    assert len(tally.latencies) == 2
    assert tally.errors == {"status 503": 1, "ConnectionResetError": 1}


def test_a_server_that_is_not_there_is_an_error_that_is_counted() -> None:
    with scripted([]) as endpoint:
        nowhere = Endpoint("http", endpoint.host, endpoint.port)
    tally = Tally()
    assert tally.exchange(Connection(nowhere), REQUEST, {200}) is None
    assert tally.errors == {"ConnectionRefusedError": 1}


def test_tallies_add_up() -> None:
    one, other = Tally(array("d", [1.0])), Tally(array("d", [2.0]))
    one.errors["a"] = other.errors["a"] = 1
    one.add(other)
    assert list(one.latencies) == [1.0, 2.0]
    assert one.errors == {"a": 2}
