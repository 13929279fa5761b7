# SPDX-License-Identifier: Apache-2.0
"""A process that has no open file left for one more connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from pathlib import Path

import pytest

from tests.unit.transport.websocket.scripted import Harness, ask, run, wait_until


def test_a_process_out_of_open_files_logs_it_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio alone would log a hundred tracebacks at a time, and more of them each second."""
    tries = []
    accept = socket.socket.accept

    def no_file(listener: socket.socket) -> None:
        tries.append(listener)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.1)
    monkeypatch.setattr("zaqar.transport.websocket.accepting._PAUSE_SECONDS", 0.09)

    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            monkeypatch.setattr(socket.socket, "accept", no_file)
            connecting = asyncio.create_task(harness.connect().__aenter__())
            began = time.monotonic()
            await wait_until(lambda: len(tries) >= 4)
            await asyncio.sleep(0.2)
            assert len(tries) <= 4 + 2 * (time.monotonic() - began) / 0.1
            assert await ask(client, text="x") == "x"
            monkeypatch.setattr(socket.socket, "accept", accept)
            late = await connecting
            assert await ask(late, text="y") == "y"
            await late.close()

    run(script, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "No connections are accepted at the moment: Too many open files (ulimit -n)."
    ]


def test_other_errors_of_the_loop_are_logged_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(harness: Harness) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "odd", "exception": OSError(errno.EIO, "odd")})

    run(script, tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["odd"]
