# SPDX-License-Identifier: Apache-2.0
"""The schedule of retries."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clock import START
from zaqar.notification.retry import (
    BACKOFF_RETRIES,
    LONGEST_RETRY_AFTER,
    MAIL_DELAYS,
    MOST_JITTER,
    RetryPolicy,
    effective_policy,
    next_after,
    next_attempt,
)
from zaqar.schemas.retry_policy import BACKOFF_FUNCTIONS

SHORT: dict[str, Any] = {
    "retries_with_no_delay": 2,
    "minimum_delay_retries": 1,
    "minimum_delay": 10,
    "maximum_delay": 110,
    "maximum_delay_retries": 2,
}


def delays(policy: RetryPolicy) -> list[float]:
    """The delay before each retry, in order, until it is given up."""
    found = []
    for tries in itertools.count(1):
        at = next_attempt(tries, policy, now=0.0, retry_after=None, jitter=0.0)
        if at is None:
            return found
        found.append(at)
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "backoff"),
    [
        ("linear", [20, 30, 40, 50, 60, 70, 80, 90, 100, 110]),
        ("arithmetic", [11.8, 15.5, 20.9, 28.2, 37.3, 48.2, 60.9, 75.5, 91.8, 110]),
        ("geometric", [12.7, 16.2, 20.5, 26.1, 33.2, 42.2, 53.6, 68.1, 86.5, 110]),
        ("exponential", [10.1, 10.3, 10.7, 11.5, 13.0, 16.2, 22.4, 34.9, 60.0, 110]),
    ],
)
def test_the_phases_follow_each_other(function: str, backoff: list[float]) -> None:
    policy = RetryPolicy.of(SHORT | {"retry_backoff_function": function})
    assert delays(policy) == pytest.approx([0, 0, 10, *backoff, 110, 110], abs=0.06)
    assert policy.attempts == len(delays(policy)) + 1


def test_the_default_policy() -> None:
    expected = [0, 0, 0, 5, 5, 5, 7.5, 10, 12.5, 15, 17.5, 20, 22.5, 25, 27.5, 30, 30, 30, 30]
    assert delays(RetryPolicy()) == pytest.approx(expected)


def test_phases_may_be_left_out() -> None:
    none = {"retries_with_no_delay": 0, "minimum_delay_retries": 0, "maximum_delay_retries": 0}
    assert delays(RetryPolicy.of(none)) == pytest.approx([7.5, 10, 12.5, 15, 17.5, 20, 22.5, 25, 27.5, 30])


@pytest.mark.parametrize(
    ("tries", "retry_after", "expected"),
    [
        (1, None, 0.0),
        (1, 7.0, 7.0),
        (4, 1.0, 5.0),
        (4, 60.0, 60.0),
        (4, 1e12, LONGEST_RETRY_AFTER),
        (4, float("inf"), LONGEST_RETRY_AFTER),
        (4, -5.0, 5.0),
        (4, float("nan"), 5.0),
        (20, 60.0, None),
    ],
)
def test_retry_after_lengthens_the_delay(tries: int, retry_after: float | None, expected: float | None) -> None:
    at = next_attempt(tries, RetryPolicy(), now=START, retry_after=retry_after, jitter=0.0)
    assert at == (None if expected is None else START + expected)


counts = st.integers(0, 20)
policies = st.builds(
    lambda low, span, counts, function: RetryPolicy(counts[0], counts[1], low, low + span, counts[2], function),
    st.integers(1, 1000),
    st.integers(10, 10_000),
    st.tuples(counts, counts, counts),
    st.sampled_from(BACKOFF_FUNCTIONS),
)


@given(policy=policies, jitter=st.floats(0, 1, exclude_max=True))
def test_delays_never_shrink_and_jitter_lengthens_a_little(policy: RetryPolicy, jitter: float) -> None:
    plain = delays(policy)
    # Sums and powers of floats: the last of them may be off by their last digit.
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(plain))
    assert plain[-1] <= policy.maximum_delay + 1e-6
    counted = policy.retries_with_no_delay + policy.minimum_delay_retries + policy.maximum_delay_retries
    assert len(plain) == counted + BACKOFF_RETRIES
    for tries, delay in enumerate(plain, 1):
        at = next_attempt(tries, policy, now=0.0, retry_after=None, jitter=jitter)
        assert at is not None
        assert delay <= at <= delay * (1 + MOST_JITTER)


QUEUE: dict[str, Any] = {"minimum_delay": 7, "maximum_delay": 77}
SUBSCRIPTION: dict[str, Any] = {"minimum_delay": 9, "retries_with_no_delay": 0}


@pytest.mark.parametrize(
    ("queue", "subscription", "expected"),
    [
        (None, None, RetryPolicy()),
        ({}, {}, RetryPolicy()),
        (QUEUE, None, RetryPolicy(minimum_delay=7, maximum_delay=77)),
        (QUEUE, {}, RetryPolicy(minimum_delay=7, maximum_delay=77)),
        (None, SUBSCRIPTION, RetryPolicy(minimum_delay=9, retries_with_no_delay=0)),
        (QUEUE, SUBSCRIPTION, RetryPolicy(minimum_delay=9, retries_with_no_delay=0)),
        (
            QUEUE | {"ignore_subscription_override": False},
            SUBSCRIPTION,
            RetryPolicy(minimum_delay=9, retries_with_no_delay=0),
        ),
        (
            QUEUE | {"ignore_subscription_override": True},
            SUBSCRIPTION,
            RetryPolicy(minimum_delay=7, maximum_delay=77),
        ),
        # The flag has no meaning in the policy of a subscription.
        (
            QUEUE,
            SUBSCRIPTION | {"ignore_subscription_override": True},
            RetryPolicy(minimum_delay=9, retries_with_no_delay=0),
        ),
    ],
)
def test_which_policy_counts(queue: Any, subscription: Any, expected: RetryPolicy) -> None:
    assert effective_policy(queue, subscription) == expected


def attempts_of_a_mail(jitter: float) -> list[float]:
    """When a mail is tried, in seconds since the first attempt."""
    times = [0.0]
    while (at := next_after(len(times), MAIL_DELAYS, now=times[-1], jitter=jitter)) is not None:
        times.append(at)
    return times


@pytest.mark.parametrize("jitter", [0.0, 0.999])
@pytest.mark.parametrize("greylisted", [60, 300, 900, 3600, 4 * 3600, 12 * 3600, 36 * 3600])
def test_a_mail_comes_again_after_a_greylist(greylisted: float, jitter: float) -> None:
    later = [at for at in attempts_of_a_mail(jitter) if at >= greylisted]
    # Soon enough for a person who waits for the mail, and more than once.
    assert later[0] <= max(2.5 * greylisted, greylisted + 16_000)
    assert len(later) > 1


def test_a_mail_is_tried_for_two_days() -> None:
    times = attempts_of_a_mail(0.0)
    assert 48 * 3600 <= times[-1] <= 49 * 3600
    assert len(times) == 19
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 60


def test_without_delays_there_is_no_retry() -> None:
    assert next_after(1, (), now=0.0, jitter=0.5) is None
