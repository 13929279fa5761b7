# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zaqar.ipc import wakeup_socket
from zaqar.ipc.wakeup_socket import WakeupSender, WakeupSocket, open_wakeup_socket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notifiers"


@pytest.fixture
def listener(folder: Path) -> Iterator[WakeupSocket]:
    made = open_wakeup_socket(folder)
    assert made is not None
    yield made
    made.close()


def was_woken(listener: WakeupSocket) -> bool:
    """Whether a wakeup came; reads all of them."""
    ready = bool(select.select([listener], [], [], 0)[0])
    listener.drain()
    assert not select.select([listener], [], [], 0)[0]
    return ready


def test_a_wakeup_arrives(folder: Path, listener: WakeupSocket) -> None:
    sender = WakeupSender(folder)
    assert not was_woken(listener)
    sender.wake()
    assert was_woken(listener)


@pytest.mark.parametrize("mode", [None, 0o755, 0o777])
def test_the_socket_is_private(tmp_path: Path, mode: int | None) -> None:
    folder = tmp_path / "notifiers"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    before = os.umask(0)
    try:
        listener = open_wakeup_socket(folder)
    finally:
        os.umask(before)
    assert listener is not None
    (made,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    WakeupSender(folder).wake()
    assert was_woken(listener)
    listener.close()


def test_every_notifier_is_woken(folder: Path, listener: WakeupSocket) -> None:
    other = open_wakeup_socket(folder)
    assert other is not None
    WakeupSender(folder).wake()
    assert (was_woken(listener), was_woken(other)) == (True, True)
    other.close()


def test_nobody_there(folder: Path) -> None:
    WakeupSender(folder).wake()


def test_a_full_listener_blocks_nobody(folder: Path, listener: WakeupSocket) -> None:
    sender = WakeupSender(folder)
    for _ in range(10_000):
        sender.wake()
    assert was_woken(listener)


def test_a_new_notifier_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = WakeupSender(folder)
    sender.wake()
    listener = open_wakeup_socket(folder)
    assert listener is not None
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + wakeup_socket.LISTING_SECONDS)
    sender.wake()
    assert was_woken(listener)
    listener.close()


def test_one_that_has_gone_is_no_trouble(folder: Path, listener: WakeupSocket) -> None:
    gone = open_wakeup_socket(folder)
    assert gone is not None
    sender = WakeupSender(folder)
    sender.wake()
    was_woken(listener)
    gone.close()
    sender.wake()
    assert was_woken(listener)
    assert len(list(folder.iterdir())) == 1


def test_threads(folder: Path, listener: WakeupSocket) -> None:
    sender = WakeupSender(folder)
    threads = [threading.Thread(target=lambda: [sender.wake() for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert was_woken(listener)


@pytest.mark.child_process
def test_after_a_fork(folder: Path, listener: WakeupSocket) -> None:
    sender = WakeupSender(folder)
    pid = os.fork()
    if pid == 0:
        sender.wake()
        os._exit(0)
    os.waitpid(pid, 0)
    assert was_woken(listener)


def test_a_folder_with_a_long_path(tmp_path: Path) -> None:
    """Longer than the path of a Unix socket may be."""
    folder = tmp_path / ("n" * 120) / "notifiers"
    listener = open_wakeup_socket(folder)
    assert listener is not None
    WakeupSender(folder).wake()
    assert was_woken(listener)
    again = open_wakeup_socket(folder)
    assert again is not None
    assert len(list(folder.iterdir())) == 2
    again.close()
    listener.close()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with caplog.at_level(logging.WARNING):
        assert open_wakeup_socket(file / "notifiers") is None
    assert "once a second" in caplog.text
    WakeupSender(file / "notifiers").wake()
