# SPDX-License-Identifier: Apache-2.0
"""Limits from Keystone: names that are missing, an outage, and projects that are not seen any more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from zaqar.quotas import unified_limits
from zaqar.quotas.settings import Amounts
from zaqar.quotas.unified_limits import UnifiedLimits

CONFIGURED = Amounts(queues=10, subscriptions=20, queue_subscriptions=30, queue_messages=None, stored_bytes=50)
ALL = {"zaqar_queues": 1, "zaqar_subscriptions": 2, "zaqar_queue_messages": 3, "zaqar_stored_mib": 4}


class Keystone:
    """The answers of Keystone."""

    def __init__(self, registered: Mapping[str, int], **projects: Mapping[str, int]) -> None:
        self.limits, self.projects, self.is_away, self.asked = dict(registered), projects, False, 0

    def __call__(self) -> Keystone:
        if self.is_away:
            raise ConnectionError("no route")
        return self

    def registered(self) -> Mapping[str, int]:
        return self.limits

    def of_project(self, project: str) -> Mapping[str, int]:
        self.asked += 1
        return self.projects.get(project, {})


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test asks Keystone itself."""
    monkeypatch.setattr(UnifiedLimits, "_start", lambda self: None)


def limits_of(keystone: Any) -> UnifiedLimits:
    return UnifiedLimits(CONFIGURED, keystone)


def test_the_configuration_applies_until_keystone_has_answered() -> None:
    limits = limits_of(Keystone(ALL))
    assert limits.of("p") is CONFIGURED
    limits.refresh(only_new=True)
    assert limits.of("p") == Amounts(1, 2, 30, 3, 4 * 1024 * 1024)


def test_limits_of_a_project_override_registered_ones() -> None:
    limits = limits_of(Keystone(ALL, p={"zaqar_queues": 7, "zaqar_subscriptions": 0}))
    for project in ("p", "other"):
        limits.of(project)
    limits.refresh()
    assert (limits.of("p").queues, limits.of("p").subscriptions, limits.of("other").queues) == (7, 0, 1)


def test_minus_one_is_no_limit() -> None:
    limits = limits_of(Keystone({**ALL, "zaqar_queues": -1}))
    limits.of("p")
    limits.refresh()
    assert limits.of("p").queues is None


def test_a_name_that_is_not_registered_has_the_limit_of_the_configuration(caplog: pytest.LogCaptureFixture) -> None:
    keystone = Keystone({"zaqar_queues": 1, "unrelated": 5})
    limits = limits_of(keystone)
    limits.of("p")
    for _ in range(3):
        limits.refresh()
    assert limits.of("p") == Amounts(1, 20, 30, None, 50)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "zaqar_queue_messages, zaqar_stored_mib, zaqar_subscriptions" in record.getMessage()


def test_an_outage_leaves_the_last_limits_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    keystone = Keystone(ALL)
    limits = limits_of(keystone)
    limits.of("p")
    limits.refresh()
    keystone.is_away = True
    limits.of("new")
    for _ in range(3):
        limits.refresh()
    assert (limits.of("p").queues, limits.of("new").queues) == (1, 10)
    assert len(caplog.records) == 1
    keystone.is_away = False
    limits.refresh()
    assert limits.of("new").queues == 1
    assert [record.getMessage() for record in caplog.records][1:] == ["Keystone tells the limits of projects again."]


def test_a_project_that_is_not_seen_any_more_is_forgotten() -> None:
    keystone = Keystone(ALL)
    limits = limits_of(keystone)
    limits.of("p")
    for _ in range(30):
        limits.of("seen")
        limits.refresh()
    asked = keystone.asked
    limits.refresh()
    assert keystone.asked == asked + 1
    assert limits.of("p") is CONFIGURED


def test_the_number_of_projects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unified_limits, "MOST_PROJECTS", 5)
    keystone = Keystone(ALL)
    limits = limits_of(keystone)
    for number in range(50):
        limits.of(str(number))
    limits.refresh()
    assert keystone.asked == 5
    assert limits.of("49") is CONFIGURED
