# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.notification.certificates import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own making for 127.0.0.1 and right.example, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    make_certificate(path)
    return path
