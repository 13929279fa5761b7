# SPDX-License-Identifier: Apache-2.0
"""The stores of each driver, and how many tests each driver passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests import servers
from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.notifier_client import NotifierClient
from tests.conformance.queue_client import QueueClient
from zaqar.storage.base import ManagementStore, MessageStore


@pytest.fixture(scope="session", params=list(DRIVERS.values()), ids=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


@pytest.fixture(scope="session")
def address(driver: Driver) -> Iterator[str]:
    with servers.folder_for(driver.name) as folder:
        yield driver.prepare(folder)


@pytest.fixture(scope="session")
def management(driver: Driver, address: str) -> Iterator[ManagementStore]:
    store = driver.open_management(address)
    yield store
    store.close()


@pytest.fixture(scope="session")
def messages(driver: Driver, address: str) -> Iterator[MessageStore]:
    """One store for the whole session: tests keep apart by their queues, as tenants do."""
    store = driver.open_messages(address)
    yield store
    store.close()


@pytest.fixture
def orders(messages: MessageStore) -> Iterator[QueueClient]:
    orders = QueueClient(messages)
    yield orders
    orders.drop()


@pytest.fixture
def notifier(messages: MessageStore) -> Iterator[NotifierClient]:
    """That of the store, with nothing in it that another test left to be taken."""
    notifier = NotifierClient(messages)
    notifier.drain()
    yield notifier
    notifier.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        driver = callspec.params.get("driver") if (callspec := getattr(item, "callspec", None)) else None
        if isinstance(driver, Driver):
            item.user_properties.append(("driver", driver.name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say per driver how many tests ended how, so that a driver that ran little is seen."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = dict(getattr(report, "user_properties", ())).get("driver")
            if name is not None:
                counts[str(name), outcome] += 1
    for name in DRIVERS:
        line = ", ".join(f"{count} {outcome}" for (driver, outcome), count in counts.items() if driver == name)
        if line:
            terminalreporter.write_line(f"conformance of {name}: {line}")
