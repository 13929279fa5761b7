# SPDX-License-Identifier: Apache-2.0
"""The store of a service whose configuration names none."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_app import POST, configured
from tests.unit.workers import CALLER, QUEUE_NAME
from zaqar import app, conf


def test_the_default_is_one_file_in_the_state_directory(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    parts = app.build(configured(state_dir=str(folder)))
    try:
        parts.messages.post(CALLER, QUEUE_NAME, POST)
        assert parts.queues.stats(QUEUE_NAME)[0].total == 1
        assert (folder / conf.DATABASE_NAME).is_file()
    finally:
        parts.close()
