# SPDX-License-Identifier: Apache-2.0
"""Entry points of packages that a test installs, by putting their metadata on the path."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from stevedore.extension import ExtensionManager

from zaqar import entry_points
from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy.store import SqlMessageStore

GROUP = "zaqar.storage.stages"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package whose module has the source, under a name in the group."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(package: str, name: str, source: str = "class plugin: pass\n") -> None:
        (tmp_path / f"{package}.py").write_text(source)
        metadata = tmp_path / f"{package}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {package}:plugin\n")

    return install


def test_our_own_drivers_are_installed() -> None:
    assert "sqlalchemy" in entry_points.installed("zaqar.data.storage")
    assert entry_points.load("zaqar.data.storage", "sqlalchemy") is SqlMessageStore


@pytest.mark.parametrize("group", ["zaqar.control.storage", "zaqar.data.storage", "zaqar.transport"])
def test_every_entry_point_of_ours_can_be_loaded(group: str) -> None:
    names = entry_points.installed(group)
    assert names
    for name in names:
        assert callable(entry_points.load(group, name))


def test_the_error_of_a_missing_entry_point_lists_the_installed_ones() -> None:
    with pytest.raises(StartupError) as caught:
        entry_points.load("zaqar.data.storage", "nosuch")
    assert str(caught.value).startswith("[drivers] message_store: there is no driver 'nosuch'; installed: ")
    assert "sqlalchemy" in str(caught.value)


def test_an_unknown_group_has_no_entry_points() -> None:
    with pytest.raises(StartupError, match=r"^zaqar\.nosuch: there is no plug-in 'x'; installed: none"):
        entry_points.load("zaqar.nosuch", "x")


def test_packages_installed_or_removed_meanwhile_are_noticed(install: Install, tmp_path: Path) -> None:
    before = entry_points.installed(GROUP)
    install("pack_late", "late")
    assert entry_points.installed(GROUP) == sorted([*before, "late"])
    shutil.rmtree(tmp_path / "pack_late-1.dist-info")
    assert entry_points.installed(GROUP) == before


def test_a_plugin_of_another_package_is_loaded(install: Install) -> None:
    install("pack_fine", "shout", "plugin = 'the plug-in'\n")
    assert entry_points.load(GROUP, "shout") == "the plug-in"


@pytest.mark.parametrize(
    ("package", "source", "complaint"),
    [
        ("pack_import", "import nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("pack_syntax", "plugin =\n", "SyntaxError"),
        ("pack_nothing", "other = 1\n", "AttributeError"),
    ],
)
def test_a_broken_plugin_stops_the_start(install: Install, package: str, source: str, complaint: str) -> None:
    install(package, "shout", source)
    with pytest.raises(StartupError, match=rf"message_pipeline: the stage 'shout' cannot be loaded: .*{complaint}"):
        entry_points.load(GROUP, "shout")


def test_two_packages_with_the_same_entry_point_stop_the_start(install: Install) -> None:
    install("pack_one", "shout")
    install("pack_two", "shout")
    with pytest.raises(StartupError, match="several installed packages have a stage 'shout'"):
        entry_points.load(GROUP, "shout")


@pytest.mark.parametrize(("name", "extra"), [("redis", "redis"), ("mongodb.fifo", "mongodb")])
def test_a_driver_without_its_library_says_what_to_install(name: str, extra: str) -> None:
    entry_point = EntryPoint(name, "zaqar.storage.some:Store", GROUP)
    with pytest.raises(entry_points._BrokenPlugin, match=rf"No module named 'lib' \(pip install 'zaqar\[{extra}\]'\)"):
        entry_points._refuse(None, entry_point, ModuleNotFoundError("No module named 'lib'"))
