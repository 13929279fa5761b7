# SPDX-License-Identifier: Apache-2.0
"""A command that fails after it has opened its database or started its first process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cmd.test_failures import COMMANDS, handlers, run_with, state_dir
from zaqar import app

__all__ = ["handlers", "state_dir"]


@pytest.mark.parametrize("command", ["zaqar-server", "zaqar-websocket", "zaqar-notifier", "zaqar-gc"])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"log_file = /nosuch/folder/zaqar.log\n", "[DEFAULT] log_file, log_dir: /nosuch/folder/zaqar.log cannot be "),
        (b"log_config_append = /nosuch.ini\n", "[DEFAULT] log_config_append: /nosuch.ini cannot be used: "),
    ],
)
def test_a_log_that_cannot_be_written(
    command: str, text: bytes, complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_with(command, text, tmp_path) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{command}: {complaint}")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unexpected_error_of_a_driver_shows_its_traceback(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("a surprise of the driver")

    monkeypatch.setattr(app, "build", fail)
    monkeypatch.setattr("zaqar.storage.sqlalchemy.client.database.Database.open", fail)
    assert run_with(command, b"", tmp_path) == 1
    error = capfd.readouterr().err
    assert "Traceback" in error and ", in fail" in error
    last = error.splitlines()[-1]
    assert last.startswith(f"{command}: An unexpected error, whose traceback is above: LookupError: a surprise")
