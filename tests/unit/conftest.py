# SPDX-License-Identifier: Apache-2.0
"""Unit tests are pure: they start no process, open no database file, and connect to this machine only.

A test with the mark ``child_process`` may fork or start a program of the system that ends at once, if processes are its
subject. A test that starts an interpreter is in tests/acceptance.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

_PROCESSES = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_OF_THIS_MACHINE = ("127.", "::1", "localhost")

_is_unit_test = False
_found: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what a unit test may not do. Python calls it for each event in each thread, so it is short."""
    if not _is_unit_test:
        return
    if event in _PROCESSES:
        _found.append(f"{event} {arguments[0] if arguments else ''}")
    elif event == "sqlite3.connect" and ":memory:" not in str(arguments[0]):
        _found.append(f"{event} {arguments[0]}")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
        if not host.startswith(_OF_THIS_MACHINE):
            _found.append(f"{event} {host}")


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """pytest calls this for the tests of this folder only."""
    global _is_unit_test
    _is_unit_test = True
    try:
        return (yield)
    finally:
        _is_unit_test = False


@pytest.fixture(autouse=True)
def _is_pure(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    _found.clear()
    yield
    allowed = _PROCESSES if request.node.get_closest_marker("child_process") else set()
    _found[:] = [event for event in _found if event.partition(" ")[0] not in allowed]
    assert not _found, "A unit test has started a process, opened a database file or left this machine."
