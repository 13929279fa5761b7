# SPDX-License-Identifier: Apache-2.0
"""Marks for tests that only some drivers can run."""

import pytest

from tests.conformance.drivers import DRIVERS

_shared = [driver for driver in DRIVERS.values() if driver.shared]

only_shared = pytest.mark.parametrize(
    "driver", _shared, ids=[driver.name for driver in _shared], indirect=True, scope="session"
)
"""For what only a store can do that outlives a process and is open in several at a time."""
