# SPDX-License-Identifier: Apache-2.0
"""What tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.backends import Backend
from tests.acceptance.live import Service, serving


@pytest.fixture(scope="session")
def service_on(backend: Backend | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service on a store, for tests with the mark ``each_store``, which may kill its processes."""
    with serving(backend, tmp_path_factory.mktemp("live")) as service:
        yield service
