# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.notification.certificates import make_certificate


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notifier looks at its stores, and writes what it could not write, ten times a second instead of once."""
    monkeypatch.setattr("zaqar.notification.pump.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("zaqar.notification.attempts.AGAIN_SECONDS", 0.1)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own making for 127.0.0.1 and right.example, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    make_certificate(path)
    return path
