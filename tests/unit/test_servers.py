# SPDX-License-Identifier: Apache-2.0
"""Finding the programs of the servers that tests start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import servers


@pytest.mark.child_process
def test_a_program_on_path_is_called_by_the_name_it_was_found_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Like redis-server on Debian: a link to redis-check-rdb, which behaves according to the name it is called by.
    program = tmp_path / "check-tool"
    program.write_text('#!/bin/sh\nbasename "$0"\n')
    program.chmod(0o755)
    (tmp_path / "some-server").symlink_to("check-tool")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = servers.find("some-server", wheel="nosuch", inside="nosuch")
    assert subprocess.run([found], capture_output=True, text=True, check=True).stdout == "some-server\n"


def test_a_missing_program_is_reported() -> None:
    with pytest.raises(servers.ServerMissing, match="nosuch-server is neither on PATH nor in the wheel nosuch"):
        servers.find("nosuch-server", wheel="nosuch", inside="nosuch")
