# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock import FakeClock
from zaqar import app, conf, plugins
from zaqar.cmd import gc
from zaqar.context import Context
from zaqar.errors import StoreUnavailable
from zaqar.model import Address, Draft, Queue
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryMessageStore

QUEUE = Queue(uid="0" * 24, project="p", name="q")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command sets handlers of the process, which here is that of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path))
    return tmp_path


def fill(store: MessageStore, count: int, now: float) -> None:
    store.open_queue(queue=QUEUE, now=now)
    store.post(queue=QUEUE, drafts=[Draft(b"{}", ttl=60)] * count, client_id="c", now=now)


def test_sweep_goes_on_until_every_store_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "BATCH", 10)
    clock = FakeClock()
    stores = [MemoryMessageStore(), MemoryMessageStore()]
    for store in stores:
        fill(store, 25, clock())
    assert gc.sweep(stores, clock=clock, pause=lambda: None) == 0
    clock.advance(61)
    pauses: list[None] = []
    assert gc.sweep(stores, clock=clock, pause=lambda: pauses.append(None)) == 50
    assert len(pauses) >= 6
    assert gc.sweep(stores, clock=clock, pause=lambda: None) == 0


def test_once(state_dir: Path) -> None:
    parts = app.build(conf.load())
    (store,) = parts.stores()
    fill(store, 5, now=1000.0)
    parts.close()
    assert gc.main([]) == 0
    with sqlite3.connect(state_dir / "zaqar.db") as database:
        (left,) = database.execute("SELECT count(*) FROM messages").fetchone()
    database.close()
    assert left == 0


def test_subscriptions_that_are_over(state_dir: Path) -> None:
    parts = app.build(conf.load(), clock=lambda: 1000.0)
    body = b'{"subscriber":"mailto:a@example.org","ttl":60}'
    address = Address("p", "queue", "q")
    parts.subscriptions.create(Context("p", "c"), address, body)
    parts.close()
    assert gc.main([]) == 0
    parts = app.build(conf.load())
    row = parts.queues.row(address)
    parts.close()
    assert row is not None
    assert not row.notify
    with sqlite3.connect(state_dir / "zaqar.db") as database:
        (left,) = database.execute("SELECT count(*) FROM subscriptions").fetchone()
    database.close()
    assert left == 0


def test_every_goes_on_until_a_signal(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(SystemExit, match="0"):
        gc.main(["--every", "60"])
    assert slept == [60, 60, 60]


class Away(MemoryMessageStore):
    """A message store that is away; the management store is not."""

    def sweep(self, *, now: float, limit: int) -> int:
        raise StoreUnavailable


@pytest.fixture
def away(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda group, name: Away if group == "zaqar.data.storage" else load(group, name)
    )


@pytest.mark.usefixtures("away")
def test_once_with_a_store_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert gc.main([]) == 1
    assert capsys.readouterr().err.startswith("zaqar-gc: A store does not answer: ")


@pytest.mark.usefixtures("away")
def test_every_waits_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(SystemExit, match="0"):
        gc.main(["--every", "5"])
    assert slept == [5, 5, 5]


def test_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc.main(["--config-file", str(tmp_path / "absent.conf")]) == 1
    assert "absent.conf" in capsys.readouterr().err
