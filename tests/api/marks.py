# SPDX-License-Identifier: Apache-2.0
"""For long tables of requests that are refused before any store is asked: one application is enough."""

from __future__ import annotations

import pytest

from tests.conformance.drivers import DRIVERS

on_one_store = pytest.mark.parametrize("driver", [DRIVERS["memory"]], ids=["memory"], indirect=True, scope="session")
