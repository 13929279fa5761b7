# SPDX-License-Identifier: Apache-2.0
"""An application over a store: in memory and on PostgreSQL, or over each store with ``marks.on_every_store``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests import servers
from tests.api.client import PLANTED, Api
from tests.clock import START, FakeClock
from tests.conformance.drivers import DRIVERS, Driver

# pytest shows the differing values only if it rewrites the assertions, as it does in test modules.
pytest.register_assert_rewrite("tests.api.agreement")

CONTRACT = ("memory", "postgresql")
"""The HTTP contract runs on memory and on PostgreSQL, the strictest server, because its texts hold no U+0000.

``tests/conformance`` tests on each store the promises that a store makes to the service.
"""


@pytest.fixture(scope="session", params=[DRIVERS[name] for name in CONTRACT], ids=CONTRACT)
def driver(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


@pytest.fixture(scope="session")
def address(driver: Driver) -> Iterator[str]:
    with servers.folder_for(f"api-{driver.name}") as folder:
        yield driver.prepare(folder)


@pytest.fixture(scope="session")
def clock_of_session() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(clock_of_session: FakeClock) -> FakeClock:
    clock_of_session.now = START
    return clock_of_session


@pytest.fixture
def make_api(driver: Driver, address: str, clock: FakeClock) -> Iterator[Callable[..., Api]]:
    """Builds applications for one test, which may change them."""
    made: list[Api] = []

    def make(**options: object) -> Api:
        api = Api(driver, address, clock=clock, **options)
        made.append(api)
        return api

    yield make
    for api in made:
        api.close()


@pytest.fixture(scope="session")
def _shared_apis(driver: Driver, address: str, clock_of_session: FakeClock) -> Iterator[Callable[..., Api]]:
    """Builds one application for each set of options."""
    made: dict[str, Api] = {}

    def share(**options: object) -> Api:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = Api(driver, address, clock=clock_of_session, **options)
        return made[key]

    yield share
    for api in made.values():
        api.close()


@pytest.fixture
def share_api(_shared_apis: Callable[..., Api], clock: FakeClock) -> Callable[..., Api]:
    """An application that tests with the same options share, in a project of its own.

    Use it for tests that only send requests. A test that changes the application needs ``make_api``.
    """
    return lambda **options: _shared_apis(**options).in_new_project()


@pytest.fixture
def api(share_api: Callable[..., Api]) -> Api:
    """One worker in a project of its own."""
    return share_api()


class _SecretWatch(logging.Handler):
    """Finds records of the log that show the planted secret, before a formatter removes it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._formatter = logging.Formatter()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatter.format(record)
        if PLANTED in text:
            self.found.append(text)


@pytest.fixture(autouse=True)
def _no_secret_is_logged() -> Iterator[None]:
    """Each request of these tests has a secret. Records of all levels are looked at, written or not."""
    watch, root = _SecretWatch(), logging.getLogger()
    level = root.level
    root.addHandler(watch)
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(level)
    root.removeHandler(watch)
    assert watch.found == []
