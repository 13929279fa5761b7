# SPDX-License-Identifier: Apache-2.0
"""Runs pytest, and runs the failed tests once more, alone: ``python -m tests.rerun_failures OPTIONS PATHS``.

A busy machine can hold up processes for seconds. The second run has new fixtures and servers. Its output begins with a
line for each test, so that none is overlooked: each is a fault to be found, in the test or in the code.

pytest-rerunfailures does the same within one run, but with pytest-xdist every test that passes waits for it: the tests
of units took 190 s with it, and 100 s without.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

MAX_TESTS = 10
"""If more tests have failed, the machine is not the reason, and they are not run again."""

_GROUP = re.compile(r"@[^@\]]*$")
"""pytest-xdist adds the group of a test to its id."""


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; return the exit status of the last run."""
    with tempfile.TemporaryDirectory() as folder:
        cache = ("-o", f"cache_dir={folder}")
        status = _pytest(*cache, *arguments)
        found = Path(folder, "v", "cache", "lastfailed")
        if status != pytest.ExitCode.TESTS_FAILED or not found.exists():
            return status
        failed = sorted({_GROUP.sub("", name) for name in json.loads(found.read_text())})
        if len(failed) > MAX_TESTS:
            return status
        for name in failed:
            print(f"RUN AGAIN {name}", flush=True)
        return _pytest(*cache, "-q", *failed)


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
