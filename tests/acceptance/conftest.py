# SPDX-License-Identifier: Apache-2.0
"""What tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.backends import Backend
from tests.acceptance.server import HTTP_COMMAND, Server, running
from tests.acceptance.service_on_store import Service, serving


@pytest.fixture(scope="session")
def service_on(backend: Backend | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service on a store, for tests with the mark ``each_store``, which may kill its processes."""
    with serving(backend, tmp_path_factory.mktemp("live")) as service:
        yield service


@pytest.fixture(scope="session")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service without options, for tests that leave it as it is and have projects of their own.

    Files that use it have ``RUNS_WITH = "plain_server"``, so that one process has all their tests.
    """
    with running(
        tmp_path_factory.mktemp("plain") / "state", options=("--workers", "2"), command=HTTP_COMMAND
    ) as server:
        yield server
