# SPDX-License-Identifier: Apache-2.0
"""An application over each store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import servers
from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS, Driver

# Its assertions show what differs only if they are rewritten, as those of test modules are.
pytest.register_assert_rewrite("tests.api.agreement")


@pytest.fixture(scope="session", params=DRIVERS.values(), ids=DRIVERS.keys())
def driver(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


@pytest.fixture(scope="session")
def address(driver: Driver) -> Iterator[str]:
    with servers.folder_for(f"api-{driver.name}") as folder:
        yield driver.prepare(folder)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_api(driver: Driver, address: str, clock: FakeClock) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []

    def make(**options: object) -> Api:
        api = Api(driver, address, clock=clock, **options)
        made.append(api)
        return api

    yield make
    for api in made:
        api.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """One worker in a project of its own."""
    return make_api()
