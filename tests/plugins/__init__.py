# SPDX-License-Identifier: Apache-2.0
"""Plug-ins of other authors, as far as the service can tell: installed beside it, each with its entry points."""

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
    """Lay a distribution out in a folder as ``pip install --target`` does; the folder, for ``PYTHONPATH``."""
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
    """Make this process see what is installed in the folder."""
    monkeypatch.syspath_prepend(str(folder))
    # What stevedore remembers of this process and of others is of another path.
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    monkeypatch.setattr(stevedore_cache._c, "_disable_caching", True)
    for file in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)


def environment_with(folder: Path) -> dict[str, str]:
    """The environment of a process that sees what is installed in the folder."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
