# SPDX-License-Identifier: Apache-2.0
"""Settings of all test tiers, and the start of the servers that the collected tests need."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import servers

# A shared machine has slow moments: no test is judged by the time one example takes.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


def pytest_collection_finish(session: pytest.Session) -> None:
    """All at once, while the first tests run: whoever needs one waits for it."""
    drivers = [item.callspec.params.get("driver") for item in session.items if hasattr(item, "callspec")]
    servers.start_shared({driver.server for driver in drivers if getattr(driver, "server", None)})
