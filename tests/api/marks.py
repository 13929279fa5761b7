# SPDX-License-Identifier: Apache-2.0
"""On which stores the tests of a module run, if not on the two of the contract (``conftest.CONTRACT``)."""

from __future__ import annotations

import pytest

from tests.conformance.drivers import DRIVERS

on_one_store = pytest.mark.parametrize("driver", [DRIVERS["memory"]], ids=["memory"], indirect=True, scope="session")
"""For long tables of requests that are refused before any store is asked: one application is enough."""

on_every_store = pytest.mark.parametrize(
    "driver", list(DRIVERS.values()), ids=list(DRIVERS), indirect=True, scope="session"
)
"""If the test is about what several processes or pools see in a store, or about what a dump of it shows."""
