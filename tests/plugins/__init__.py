# SPDX-License-Identifier: Apache-2.0
"""Installs plug-ins beside the service, as distributions of other authors with entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import stevedore._cache as stevedore_cache
from stevedore.extension import ExtensionManager

EntryPoints = Mapping[str, Mapping[str, str]]
"""Group -> name -> ``module:attribute``."""


def install(folder: Path, entry_points: EntryPoints, sources: Mapping[str, str], *, name: str = "acme") -> Path:
    """Write a distribution into a folder as ``pip install --target`` does. Returns the folder, for ``PYTHONPATH``."""
    folder.mkdir(exist_ok=True)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {target}" for point, target in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for file, source in sources.items():
        (folder / file).write_text(source)
    return folder


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find the distributions in the folder."""
    monkeypatch.syspath_prepend(str(folder))
    # Clear the caches of stevedore, in memory and on disk, which belong to another path.
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    monkeypatch.setattr(stevedore_cache._c, "_disable_caching", True)
    for file in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)


def environment_with(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the distributions in the folder."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
