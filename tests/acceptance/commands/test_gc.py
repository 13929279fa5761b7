# SPDX-License-Identifier: Apache-2.0
"""``zaqar-gc``: sweeps, stores that are away or busy, and re-encryption."""

from __future__ import annotations

import contextlib
import logging
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar import app, conf, entry_points
from zaqar.cmd import gc
from zaqar.context import Context
from zaqar.encryption import keys as encryption_keys
from zaqar.errors import StoreUnavailable
from zaqar.metrics.recorder import SAMPLE_SECONDS
from zaqar.model import Draft, Queue, QueueName, Swept
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.pools import StoreRef

QUEUE = Queue(uid="0" * 24, project="p", name="q")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command sets signal handlers of the test process. Restore them afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path))
    return tmp_path


def fill(store: MessageStore, count: int, now: float) -> None:
    store.queues.open(queue=QUEUE, now=now)
    store.messages.post(queue=QUEUE, drafts=[Draft(b"{}", ttl=60)] * count, client_id="c", now=now)


class Store(MemoryMessageStore):
    """A store whose sweep removes ``each`` rows, or as many as allowed. It blocks while ``silent`` is clear."""

    def __init__(self, each: int | None = 0) -> None:
        super().__init__()
        self.each = each
        self.sweeps = 0
        self.silent = threading.Event()
        self.silent.set()

    def sweep(self, *, now: float, limit: int) -> Swept:
        self.sweeps += 1
        self.silent.wait()
        return Swept(limit if self.each is None else self.each)


class Pool(StoreRef):
    store: MessageStore = None  # type: ignore[assignment]

    def __init__(self, name: str, store: MessageStore) -> None:
        self.name = name
        self.store = store


def make_sweeper(*stores: MessageStore, share: float = 0.2, tidied: tuple[int, bool] = (0, True)) -> gc.Sweeper:
    pools = [Pool(f"p{number}", store) for number, store in enumerate(stores)]
    return gc.Sweeper(
        tidy=lambda: tidied,
        store_refs=lambda: pools,
        clock=FakeClock(),
        pause=lambda: None,
        share_seconds=share,
        round_seconds=5 * share,
    )


def test_a_sweep_goes_on_until_the_store_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "BATCH", 10)
    clock = FakeClock()
    store = MemoryMessageStore()
    fill(store, 25, clock())
    assert gc.sweep(store, clock=clock, pause=lambda: None, seconds=60) == (0, True)
    clock.advance(61)
    pauses: list[None] = []
    assert gc.sweep(store, clock=clock, pause=lambda: pauses.append(None), seconds=60) == (25, True)
    assert len(pauses) == 2
    assert gc.sweep(store, clock=clock, pause=lambda: None, seconds=60) == (0, True)


@pytest.mark.parametrize(("most", "seconds", "sweeps"), [(3 * gc.BATCH, 60, 3), (1, 60, 1), (10**9, 0, 1)])
def test_a_sweep_of_a_busy_store_ends_after_its_share(most: int, seconds: float, sweeps: int) -> None:
    store = Store(each=None)
    removed, is_clean = gc.sweep(store, clock=FakeClock(), pause=lambda: None, most=most, seconds=seconds)
    assert (removed, is_clean, store.sweeps) == (sweeps * gc.BATCH, False, sweeps)


@pytest.mark.parametrize("each", [1, 17, gc.BATCH - 1])
def test_a_sweep_ends_when_the_store_removes_less_than_a_batch(each: int) -> None:
    store = Store(each=each)
    assert gc.sweep(store, clock=FakeClock(), pause=lambda: None, seconds=60) == (each, True)
    assert store.sweeps == 1


def test_a_busy_store_does_not_keep_the_sweeper_from_the_others() -> None:
    busy, quiet = Store(each=None), [Store(), Store()]
    sweeper = make_sweeper(busy, *quiet)
    for rounds in (1, 2, 3):
        assert sweeper.sweep_round() is False
        assert [store.sweeps for store in quiet] == [rounds, rounds]
    busy.each = 0
    assert sweeper.sweep_round() is True


def test_a_silent_store_does_not_delay_the_others() -> None:
    silent, busy, quiet = Store(), Store(each=None), Store()
    sweeper = make_sweeper(silent, busy, quiet)
    silent.silent.clear()
    began = time.monotonic()
    assert sweeper.sweep_round() is False
    first = time.monotonic() - began
    before = busy.sweeps
    for _ in range(3):
        assert sweeper.sweep_round() is False
    # Only the first round waits for the silent store. Later rounds do not ask it again.
    assert time.monotonic() - began - first < 3 * first
    assert silent.sweeps == 1
    assert quiet.sweeps == 4
    assert busy.sweeps > before
    busy.each = 0
    with pytest.raises(StoreUnavailable):
        sweeper.sweep_round()
    silent.silent.set()
    end = time.monotonic() + 10
    while silent.sweeps < 2 and time.monotonic() < end:
        with contextlib.suppress(StoreUnavailable):
            sweeper.sweep_round()
    assert sweeper.sweep_round() is True


def test_stores_that_are_away_are_named_at_the_end_of_a_round(caplog: pytest.LogCaptureFixture) -> None:
    busy = Store(each=None)
    sweeper = make_sweeper(Away(), busy, Away())
    # The driver itself logs the beginning and the end of an outage.
    with caplog.at_level(logging.DEBUG):
        assert sweeper.sweep_round() is False
    assert [name for name in ("p0", "p1", "p2") if f"'{name}' is away" in caplog.text] == ["p0", "p2"]
    busy.each = 5
    with pytest.raises(StoreUnavailable):
        sweeper.sweep_round()


def test_many_expired_subscriptions_do_not_keep_the_sweeper_from_the_messages() -> None:
    store = Store()
    sweeper = make_sweeper(store, tidied=(10_000, False))
    for rounds in (1, 2):
        assert sweeper.sweep_round() is False
        assert store.sweeps == rounds


def test_a_fault_is_not_hidden() -> None:
    class Faulty(MemoryMessageStore):
        def sweep(self, *, now: float, limit: int) -> Swept:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_sweeper(Faulty()).sweep_round()


def test_the_command_sweeps_once_by_default(state_dir: Path) -> None:
    parts = app.build(conf.load())
    (store,) = parts.stores()
    fill(store, 5, now=1000.0)
    parts.close()
    assert gc.main([]) == 0
    with sqlite3.connect(state_dir / "zaqar.db") as database:
        (left,) = database.execute("SELECT count(*) FROM messages").fetchone()
    database.close()
    assert left == 0


def test_the_command_removes_expired_subscriptions(state_dir: Path) -> None:
    parts = app.build(conf.load(), clock=lambda: 1000.0)
    body = b'{"subscriber":"mailto:a@example.org","ttl":60}'
    queue_name = QueueName("p", "queue", "q")
    parts.subscriptions.create(Context("p", "c"), queue_name, body)
    parts.close()
    assert gc.main([]) == 0
    parts = app.build(conf.load())
    row = parts.queues.row(queue_name)
    parts.close()
    assert row is not None
    assert not row.notify
    with sqlite3.connect(state_dir / "zaqar.db") as database:
        (left,) = database.execute("SELECT count(*) FROM subscriptions").fetchone()
    database.close()
    assert left == 0


class Pauses:
    """The clock and the sleep of the command. After some seconds of sleep it gets a signal."""

    def __init__(self, seconds: float, number: signal.Signals) -> None:
        self.slept: list[float] = []
        self._seconds = seconds
        self._number = number

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if sum(self.slept) >= self._seconds:
            signal.raise_signal(self._number)


def test_with_every_the_command_sweeps_until_a_signal(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses(180, signal.SIGTERM)
    monkeypatch.setattr(gc, "time", pauses)
    swept = []
    sweep_round = gc.Sweeper.sweep_round
    monkeypatch.setattr(
        gc.Sweeper, "sweep_round", lambda sweeper: (swept.append(pauses.monotonic()), sweep_round(sweeper))[1]
    )
    # Without the fixture the handler would end the process of the tests.
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit, match="0"):
        gc.main(["--every", "60"])
    assert swept == [0, 60, 120]
    # Between the sweeps it reports that it is alive.
    assert max(pauses.slept) == SAMPLE_SECONDS


class Away(MemoryMessageStore):
    """A message store that is unavailable, beside a management store that works."""

    def sweep(self, *, now: float, limit: int) -> Swept:
        raise StoreUnavailable


@pytest.fixture
def away(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = entry_points.load

    def load_away(group: str, name: str, **more: str) -> Any:
        return Away if group == "zaqar.data.storage" else load(group, name, **more)

    monkeypatch.setattr(entry_points, "load", load_away)


@pytest.mark.usefixtures("away")
def test_a_single_sweep_fails_if_a_store_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert gc.main([]) == 1
    assert capsys.readouterr().err.startswith("zaqar-gc: A store does not answer: ")


@pytest.mark.usefixtures("away")
def test_with_every_the_command_goes_on_while_a_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses(15, signal.SIGINT)
    monkeypatch.setattr(gc, "time", pauses)
    # Without the fixture the handler would end the process of the tests.
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit, match="0"):
        gc.main(["--every", "5"])
    assert pauses.slept == [5, 5, 5]


def test_an_absent_configuration_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc.main(["--config-file", str(tmp_path / "absent.conf")]) == 1
    assert "absent.conf" in capsys.readouterr().err


# -- re-encryption -----------------------------------------------------------------------------------------------------


def configure(folder: Path, *lines: str) -> list[str]:
    path = folder / "zaqar.conf"
    path.write_text("\n".join(["[transport]", *lines, ""]))
    return ["--config-file", str(path)]


def test_reencrypt_rewrites_bodies_and_reports_how_many_are_left(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, lost = ("hex:" + digit * 64 for digit in "123")
    queue_name = QueueName("p", "queue", "q")

    def post(key: str, arguments: list[str]) -> None:
        configuration = conf.load(arguments)
        configuration.set_override("message_encryption_key", key, "transport")
        parts = app.build(configuration)
        parts.queues.create(queue_name, b'{"_enable_encrypt_messages": true}')
        parts.messages.post(Context("p", "c" * 32), queue_name, b'{"messages": [{"body": 1}, {"body": 2}]}')
        parts.close()

    post(old, configure(state_dir))
    rotated = configure(state_dir, f"message_encryption_key = {new}", f"message_encryption_old_keys = {old}")
    assert gc.main(["--reencrypt", *rotated]) == 0
    told = capsys.readouterr().out
    assert "The configured message store: 2 bodies were encrypted again." in told
    newest = encryption_keys.load(conf.load(rotated)).ids[0]
    assert f"Every encrypted body has the key {newest}." in told
    # The old key can be removed.
    parts = app.build(conf.load(configure(state_dir, f"message_encryption_key = {new}")))
    assert [message.body for message in parts.messages.prepare_pop(queue_name, limit=10).answer_now().messages] == [
        b"1",
        b"2",
    ]
    parts.close()
    post(lost, rotated)
    assert gc.main(["--reencrypt", *rotated]) == 1
    told = capsys.readouterr().out
    assert "0 bodies were encrypted again" in told
    assert "2 bodies with the key" in told
    assert "Keep the old keys" in told
    assert all(key[4:] not in told for key in (old, new, lost))


def test_reencrypt_needs_a_key(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc.main(["--reencrypt", *configure(state_dir, "message_encryption_key = AES256")]) == 1
    assert "openssl rand" in capsys.readouterr().err
