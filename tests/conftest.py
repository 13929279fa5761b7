# SPDX-License-Identifier: Apache-2.0
"""Settings of all test tiers, and the start of the servers that the collected tests need."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import servers

# In a common state directory, which is also the user's, the processes of a run would wake each other's clients.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="zaqar-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
# Many servers run at a time. Each shows its metrics at any free port, which is in a file of its state directory.
os.environ["OS_METRICS__BIND"] = "127.0.0.1:0"

# A shared machine is slow at times, so Hypothesis has no deadline for an example.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from the collected tests, which are hundreds of thousands of objects.

    None of them is garbage. A full collection takes a fifth of a second with them, and a millisecond without.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one driver run in one process of several (pytest-xdist), so that its server is started once.

    Other tests run in one process with those of their file, or of the file that ``RUNS_WITH`` of their module names.
    """
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        store = params.get("driver") or params.get("backend")
        of_module = getattr(getattr(item, "module", None), "RUNS_WITH", item.path.stem)
        item.add_marker(pytest.mark.xdist_group(getattr(store, "name", None) or of_module))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start all servers at once while the first tests run. A test that needs one waits for it.

    With pytest-xdist each process starts its servers when a test asks for them. ``VIRTUALENVS`` of a module are the
    environments that its tests need; each is made once for all processes.
    """
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        for virtualenv in getattr(module, "VIRTUALENVS", ()):
            virtualenv.begin()
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    drivers = [item.callspec.params.get("driver") for item in session.items if hasattr(item, "callspec")]
    servers.start_shared({driver.server for driver in drivers if getattr(driver, "server", None)})


@pytest.fixture(autouse=True)
def _handlers_of_pytest_stay_as_they_are() -> Iterator[None]:
    """A test that sets up the log of the service changes every handler, also those with which pytest collects records."""
    before = [(each, each.formatter, list(each.filters)) for each in logging.root.handlers]
    yield
    for handler, formatter, filters in before:
        handler.formatter, handler.filters = formatter, filters
