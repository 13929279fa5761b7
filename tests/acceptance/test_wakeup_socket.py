# SPDX-License-Identifier: Apache-2.0
"""Wakeup sockets of a process that was killed, and wakeups from a process that gevent patched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.ipc.test_wakeup_socket import folder, listener, was_woken
from zaqar.ipc.wakeup_socket import WakeupSender, WakeupSocket, open_wakeup_socket

__all__ = ["folder", "listener"]


def test_what_a_killed_notifier_left_is_removed(folder: Path, listener: WakeupSocket) -> None:
    program = (
        "import os, pathlib; from zaqar.ipc.wakeup_socket import open_wakeup_socket\n"
        f"open_wakeup_socket(pathlib.Path({str(folder)!r})); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    (folder / "note.sock").write_text("not a socket")
    assert len(list(folder.iterdir())) == 3
    WakeupSender(folder).wake()
    assert was_woken(listener)
    another = open_wakeup_socket(folder)
    assert another is not None
    assert len(list(folder.iterdir())) == 3
    WakeupSender(folder).wake()
    assert was_woken(listener)
    another.close()


def test_under_gevent(folder: Path, listener: WakeupSocket) -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import pathlib; from zaqar.ipc.wakeup_socket import WakeupSender\n"
        f"sender = WakeupSender(pathlib.Path({str(folder)!r}))\n"
        "for _ in range(100): sender.wake()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert was_woken(listener)
