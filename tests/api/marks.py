# SPDX-License-Identifier: Apache-2.0
"""Marks that select the stores of a test, if it does not run on the two of ``conftest.CONTRACT``."""

from __future__ import annotations

import pytest

from tests.conformance.drivers import DRIVERS

on_one_store = pytest.mark.parametrize("driver", [DRIVERS["memory"]], ids=["memory"], indirect=True, scope="session")
"""For long tables of requests that are refused before any store is used: one application is enough."""

on_every_store = pytest.mark.parametrize(
    "driver", list(DRIVERS.values()), ids=list(DRIVERS), indirect=True, scope="session"
)
"""For tests about several processes or pools that share a store, or about the contents of a dump of the store."""
