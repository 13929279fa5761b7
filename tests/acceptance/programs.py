# SPDX-License-Identifier: Apache-2.0
"""Programs that some tests need and that no package of Python brings."""

from __future__ import annotations

import os
import shutil

import pytest


def find(*names: str, package: str) -> str:
    """The first of these programs; the test is skipped without it, but not in CI, where it has to be there."""
    # Debian has servers in a folder that is not on everybody's PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    reason = f"no {names[0]} on PATH; Debian has it as the package {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
