# SPDX-License-Identifier: Apache-2.0
"""``zaqar-notifier`` as a command, in this process; real processes are in the acceptance tests."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.notification.harness import Harness, ScriptedSender
from zaqar import entry_points
from zaqar.cmd import notifier
from zaqar.errors import StoreUnavailable
from zaqar.model import DONE, Posted
from zaqar.storage.memory import MemoryMessageStore


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restores the signal handlers, because the command runs in the process of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """The stores that the command opens."""
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path))
    harness = Harness()
    harness.clock.now = 1e12
    found: dict[str, object] = {
        "zaqar.control.storage": type("Management", (), {"from_settings": lambda settings: harness.management}),
        "zaqar.data.storage": type("Messages", (), {"from_settings": lambda settings: harness.store}),
        "zaqar.notification.tasks": ScriptedSender,
    }
    load = entry_points.load
    monkeypatch.setattr("zaqar.entry_points.load", lambda group, name, **kw: found.get(group) or load(group, name))
    return harness


def when(condition: Callable[[], object], number: signal.Signals) -> threading.Thread:
    """Send the signal to this process once the condition is true."""

    def wait() -> None:
        while not condition():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_notifier_sends_until_a_signal(
    harness: Harness, number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.clock.now = 0.0
    harness.subscribe(expires=1e12)
    harness.post(1)
    thread = when(lambda: harness.deliveries(state=DONE), number)
    assert notifier.main([]) == 0
    thread.join()
    assert not list((tmp_path / "notifiers").iterdir())
    log = capsys.readouterr().err
    assert " has started." in log
    assert "deliveries: 1 delivered." in log


class Away(MemoryMessageStore):
    def __init__(self) -> None:
        super().__init__()
        self.tries = 0
        self.outbox.take = self._fail  # type: ignore[method-assign]

    def _fail(self, **_: object) -> list[Posted]:
        self.tries += 1
        raise StoreUnavailable


def test_a_store_that_is_away_is_waited_for(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    harness.store = store = Away()
    thread = when(lambda: store.tries == 2, signal.SIGTERM)
    assert notifier.main([]) == 0
    thread.join()
    assert capsys.readouterr().err.count("The message store is away") == 1


def test_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert notifier.main(["--config-file", str(tmp_path / "absent.conf")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("zaqar-notifier: ")
    assert "absent.conf" in error


@pytest.mark.usefixtures("harness")
def test_an_entry_point_that_is_no_sender_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = entry_points.load
    monkeypatch.setattr(
        "zaqar.entry_points.load",
        lambda group, name, **kw: object if group == "zaqar.notification.tasks" else load(group, name, **kw),
    )
    assert notifier.main([]) == 1
    assert "'http' of zaqar.notification.tasks is not a subclass" in capsys.readouterr().err


def test_help_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        notifier.main(["--help"])
    text = capsys.readouterr().out
    for word in ("TERM", "--config-file", "--version", "zaqar-server"):
        assert word in text
