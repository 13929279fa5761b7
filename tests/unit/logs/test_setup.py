# SPDX-License-Identifier: Apache-2.0
"""The set-up of the log, and above all the second one in the same process, at a reload."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zaqar import conf as configuration
from zaqar.errors import StartupError
from zaqar.logs import setup

NAME = "zaqar.test_setup"


@pytest.fixture
def set_up(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def load(text: str) -> None:
        path = tmp_path / "zaqar.conf"
        path.write_text(f"[DEFAULT]\n{text}\n")
        setup.set_up(configuration.load(["--config-file", str(path)]), "api")

    yield load
    load("")
    root.handlers[:] = before
    root.setLevel(level)


def test_a_level_that_is_no_longer_configured_is_forgotten(set_up: Callable[[str], None]) -> None:
    logger = logging.getLogger(NAME)
    set_up(f"default_log_levels = {NAME}=ERROR, sqlalchemy=WARN")
    assert logger.getEffectiveLevel() == logging.ERROR
    set_up("default_log_levels = sqlalchemy=WARN")
    assert logger.getEffectiveLevel() == logging.INFO
    set_up("default_log_levels = sqlalchemy=WARN\ndebug = True")
    assert logger.getEffectiveLevel() == logging.DEBUG
    assert logging.getLogger("sqlalchemy").level == logging.WARNING


def test_a_set_up_that_fails_changes_nothing(set_up: Callable[[str], None], tmp_path: Path) -> None:
    set_up(f"log_file = {tmp_path}/log\ndefault_log_levels = {NAME}=ERROR")
    before = list(logging.getLogger().handlers)
    for text in ("log_file = /nosuch/folder/log", "log_config_append = /nosuch"):
        with pytest.raises(StartupError):
            set_up(text)
        assert logging.getLogger().handlers == before
        assert logging.getLogger(NAME).level == logging.ERROR
    logging.getLogger(NAME).error("a record")
    assert "a record" in (tmp_path / "log").read_text()


def test_the_file_of_an_earlier_set_up_is_closed(set_up: Callable[[str], None], tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(5):
        set_up(f"log_file = {path}")
    opened = [name for name in Path("/proc/self/fd").iterdir() if os.path.realpath(name) == str(path)]
    assert len(opened) == 1
