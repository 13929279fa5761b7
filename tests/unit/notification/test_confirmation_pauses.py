# SPDX-License-Identifier: Apache-2.0
"""Which confirmations have to wait for each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.notification.subjects import a_subscription
from zaqar.model import Subscription
from zaqar.notification.retry import pauses_of


def keys(subscription: Subscription) -> dict[str, float]:
    return pauses_of(subscription, seconds=60.0, now=1000.0)


def shared(one: str, other: str, *, same_project: bool = False) -> list[float]:
    """When the pauses end that two subscriptions of these subscribers have in common."""
    first = a_subscription(one)
    second = replace(first, id="e" * 24, subscriber=other, project=first.project if same_project else "another")
    return sorted(end for key, end in keys(first).items() if key in keys(second))


def test_a_subscription_has_one_pause_for_all_its_subscribers() -> None:
    one = a_subscription("mailto:a@example.org")
    common = set(keys(one)) & set(keys(replace(one, subscriber="https://example.com/x")))
    assert [keys(one)[key] for key in common] == [1060.0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mailto:a@example.org", "mailto:a@example.org"),
        ("mailto:a@example.org", "MAILTO:A@Example.ORG"),
        ("mailto:a@example.org", "mailto:a+1@example.org?subject=hi"),
        ("mailto:a@example.org", "mailto:%61@example.org."),
        ("http://example.org/hook", "http://example.org/hook?n=1"),
        ("http://example.org/hook", "HTTP://EXAMPLE.org:80/hook#x"),
        ("http://example.org/hook", "trust+http://example.org./hook"),
        ("http://example.org/hook", "http://example.org/%68ook"),
        ("https://example.org", "https://example.org:443/"),
        ("http://[2001:db8::1]/", "http://[2001:DB8::1]:80/?x"),
    ],
)
def test_one_target_in_several_spellings(one: str, other: str) -> None:
    assert 1060.0 in shared(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mailto:a@example.org", "mailto:b@example.org"),
        ("http://example.org/hook", "http://example.org/hook2"),
        ("http://example.org/hook", "https://example.org:80/hook2?x"),
    ],
)
def test_different_targets_of_one_host_or_mail_domain(one: str, other: str) -> None:
    """They share a short pause within a project, and none across projects."""
    assert shared(one, other, same_project=True) == [1001.0]
    assert shared(one, other) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mailto:a@example.org", "mailto:a@example.com"),
        ("http://example.org/hook", "http://example.com/hook"),
        ("http://example.org/hook", "http://example.org:81/hook"),
        ("http://example.org/hook", "mailto:hook@example.org"),
    ],
)
def test_nothing_in_common(one: str, other: str) -> None:
    assert shared(one, other, same_project=True) == []
