# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zaqar import bell as bells
from zaqar.bell import Bell, Listener, listen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notifiers"


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    made = listen(folder)
    assert made is not None
    yield made
    made.close()


def rung(listener: Listener) -> bool:
    """Whether it was rung; takes the rings."""
    ready = bool(select.select([listener], [], [], 0)[0])
    listener.drain()
    assert not select.select([listener], [], [], 0)[0]
    return ready


def test_rung(folder: Path, listener: Listener) -> None:
    bell = Bell(folder)
    assert not rung(listener)
    bell.ring()
    assert rung(listener)


@pytest.mark.parametrize("mode", [None, 0o755, 0o777])
def test_the_socket_is_private(tmp_path: Path, mode: int | None) -> None:
    folder = tmp_path / "notifiers"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    before = os.umask(0)
    try:
        listener = listen(folder)
    finally:
        os.umask(before)
    assert listener is not None
    (made,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    Bell(folder).ring()
    assert rung(listener)
    listener.close()


def test_every_notifier_is_rung(folder: Path, listener: Listener) -> None:
    other = listen(folder)
    assert other is not None
    Bell(folder).ring()
    assert (rung(listener), rung(other)) == (True, True)
    other.close()


def test_nobody_there(folder: Path) -> None:
    Bell(folder).ring()


def test_a_full_listener_blocks_nobody(folder: Path, listener: Listener) -> None:
    bell = Bell(folder)
    for _ in range(10_000):
        bell.ring()
    assert rung(listener)


def test_a_new_notifier_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell(folder)
    bell.ring()
    listener = listen(folder)
    assert listener is not None
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + bells.LISTING_SECONDS)
    bell.ring()
    assert rung(listener)
    listener.close()


def test_one_that_has_gone_is_no_trouble(folder: Path, listener: Listener) -> None:
    gone = listen(folder)
    assert gone is not None
    bell = Bell(folder)
    bell.ring()
    rung(listener)
    gone.close()
    bell.ring()
    assert rung(listener)
    assert len(list(folder.iterdir())) == 1


def test_what_a_killed_notifier_left_is_removed(folder: Path, listener: Listener) -> None:
    program = f"import os, pathlib; from zaqar.bell import listen; listen(pathlib.Path({str(folder)!r})); os._exit(0)"
    subprocess.run([sys.executable, "-c", program], check=True)
    (folder / "note.sock").write_text("not a socket")
    assert len(list(folder.iterdir())) == 3
    Bell(folder).ring()
    assert rung(listener)
    another = listen(folder)
    assert another is not None
    assert len(list(folder.iterdir())) == 3
    Bell(folder).ring()
    assert rung(listener)
    another.close()


def test_threads(folder: Path, listener: Listener) -> None:
    bell = Bell(folder)
    threads = [threading.Thread(target=lambda: [bell.ring() for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rung(listener)


def test_after_a_fork(folder: Path, listener: Listener) -> None:
    bell = Bell(folder)
    pid = os.fork()
    if pid == 0:
        bell.ring()
        os._exit(0)
    os.waitpid(pid, 0)
    assert rung(listener)


def test_under_gevent(folder: Path, listener: Listener) -> None:
    program = (
        "from gevent import monkey; monkey.patch_all(); import pathlib; from zaqar.bell import Bell\n"
        f"bell = Bell(pathlib.Path({str(folder)!r}))\n"
        "for _ in range(100): bell.ring()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert rung(listener)


def test_a_folder_with_a_long_path(tmp_path: Path) -> None:
    """Longer than the path of a Unix socket may be."""
    folder = tmp_path / ("n" * 120) / "notifiers"
    listener = listen(folder)
    assert listener is not None
    Bell(folder).ring()
    assert rung(listener)
    again = listen(folder)
    assert again is not None
    assert len(list(folder.iterdir())) == 2
    again.close()
    listener.close()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with caplog.at_level(logging.WARNING):
        assert listen(file / "notifiers") is None
    assert "once a second" in caplog.text
    Bell(file / "notifiers").ring()
