# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from zaqar.transport.websocket.rate_limit import TokenBucket


def test_a_burst_of_one_second_then_the_rate() -> None:
    bucket = TokenBucket(10, now=100.0)
    assert [bucket.take(1, 100.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(1, 100.0) == pytest.approx(0.1)
    # A caller that waits as told is admitted at the rate.
    assert bucket.take(1, 100.1) == pytest.approx(0.1)


def test_a_pause_does_not_save_up_more_than_a_second() -> None:
    bucket = TokenBucket(10, now=0.0)
    assert bucket.take(10, 1000.0) == 0.0
    assert bucket.take(5, 1000.0) == 0.5


def test_a_large_count_is_waited_for_in_full() -> None:
    assert TokenBucket(10, now=0.0).take(110, 0.0) == 10.0


def test_a_rate_of_zero_is_no_limit() -> None:
    bucket = TokenBucket(0, now=0.0)
    assert bucket.take(10**9, 0.0) == 0.0
