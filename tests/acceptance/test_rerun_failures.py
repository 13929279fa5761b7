# SPDX-License-Identifier: Apache-2.0
"""The tests that are run once more, and the exit status then: pytest runs a folder of toy tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rerun_failures import MAX_TESTS

TOY = """
import pathlib
import pytest

def fails_once(name):
    file = pathlib.Path(__file__).parent / f"{name.encode().hex()}.seen"
    if not file.exists():
        file.touch()
        pytest.fail("the machine stood still")

@pytest.mark.parametrize("name", NAMES)
def test_toy(name):
    BODY
"""


@pytest.mark.parametrize(
    ("names", "body", "status", "again"),
    [
        (["a", "b@c", "d]"], "name == 'a' or fails_once(name)", 0, 2),
        (["a", "b"], "assert name == 'a'", 1, 1),
        ([str(n) for n in range(MAX_TESTS + 1)], "fails_once(name)", 1, 0),
    ],
    ids=["some fail once", "one fails", "many fail once"],
)
def test_a_failed_test_is_run_once_more(tmp_path: Path, names: list[str], body: str, status: int, again: int) -> None:
    (tmp_path / "test_toy.py").write_text(TOY.replace("NAMES", repr(names)).replace("BODY", body))
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.add_marker(pytest.mark.xdist_group('toys'))\n"
    )
    command = [sys.executable, "-m", "tests.rerun_failures", "-q", "-n", "1", "--dist", "loadgroup", "."]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.count("RUN AGAIN") == again
