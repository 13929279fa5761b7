# SPDX-License-Identifier: Apache-2.0
"""When a process is ready, and that asking for it never waits for a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zaqar.errors import StoreUnavailable
from zaqar.service import readiness
from zaqar.service.readiness import DISABLED, DRAIN, STORES, Readiness


@dataclass
class Store:
    """A store that answers, is away or is silent."""

    is_away: bool = False
    pings: int = 0
    answering: threading.Event = field(default_factory=threading.Event)

    def ping(self) -> None:
        self.pings += 1
        self.answering.wait()
        if self.is_away:
            raise StoreUnavailable


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(readiness, "PAUSE_SECONDS", 0.005)
    store = Store()
    store.answering.set()
    return store


def make(
    store: Store, folder: Path, *, includes_store: bool = False, is_draining: Callable[[], bool] = lambda: False
) -> Readiness:
    return Readiness(
        ping=store.ping,
        is_draining=is_draining,
        drain_file=folder / "draining",
        disable_file=folder / "disabled",
        includes_store=includes_store,
    )


def wait_until(ready: Readiness, *problems: str) -> None:
    deadline = time.monotonic() + 30
    while set(ready.problems()) != set(problems):
        assert time.monotonic() < deadline, ready.problems()
        time.sleep(0.002)


def test_a_process_is_ready_when_the_stores_have_answered_once(store: Store, tmp_path: Path) -> None:
    store.is_away = True
    ready = make(store, tmp_path)
    assert ready.problems() == {STORES: "The stores have not answered yet."}
    store.is_away = False
    wait_until(ready)


def test_an_outage_after_that_changes_nothing_and_the_stores_are_not_asked_again(store: Store, tmp_path: Path) -> None:
    ready = make(store, tmp_path)
    wait_until(ready)
    asked, store.is_away = store.pings, True
    assert [ready.problems() for _ in range(3)] == [{}] * 3
    assert store.pings == asked


def test_an_outage_counts_if_the_operator_wants_it(store: Store, tmp_path: Path) -> None:
    ready = make(store, tmp_path, includes_store=True)
    wait_until(ready)
    store.is_away = True
    wait_until(ready, STORES)
    assert ready.problems() == {STORES: "A store does not answer."}
    store.is_away = False
    wait_until(ready)


def test_the_stores_are_not_asked_while_nobody_probes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "UNUSED_SECONDS", 0.01)
    ready = make(store, tmp_path, includes_store=True)
    ready.problems()
    watch = ready._watch
    assert watch is not None
    watch.join(30)
    assert not watch.is_alive()
    # The first probe after that does not repeat an old answer.
    store.is_away = True
    assert set(ready.problems()) == {STORES}


def test_probes_of_a_silent_store_do_not_wait_and_hold_one_thread(store: Store, tmp_path: Path) -> None:
    store.answering.clear()
    ready = make(store, tmp_path)
    assert [set(ready.problems()) for _ in range(50)] == [{STORES}] * 50
    assert store.pings <= 1
    store.answering.set()
    wait_until(ready)


@pytest.mark.parametrize(("name", "problem"), [("draining", DRAIN), ("disabled", DISABLED)])
def test_a_file_makes_the_process_unready_while_it_exists(
    store: Store, tmp_path: Path, name: str, problem: str
) -> None:
    ready = make(store, tmp_path)
    wait_until(ready)
    (tmp_path / name).touch()
    assert set(ready.problems()) == {problem}
    (tmp_path / name).unlink()
    assert ready.problems() == {}


def test_a_process_that_drains_is_not_ready(store: Store, tmp_path: Path) -> None:
    ready = make(store, tmp_path, is_draining=lambda: True)
    wait_until(ready, DRAIN)


def test_an_error_that_nobody_expected_is_logged_and_is_no_answer(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bugs = iter([ZeroDivisionError()])

    def ping() -> None:
        for bug in bugs:
            raise bug
        store.ping()

    ready = Readiness(
        ping=ping, is_draining=lambda: False, drain_file=tmp_path / "d", disable_file=None, includes_store=False
    )
    assert set(ready.problems()) == {STORES}
    wait_until(ready)
    assert "ZeroDivisionError" in caplog.text
