# SPDX-License-Identifier: Apache-2.0
"""Servers that the tests of several files share, and the order of the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.acceptance.backends import Backend
from tests.acceptance.cloud import Cloud, running_cloud
from tests.acceptance.server import HTTP_COMMAND, Server, running
from tests.acceptance.service_on_store import Service, serving


@pytest.fixture(scope="session")
def service_on(backend: Backend | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service on a store, for tests with the mark ``each_store`` or ``every_backend``, which may kill processes."""
    with serving(backend, tmp_path_factory.mktemp("live")) as service:
        yield service


@pytest.fixture(scope="session")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service without options, for tests that do not change it and use projects of their own.

    Files that use it have ``RUNS_WITH = "plain_server"``, so that one process has all their tests.
    """
    with running(
        tmp_path_factory.mktemp("plain") / "state", options=("--workers", "2"), command=HTTP_COMMAND
    ) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The service of the fixture ``cloud``, which several files share."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def cloud(shared_cloud: Cloud) -> Cloud:
    """A Keystone and a service that uses it, with a project for this file.

    Files that use it have ``RUNS_WITH = "shared_cloud"``, so that one process has all their tests.
    """
    # Another file may have changed the URL of the service in Keystone since then.
    shared_cloud.keystone.set_endpoint(shared_cloud.server.url)
    return replace(shared_cloud, project=shared_cloud.keystone.new_project())


BEGUN_FIRST = ("test_server", "test_websocket_hostile", "test_hostile", "test_waits", "test_websocket_faults")
"""The files that take longest, mostly because they wait. Meanwhile other processes of the run take the other files."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in BEGUN_FIRST)
