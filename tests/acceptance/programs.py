# SPDX-License-Identifier: Apache-2.0
"""Finds programs that some tests need and that no Python package contains."""

from __future__ import annotations

import os
import shutil

import pytest


def find(*names: str, package: str) -> str:
    """The path of the first of these programs that exists. Without one the test is skipped, or fails in CI."""
    # Debian installs servers in a folder that is not on every user's PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    reason = f"no {names[0]} on PATH; Debian has it as the package {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
